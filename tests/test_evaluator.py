"""Rows of single examples against closed forms: densities in stored units, masses of bins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_parts import exact_parts, integer_data, model_log_p, real_data
from stats import assert_mean

from sdejax import prediction, processes
from sdejax.evaluator import Options, conditions, evaluator, moved, options_of

KEY = jax.random.key(0)


def rows(data, options, n=None):
    one = evaluator(exact_parts(), data, options)
    x = jnp.asarray(data.x[:n])
    run = jax.jit(jax.vmap(one, in_axes=(None, None, None, 0, 0, None)))
    return run(None, None, KEY, x, jnp.arange(len(x)), None)


EXACT = Options(trace="exact", tolerance=1e-6)


def test_real_data_have_a_density_in_their_own_units():
    """log p(x) = log p(y) - sum log scale, with y = (x - offset)/scale."""
    data, y = real_data()
    expected = model_log_p(y) - np.sum(np.log([2.0, 0.5, 10.0]))
    found = rows(data, EXACT)
    np.testing.assert_allclose(found.log_p, expected, atol=3e-4)
    np.testing.assert_allclose(found.bits_per_dim, -expected / (3 * np.log(2)), atol=2e-4)
    assert np.all(found.standard_error == 0)
    assert np.all(found.result == 0)


def test_integers_have_the_probability_of_their_bin():
    """Where the density is flat over a bin: log P = log p + log of the bin's width, each entry."""
    data, y, scale = integer_data()
    expected = model_log_p(y) - 3 * np.log(scale)
    for samples in (1, 4):
        found = rows(data, EXACT._replace(samples=samples))
        np.testing.assert_allclose(found.log_p, expected, atol=2e-2)
        assert np.all(found.nfe > 20 * samples)


def test_probes_scatter_about_the_exact_trace_by_their_error():
    data, _ = real_data(1)
    data = data.__class__("x", "test", np.repeat(data.x, 400, 0), data.scaling)
    exact = rows(data, EXACT, 1)
    found = rows(data, Options(trace="gaussian", probes=4))
    assert_mean(np.asarray(found.log_p) - float(exact.log_p[0]), 0.0)
    assert_mean((found.log_p - exact.log_p[0]) ** 2 - found.standard_error**2, 0.0)


@pytest.mark.parametrize("method", ["elbo", "chain"])
def test_bounds_lie_below_the_density_of_the_exact_model(method):
    """For real data in the mean; exact score, so the gap is that of the decoder and the levels."""
    data, y = real_data(64)
    found = rows(data, Options(method=method, draws=64, levels=1000))
    gap = model_log_p(y) - np.sum(np.log([2.0, 0.5, 10.0])) - np.asarray(found.log_p)
    error = gap.std() / np.sqrt(64)
    assert -5 * error < gap.mean() < 1.5
    assert np.all(found.nfe == (64 if method == "elbo" else 999))


def test_the_chain_needs_no_noise_in_the_bins():
    """Its decoder gives the bins their mass: below the model's, by little where bins are as wide
    as the noise at t_min, which is as fine as the chain tells data apart."""
    data, y, scale = integer_data(64, 801)
    expected = model_log_p(y) - 3 * np.log(scale)
    gap = expected - np.asarray(rows(data, Options(method="chain", levels=1000)).log_p)
    assert -5 * gap.std() / 8 < gap.mean() < 2.5


BAD = [
    ({"method": "odes"}, "did you mean 'ode'"),
    ({"trace": "hutchinson"}, "trace: got 'hutchinson'"),
    ({"cutoff": "none"}, "cutoff: got 'none'"),
    ({"probes": 0}, "probes=0"),
    ({"draws": 0}, "draws: got 0"),
    ({"samples": 0}, "samples: got 0"),
    ({"tolerance": 0.0}, "tolerance: got 0"),
    ({"samples": 4}, "is no bound"),
    ({"samples": 4, "method": "elbo", "trace": "exact"}, "is no bound"),
    ({"t_min": 2.0}, "t_min: got 2.0"),
    ({"trace": "orthogonal", "probes": 9}, "9 probes for 3 entries"),
    ({"t_min": 0.0}, "expected 0 < t_min"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=lambda v: str(v)[:30])
def test_options_that_do_not_fit_are_named(options, message):
    data, _, _ = integer_data()
    with pytest.raises(ValueError, match=message):
        evaluator(exact_parts(), data, Options(**options))


def test_a_prediction_that_is_singular_at_an_end_is_refused():
    data, _, _ = integer_data()
    parts = exact_parts(processes.rectified_flow())
    parts = parts._replace(model=parts.model._replace(prediction=prediction.eps))
    with pytest.raises(ValueError, match=r"prediction 'eps': got t=1\.0 with alpha=0"):
        evaluator(parts, data, Options())


def test_real_data_take_no_dequantiser():
    data, _ = real_data()
    with pytest.raises(ValueError, match="real numbers"):
        evaluator(exact_parts(), data, Options(trace="exact", samples=2))


def test_unknown_options_name_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'tolerance'"):
        options_of(tolerence=1e-3)
    assert options_of(probes=2) == Options(probes=2)


def test_conditions_come_from_the_data_or_stand_for_none():
    data, _, _ = integer_data()
    parts = exact_parts()
    assert conditions(parts, data) is None
    with pytest.raises(ValueError, match="not conditional"):
        conditions(parts, data, 1)
    parts = parts._replace(num_classes=3)
    np.testing.assert_array_equal(conditions(parts, data), np.full(6, 3))
    np.testing.assert_array_equal(conditions(parts, data, 1), np.full(6, 1))
    with pytest.raises(ValueError, match="expected 0 to 2, or 3"):
        conditions(parts, data, 4)


def test_another_end_of_the_process():
    assert moved(processes.vp(), None).t_min == 1e-3
    assert moved(processes.vp(), 1e-4).t_min == 1e-4
