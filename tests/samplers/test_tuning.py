"""Fitted grids are judged on pairs that they were not fitted to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdejax import grids, processes, truth
from sdejax.samplers import ddim, on_grid, sample
from sdejax.samplers.dpm_solver import dpmpp_2m
from sdejax.samplers.tuning import optimize_grid
from sdejax.samplers.unipc import unipc
from sdejax.truth import problems

KEY = jax.random.key(0)
SLOW = pytest.mark.slow
CASES = {
    "g2-edm": (problems.g2, processes.edm(), ddim(), grids.karras, 0.5),
    "g2-edm-2m": (problems.g2, processes.edm(), dpmpp_2m(), grids.uniform_log_snr, 0.6),
    "g2-unipc": (problems.g2, processes.edm(), unipc(2), grids.uniform_log_snr, 0.35),
    "g2-rf": (problems.g2, processes.rectified_flow(), ddim(), grids.uniform, 0.85),
    "s2-vp": (problems.s2, processes.vp(), ddim(), grids.karras, 0.6),
    "d64-edm": (problems.d64, processes.edm(), ddim(), grids.karras, 0.75),
}


def pairs(dist, sde, seed, count=256):
    """Prior states and the data that exact solutions from them end on."""
    denoiser, shape = truth.denoiser(dist, sde), dist.means.shape[1:]
    ts = jnp.asarray([sde.t_max, sde.t_min])

    def solve(key):
        x = sde.prior_std * jax.random.normal(key, shape)
        end = truth.reference(sde, denoiser, x, ts, tolerance=1e-8)[-1].astype(x.dtype)
        return x, denoiser(end, ts[-1]).x0

    return jax.jit(jax.vmap(solve))(jax.random.split(jax.random.key(seed), count))


def rms(sampler, sde, denoiser, x, targets, ts):
    run = jax.vmap(lambda x: sample(KEY, sampler, sde, denoiser, x, ts)[0])
    return float(jnp.sqrt(jnp.mean((jax.jit(run)(x) - targets) ** 2)))


@pytest.mark.parametrize(
    "case", [c if "g2-edm" in c else pytest.param(c, marks=SLOW) for c in CASES]
)
def test_a_fitted_grid_beats_the_one_it_came_from_on_other_noise(case):
    make, sde, sampler, init, factor = CASES[case]
    dist = make()
    denoiser = truth.denoiser(dist, sde)
    fitted_on, judged_on = (pairs(dist, sde, seed) for seed in (1, 2))
    ts = optimize_grid(
        KEY, sampler, sde, denoiser, *fitted_on, 10, init=init, iterations=150, batch=128
    )
    assert ts.shape == (11,)
    assert ts.dtype == jnp.float32
    assert ts[0] == np.float32(sde.t_max)
    assert ts[-1] >= np.float32(sde.t_min)
    assert np.all(np.diff(ts) < 0)
    errors = [rms(sampler, sde, denoiser, *judged_on, t) for t in (ts, init(sde, 10))]
    assert errors[0] < factor * errors[1], errors
    # As users go on: the times are a grid like any other.
    method = on_grid(sampler, 10, grids.from_times(ts))
    method.require(sde, sde.t_max)
    x, stats = jax.jit(lambda x: method.run(KEY, sde, denoiser, x))(judged_on[0][0])
    expected = sample(KEY, sampler, sde, denoiser, judged_on[0][0], ts)[0]
    np.testing.assert_allclose(x, expected, atol=2e-5)
    assert stats.nfe == 11


def test_one_step_finds_the_best_time_to_denoise_from():
    """A Gaussian and one step of DDIM: the free last time, against a search over all times."""
    sde = processes.edm(0.05, 10.0)
    dist = truth.gaussian(jnp.asarray([1.0, -0.5]), jnp.asarray([[0.5, 0.2], [0.2, 0.3]]))
    denoiser = truth.denoiser(dist, sde)
    z = jax.random.normal(jax.random.key(3), (64, 2))
    x, end = (
        jax.vmap(lambda z, t=t: truth.gaussian_flow(dist, sde, z, t))(z) for t in (10.0, 0.05)
    )
    targets = jax.vmap(lambda x: denoiser(x, sde.t_min).x0)(end)
    ts = optimize_grid(KEY, ddim(), sde, denoiser, x, targets, 1, iterations=300, batch=64)

    @jax.jit
    def error(last):
        ts = jnp.stack([jnp.asarray(10.0), last])
        return jnp.mean(
            (jax.vmap(lambda x: sample(KEY, ddim(), sde, denoiser, x, ts)[0])(x) - targets) ** 2
        )

    lasts = jnp.linspace(0.05, 3.0, 591)
    best = lasts[jnp.argmin(jax.lax.map(error, lasts))]
    assert 0.1 < best < 2.9
    np.testing.assert_allclose(ts, [10.0, float(best)], atol=0.01)


def test_nothing_is_lost_where_nothing_is_gained():
    """A step of Adam that is far too long: the grid to start from comes back."""
    sde, dist = processes.edm(), problems.g2()
    denoiser = truth.denoiser(dist, sde)
    x, targets = pairs(dist, sde, 4, 32)
    options = {"iterations": 1, "learning_rate": 50.0, "batch": 8}
    ts = optimize_grid(KEY, ddim(), sde, denoiser, x, targets, 6, **options)
    with jax.enable_x64(True):
        expected = np.asarray(grids.karras(sde, 6), np.float32)
    np.testing.assert_array_equal(ts, expected)


def test_misuse_is_refused_by_name():
    sde = processes.rectified_flow()
    denoiser = truth.denoiser(problems.g2(), sde)
    x = jnp.zeros((4, 2))
    with pytest.raises(ValueError, match="steps: got 0"):
        optimize_grid(KEY, ddim(), sde, denoiser, x, x, 0)
    with pytest.raises(ValueError, match="iterations: got 0"):
        optimize_grid(KEY, ddim(), sde, denoiser, x, x, 3, iterations=0)
    with pytest.raises(ValueError, match=r"targets: got shape \(3, 2\)"):
        optimize_grid(KEY, ddim(), sde, denoiser, x, x[:3], 3)
    with pytest.raises(ValueError, match=r"karras: got t_max=1.0.*grids.uniform"):
        optimize_grid(KEY, ddim(), sde, denoiser, x, x, 3)
