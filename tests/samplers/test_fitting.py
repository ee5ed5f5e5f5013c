"""A short fit on a mixture: better than every fixed method on noise it has not seen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdejax import grids, processes, truth
from sdejax.samplers.adams import deis
from sdejax.samplers.dpm_solver import dpmpp_2m
from sdejax.samplers.fitting import Pairs, draw_pairs, fit_solver
from sdejax.samplers.learned import as_solver, solve
from sdejax.samplers.unipc import unipc
from sdejax.truth import problems

KEY = jax.random.key(0)
COUNT = 6
CASES = {
    "edm": (processes.edm(), grids.uniform_log_snr, {"deis": deis(3)}),
    "rectified_flow": (processes.rectified_flow(), grids.uniform, {}),
}
FIXED = {"dpmpp_2m": dpmpp_2m(), "unipc": unipc(2)}


@pytest.fixture(
    scope="module", params=["edm", pytest.param("rectified_flow", marks=pytest.mark.slow)]
)
def fitted(request):
    """The process, the start, the result, its losses and errors on other noise by solver."""
    sde, grid, more = CASES[request.param]
    dist = problems.g2()

    def denoisers(cond):
        return truth.denoiser(dist, sde)

    pairs = draw_pairs(jax.random.key(1), sde, denoisers, (2,), 1024)
    other = draw_pairs(jax.random.key(2), sde, denoisers, (2,), 512)
    starts = {
        name: as_solver(sampler, sde, grid(sde, COUNT - 1))
        for name, sampler in (FIXED | more).items()
    }
    start = starts["unipc"]
    found, losses = fit_solver(
        KEY, start, sde, denoisers, pairs, iterations=400, batch=128
    )  # fmt: skip

    @jax.jit
    def error(solver):
        out = jax.vmap(lambda x: solve(solver, sde, denoisers(None), x))(other.x)
        return jnp.sqrt(jnp.mean((out - other.target) ** 2, axis=-1))

    errors = {name: np.asarray(error(s)) for name, s in (starts | {"fitted": found}).items()}
    return sde, denoisers, pairs, start, found, losses, errors


def test_it_is_better_than_the_fixed_methods_on_other_noise(fitted):
    errors = fitted[-1]
    means = {name: float(e.mean()) for name, e in errors.items()}
    medians = {name: float(np.median(e)) for name, e in errors.items()}
    for name in errors:
        if name != "fitted":
            assert means["fitted"] < 0.5 * means[name], means
            assert medians["fitted"] < 0.5 * medians[name], medians


def test_it_stays_a_consistent_solver(fitted):
    sde, _, _, start, found, _, _ = fitted
    ts, weights = np.asarray(found.ts), np.asarray(found.weights)
    assert ts[0] == start.ts[0]
    assert np.all(np.diff(ts) < 0)
    assert ts[-1] >= sde.t_min * (1 - 1e-5)
    assert not np.allclose(ts, start.ts, rtol=1e-2)
    np.testing.assert_allclose(weights.sum(1), 1.0, atol=1e-5)
    np.testing.assert_allclose(weights, np.tril(weights), atol=1e-7)
    assert not np.allclose(weights, start.weights, atol=1e-2)


def test_the_best_on_the_held_out_quarter_is_returned(fitted):
    """Its smooth Huber loss, written out on the first quarter of the pairs."""
    sde, denoisers, pairs, start, found, losses, _ = fitted
    quarter = jax.tree.map(lambda leaf: leaf[:256], pairs)

    @jax.jit
    def squares(solver):
        out = jax.vmap(lambda x: solve(solver, sde, denoisers(None), x))(quarter.x)
        return jnp.mean((out - quarter.target) ** 2, axis=-1)

    before, after = np.asarray(squares(start)), np.asarray(squares(found))
    delta = np.sqrt(np.median(before))
    huber = [np.mean(np.sqrt(s + delta**2) - delta) for s in (before, after)]
    assert losses.shape == (1 + 400 // 50,)
    np.testing.assert_allclose(losses[0], huber[0], rtol=1e-3)
    np.testing.assert_allclose(np.min(losses), huber[1], rtol=1e-3)


def small():
    """A Gaussian under EDM and eight iterations: for what does not need a good fit."""
    sde = processes.edm(0.01, 10.0)
    dist = truth.gaussian(jnp.asarray([0.5, -1.0]), jnp.asarray([[1.0, 0.4], [0.4, 0.5]]))
    return sde, lambda cond: truth.denoiser(dist, sde)


def test_a_fit_is_its_key_and_nothing_else():
    sde, denoisers = small()
    pairs = draw_pairs(KEY, sde, denoisers, (2,), 32)
    start = as_solver(unipc(2), sde, grids.uniform_log_snr(sde, 2))

    def fit(rate=None):
        return fit_solver(
            KEY, start, sde, denoisers, pairs,
            iterations=8, batch=4, learning_rate=rate,
        )  # fmt: skip

    (one, losses), (again, _) = fit(), fit()
    for a, b in zip(one, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(one.weights, start.weights)
    assert losses.shape == (2,)
    # Steps that are far too long: what was given comes back.
    worse, losses = fit(1e3)
    assert losses[0] < losses[1] or not np.isfinite(losses[1])
    np.testing.assert_allclose(worse.weights, start.weights, atol=1e-6)
    np.testing.assert_allclose(worse.ts, start.ts, rtol=1e-5)


def test_too_little_to_fit_is_refused():
    sde, denoisers = small()
    pairs = Pairs(jnp.zeros((7, 2)), jnp.zeros((7, 2)))
    start = as_solver(unipc(2), sde, grids.uniform_log_snr(sde, 2))
    with pytest.raises(
        ValueError,
        match="got 3 evaluations, 7 pairs and 2000 iterations; expected at least 2, 8 and 1",
    ):
        fit_solver(KEY, start, sde, denoisers, pairs)
    one = jax.tree.map(lambda leaf: leaf[:1], start)._replace(weights=jnp.ones((1, 1)))
    with pytest.raises(ValueError, match="got 1 evaluations, 8 pairs"):
        fit_solver(KEY, one, sde, denoisers, Pairs(jnp.zeros((8, 2)), jnp.zeros((8, 2))))


def test_pairs_are_ends_of_the_exact_flow():
    """The target is x0 as estimated at t_min of the exact Gaussian trajectory through x."""
    sde, denoisers = small()
    pairs = draw_pairs(KEY, sde, denoisers, (2,), 50, chunk=16)
    # z of x_T: the root of the covariance at t_max, in the eigenvectors of C
    mean, cov = np.asarray([0.5, -1.0]), np.asarray([[1.0, 0.4], [0.4, 0.5]])
    values, vectors = np.linalg.eigh(cov)
    low, high = sde.t_min, sde.t_max
    away = (np.asarray(pairs.x, float) - mean) @ vectors
    end = away * np.sqrt((values + low**2) / (values + high**2))
    expected = mean + (end * values / (values + low**2)) @ vectors.T
    np.testing.assert_allclose(pairs.target, expected, atol=1e-3)
    whole = draw_pairs(KEY, sde, denoisers, (2,), 50)
    np.testing.assert_array_equal(pairs.x, whole.x)
    np.testing.assert_allclose(pairs.target, whole.target, atol=1e-4)
    fewer = draw_pairs(KEY, sde, denoisers, (2,), 3)
    np.testing.assert_array_equal(fewer.x, whole.x[:3])


def test_pairs_keep_their_conditions():
    """Each example is solved with its own denoiser: the mean is the condition."""
    sde = processes.edm(0.01, 10.0)

    def denoisers(cond):
        return truth.denoiser(truth.gaussian(cond[None], jnp.eye(1) * 1e-4), sde)

    cond = jnp.asarray([-2.0, 0.0, 1.0, 5.0])
    pairs = draw_pairs(KEY, sde, denoisers, (1,), 4, cond)
    np.testing.assert_allclose(pairs.target[:, 0], cond, atol=0.1)
    np.testing.assert_array_equal(pairs.cond, cond)
