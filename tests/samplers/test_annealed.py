import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import (
    KEY,
    VARIANCE,
    assert_counted,
    assert_float64_and_gradient,
    assert_pure,
    assert_skewed_moments,
    gaussian_denoiser,
)

from sdejax import grids, processes
from sdejax.prediction import Estimate
from sdejax.samplers.annealed import annealed_langevin, step_size_rule, variance_ratio
from sdejax.samplers.base import on_grid, sample

SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("sigma_1", "levels", "steps", "published"),
    [(50.0, 232, 5, 6.2e-6), (90.0, 500, 5, 3.3e-6), (348.0, 2311, 3, 0.9e-6)],
)
def test_the_rule_gives_the_step_sizes_of_ncsnv2(sigma_1, levels, steps, published, x64):
    """CIFAR-10, CelebA 64 and FFHQ 256, with sigma_L = 0.01 and a step of a s + sqrt(2a) z."""
    gamma = (sigma_1 / 0.01) ** (1 / (levels - 1))
    epsilon = float(step_size_rule(gamma, steps)) * 0.01**2 / 2
    assert abs(epsilon - published) < 0.05e-6


def test_the_rule_is_the_least_ratio(x64):
    for gamma in (1.01, 1.5, 4.0, 40.0):
        # One step: (1 - k/2)^2 gamma^2 + k, by hand.
        np.testing.assert_allclose(step_size_rule(gamma, 1), 2 * (1 - gamma**-2.0), rtol=1e-12)
        for steps in (3, 30):
            best = step_size_rule(gamma, steps)
            ratios = variance_ratio(jnp.linspace(1e-6, 3.99, 2001), gamma, steps)
            assert variance_ratio(best, gamma, steps) <= ratios.min() * (1 + 1e-12)
            assert np.all(ratios > 1)


def test_the_ratio_is_what_the_steps_do(x64):
    """The variance recursion, by stepping it."""
    k, gamma, variance = 0.3, 1.7, 1.7**2
    for steps in range(1, 6):
        variance = (1 - k / 2) ** 2 * variance + k
        got = variance_ratio(jnp.asarray(k), gamma, steps)
        np.testing.assert_allclose(got, variance, rtol=1e-13)


@pytest.mark.parametrize("make", [processes.ve, processes.vp])
def test_levels_follow_the_recursion_of_a_gaussian(make, x64):
    """On N(m, v) in y = x/alpha with score -(y - m)/(v + r^2), NCSN's step a = 0.3 r^2: two runs
    with the same noise stay in proportion, and many have the variance of the recursion."""
    sde = make(t_min=0.2)
    ts = grids.uniform_log_snr(sde, 5)
    alpha = np.asarray(jax.vmap(sde.alpha)(ts))
    r = np.asarray(jax.vmap(sde.sigma)(ts)) / alpha
    sampler, steps, count = annealed_langevin(4, 0.3), 4, 20000
    first = np.sqrt(VARIANCE + r[0] ** 2)
    y = 0.5 + first * np.random.default_rng(0).normal(size=count)

    def run(key, x):
        return sample(
            key, sampler, sde, gaussian_denoiser(sde), x, ts, save_at=ts[1:], denoise=False
        )

    batch = jax.jit(jax.vmap(run))
    x = jnp.asarray(alpha[0] * y)[:, None]
    keys = jax.random.split(KEY, count)
    out, stats = batch(keys, x)
    other, _ = batch(keys, x + alpha[0])
    variance, factor = np.var(y), 1.0
    for i in range(1, 6):
        for _ in range(steps):
            a = 0.3 * r[i] ** 2
            keep = 1 - a / 2 / (VARIANCE + r[i] ** 2)
            variance, factor = keep**2 * variance + a, keep * factor
        got = np.var(np.asarray(stats.saved)[:, i - 1, 0] / alpha[i])
        assert abs(got / variance - 1) < 5 * np.sqrt(2 / count), i
    np.testing.assert_allclose((other - out)[:, 0] / alpha[-1], factor, rtol=1e-9)


CASES = {
    "ve": processes.ve(0.05, 10.0),
    "vp": pytest.param(processes.vp(t_min=0.01), marks=SLOW),
    "edm": pytest.param(processes.edm(0.05, 20.0), marks=SLOW),
}


@pytest.mark.parametrize("sde", CASES.values(), ids=CASES)
def test_samples_have_the_moments_of_the_mixture(sde):
    sampler = annealed_langevin(20, 0.05)
    method = on_grid(sampler, 200, grids.uniform_log_snr, denoise=False)
    assert np.all(assert_skewed_moments(method.run, sde).nfe == 4000)


def test_it_is_finite_at_sigma_0():
    """Also with a denoiser whose eps is NaN there: a level of 0 only rescales x."""
    sde = processes.edm(0.01, 5.0)
    ts = jnp.asarray([5.0, 1.0, 0.0])
    inner = gaussian_denoiser(sde)

    def denoiser(x, t):
        x0, eps = inner(x, t)
        return Estimate(x0, jnp.where(t == 0, jnp.nan, eps))

    for step_size in (None, 0.2):
        sampler = annealed_langevin(3, step_size)
        out, stats = sample(KEY, sampler, sde, denoiser, jnp.ones((3,)), ts, denoise=False)
        before, _ = sample(KEY, sampler, sde, denoiser, jnp.ones((3,)), ts[:2], denoise=False)
        assert stats.result == 0
        np.testing.assert_allclose(out, before, rtol=1e-6)


def test_evaluations_are_the_steps_of_all_levels():
    method = on_grid(annealed_langevin(3), 4)
    calls = assert_counted(method.run, processes.ve(), 3 * 4 + 1)
    ts = np.asarray(grids.uniform(processes.ve(), 4))
    np.testing.assert_allclose(calls, [*np.repeat(ts[1:], 3), ts[-1]], rtol=1e-6)


def test_a_run_is_pure(strict):
    assert_pure(on_grid(annealed_langevin(3), 5).run, processes.ve())


def test_a_run_has_float64_and_gradients(x64):
    method = on_grid(annealed_langevin(3), 5)
    assert_float64_and_gradient(method.run, lambda beta_max: processes.VP(beta_max=beta_max))


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="got steps_per_level=0; expected at least 1"):
        annealed_langevin(0)
    with pytest.raises(
        ValueError, match=r"got step_size=4.0; expected a number in \(0, 4\).*divide"
    ):
        annealed_langevin(5, 4.0)
    sde = processes.rectified_flow()
    with pytest.raises(ValueError, match=r"annealed_langevin: got t_max=.* alpha = 0"):
        annealed_langevin().require(sde, sde.t_max)
