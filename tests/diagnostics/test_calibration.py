"""A posterior mean is calibrated; planted defects show with the size they have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import DEFECTS, MIXTURE, assert_near, draws, exact, gaussian, means, scaled

from sdejax import diagnostics, processes
from sdejax.diagnostics import calibration

TS = (0.02, 0.1, 0.3, 0.7)


@pytest.mark.parametrize("name", ["vp", "ve", "rectified_flow"])
def test_the_exact_score_is_calibrated(x64, name):
    sde, dist = getattr(processes, name)(), MIXTURE()
    ts = diagnostics.times(sde, 5)
    denoiser = exact(dist, sde)
    found = jax.jit(
        lambda x0: calibration(jax.random.key(1), denoiser, sde, x0, ts, exact=denoiser)
    )(draws(dist, 3000))
    assert_near(found.slope, 1.0)
    assert_near(found.gap, 0.0)
    np.testing.assert_allclose(found.excess.value, 0.0, atol=1e-20)
    np.testing.assert_allclose(found.irreducible.value, found.mse.value, rtol=1e-12)
    assert np.all(found.gap.error < 0.1)


@pytest.mark.parametrize("name", DEFECTS)
def test_defects_have_the_size_they_should(x64, name):
    sde, dist, ts = processes.vp(), gaussian(), jnp.asarray(TS)
    found = calibration(
        jax.random.key(2), DEFECTS[name](dist, sde), sde, draws(dist, 4000), ts,
        exact=exact(dist, sde),
    )  # fmt: skip
    expected = [means(name, sde, t) for t in TS]
    norm, overlap, excess = (np.asarray(column) for column in zip(*expected, strict=True))
    best = np.asarray([means("exact", sde, t).norm for t in TS])
    assert_near(found.norm, norm)
    assert_near(found.slope, overlap / norm)
    assert_near(found.gap, 2.0 * (norm - overlap))
    assert_near(found.excess, excess)
    assert_near(found.irreducible, 1.0 - best)
    assert_near(found.mse, 1.0 - best + excess)
    if name != "exact":
        off = np.abs(np.asarray(found.gap.value)) / np.asarray(found.gap.error)
        assert np.max(off) > 10, off  # twice what chance is allowed


def test_a_scaled_score_of_a_skewed_mixture(x64):
    """The slope says by what to multiply, and the excess is known: c^2 E|eps*|^2."""
    sde, dist, ts = processes.vp(), MIXTURE(), jnp.asarray(TS)
    found = calibration(
        jax.random.key(3), scaled(dist, sde), sde, draws(dist, 3000), ts, exact=exact(dist, sde)
    )
    assert_near(found.slope, 1.0 / 1.2)
    np.testing.assert_allclose(found.excess.value, found.norm.value * (0.2 / 1.2) ** 2, rtol=1e-10)
    assert_near(found.mse, found.irreducible.value + found.excess.value)


def test_without_the_truth_and_in_float32(strict):
    sde, dist = processes.edm(), MIXTURE()
    x0 = draws(dist, 500)
    assert x0.dtype == jnp.float32
    ts = diagnostics.times(sde, 4)
    found = calibration(jax.random.key(4), scaled(dist, sde), sde, x0, ts)
    assert found.irreducible is None
    assert found.excess is None
    assert found.slope.value.dtype == jnp.float32
    assert_near(found.slope, 1.0 / 1.2)
    np.testing.assert_array_equal(found.t, ts)
    np.testing.assert_allclose(found.log_snr, -2 * np.log(ts), rtol=1e-5, atol=1e-5)
