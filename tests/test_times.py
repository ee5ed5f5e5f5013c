import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from oracles import PROCESSES
from stats import assert_mean

from sdejax import grids, processes, times
from sdejax.sde import log_snr

DENSITIES = {
    "uniform": times.uniform,
    "log_normal_sigma": times.log_normal_sigma,
    "logit_normal": times.logit_normal,
    "uniform_log_snr": times.uniform_log_snr,
    "information": times.information,
}
CASES = [
    ("uniform", "vp"),
    ("log_normal_sigma", "edm"),
    ("log_normal_sigma", "rectified_flow"),
    ("logit_normal", "rectified_flow"),
    ("logit_normal", "edm"),
    ("uniform_log_snr", "vp"),
    ("uniform_log_snr", "ve"),
    ("information", "vp"),
    ("information", "rectified_flow"),
]
OTHERS = [
    pytest.param(density, name, marks=pytest.mark.slow)
    for density in DENSITIES
    for name in PROCESSES
    if (density, name) not in [*CASES, ("uniform_log_snr", "rectified_flow")]  # infinite there
]


@pytest.mark.parametrize(("density", "name"), CASES + OTHERS)
def test_quantile_and_density_belong_together(density, name, x64):
    """quantile'(u) p(quantile(u)) = 1; with both ends right, p integrates to one."""
    sde = PROCESSES[name]()
    d = DENSITIES[density](sde)
    u = jnp.asarray(np.linspace(0.001, 0.999, 201))

    def both(u):
        t, slope = jax.value_and_grad(d.quantile)(u)
        return t, slope, d.log_density(t)

    t, slope, log_p = jax.jit(jax.vmap(both))(u)
    np.testing.assert_allclose(slope * np.exp(log_p), 1.0, rtol=1e-6)
    assert np.all(np.diff(t) > 0)
    ends = jax.jit(jax.vmap(d.quantile))(jnp.asarray([0.0, 1.0 - 1e-15]))
    width = sde.t_max - sde.t_min
    assert sde.t_min <= ends[0] <= sde.t_min + 1e-12 * width
    # The logit-normal's tail is thin: its last 1e-15 is a few thousandths of the width.
    assert sde.t_max * (1 + 1e-12) >= ends[1] >= sde.t_max - 1e-2 * width


def test_log_normal_is_that_of_edm(x64):
    """For sigma = t: the truncated normal of log sigma, from SciPy."""
    sde = processes.edm(0.05, 3.0)
    d = times.log_normal_sigma(sde, -1.2, 1.2)
    low, high = (np.log([0.05, 3.0]) + 1.2) / 1.2
    exact = scipy.stats.truncnorm(low, high, loc=-1.2, scale=1.2)
    u = np.linspace(0.01, 0.99, 25)
    t = np.asarray(jax.jit(jax.vmap(d.quantile))(jnp.asarray(u)))
    np.testing.assert_allclose(np.log(t), exact.ppf(u), rtol=1e-9, atol=1e-9)
    log_p = jax.jit(jax.vmap(d.log_density))(jnp.asarray(t))
    np.testing.assert_allclose(log_p, exact.logpdf(np.log(t)) - np.log(t), rtol=1e-8, atol=1e-9)


def test_logit_normal_is_that_of_sd3(x64):
    """mean and std have the paper's sense: logit(t) ~ N(m, s^2) for t over [0, 1] (nearly)."""
    sde = processes.rectified_flow(t_min=1e-12)
    d = times.logit_normal(sde, 0.5, 0.6)
    u = np.linspace(0.01, 0.99, 9)
    t = np.asarray(jax.jit(jax.vmap(d.quantile))(jnp.asarray(u)))
    np.testing.assert_allclose(np.log(t / (1 - t)), 0.5 + 0.6 * scipy.stats.norm.ppf(u), rtol=1e-7)


def test_uniform_takes_its_own_start(x64):
    d = times.uniform(processes.vp(), t_min=1e-5)
    assert d.quantile(jnp.asarray(0.0)) == 1e-5
    np.testing.assert_allclose(d.quantile(jnp.asarray(1.0)), 1.0)
    np.testing.assert_allclose(d.log_density(jnp.asarray(0.3)), -np.log(1 - 1e-5), rtol=1e-12)


def test_uniform_log_snr_spaces_log_snr_evenly(x64):
    sde = processes.cosine()
    t = jax.jit(jax.vmap(times.uniform_log_snr(sde).quantile))(jnp.linspace(0.0, 1.0, 11))
    levels = jax.vmap(lambda t: log_snr(sde, t))(t)
    np.testing.assert_allclose(np.diff(levels), np.diff(levels).mean(), rtol=1e-6)


@pytest.mark.parametrize(("density", "name"), CASES + OTHERS)
def test_float32_times_are_finite_and_inside(density, name):
    """Over the uniforms that float32 has, 0 and the largest below 1 included."""
    sde = PROCESSES[name]()
    d = DENSITIES[density](sde)
    u = jnp.asarray([0.0, 2.0**-23, 1e-4, 0.5, 0.999, 1.0 - 2.0**-23], jnp.float32)
    t = jax.jit(jax.vmap(d.quantile))(u)
    log_p = jax.jit(jax.vmap(d.log_density))(t[1:-1])
    assert t.dtype == log_p.dtype == jnp.float32
    assert np.all((np.asarray(t) >= np.float32(sde.t_min)) & (np.asarray(t) <= sde.t_max))
    assert np.all(np.isfinite(log_p))


@pytest.mark.parametrize("size", [16, 24, 1000])
def test_stratified_has_one_time_in_every_stratum(size):
    for seed in range(5):
        key = jax.random.key(seed)
        u = jax.vmap(lambda i, key=key: times.stratified(key, i, size))(jnp.arange(size))
        u = np.asarray(u)
        assert np.all((u >= 0) & (u < 1))
        np.testing.assert_array_equal(np.sort((u * size).astype(int)), np.arange(size))


def test_stratified_is_the_same_on_any_split():
    key, size = jax.random.key(3), 24
    draw = jax.jit(jax.vmap(lambda i: times.stratified(key, i, size)))
    whole = draw(jnp.arange(size))
    parts = [draw(jnp.arange(k, k + 6)) for k in range(0, size, 6)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    # Alone and uncompiled XLA divides otherwise in the last bit.
    np.testing.assert_allclose(whole[7], times.stratified(key, 7, size), atol=1e-7)


def test_every_position_is_uniform_over_the_steps():
    keys = jax.random.split(jax.random.key(0), 4000)
    for position in (0, 5):
        u = np.asarray(jax.vmap(lambda key, i=position: times.stratified(key, i, 8))(keys))
        assert_mean(u, 0.5)
        assert_mean((u - 0.5) ** 2, 1 / 12)
        assert scipy.stats.kstest(u, "uniform").pvalue > 1e-4


def test_importance_sampling_leaves_the_objective_and_lowers_its_variance():
    """With the likelihood weight of VP, whose large values near t = 0 uniform times seldom meet."""
    sde = processes.vp()
    target = times.uniform(sde)

    def integrand(theta, t):
        slope = -jax.grad(lambda t: log_snr(sde, t))(t)
        return slope * (theta - t) ** 2

    of_integrand = jax.jit(jax.vmap(jax.value_and_grad(integrand), in_axes=(None, 0)))

    def estimates(sampling, seed):
        u = jax.random.uniform(jax.random.key(seed), (40_000,))
        t = jax.jit(jax.vmap(sampling.density.quantile))(u)
        value = of_integrand(1.5, t)
        factor = jax.jit(jax.vmap(sampling.factor))(t)
        return [np.asarray(factor * v, float) for v in value]

    plain = estimates(times.objective(target), 0)
    proposal = times.uniform_log_snr(sde)
    better = estimates(times.importance(proposal, target), 1)
    grid = jnp.linspace(sde.t_min, sde.t_max, 400_001)
    exact = of_integrand(1.5, grid)
    for a, b, values in zip(plain, better, exact, strict=True):
        truth = np.trapezoid(np.asarray(values, float), dx=1 / 400_000)  # over the width: a mean
        assert_mean(a, truth)
        assert_mean(b, truth)
        assert b.var() < a.var() / 10
    # The same proposal as an objective of its own is another objective.
    other = estimates(times.objective(proposal), 2)
    spread = other[0].std() / np.sqrt(len(other[0]))
    assert abs(other[0].mean() - plain[0].mean()) > 20 * spread


def test_uniform_log_snr_refuses_an_infinite_end():
    with pytest.raises(ValueError, match="log-SNR is infinite"):
        times.uniform_log_snr(processes.rectified_flow())


def test_times_beyond_the_target_count_nothing(x64):
    """E over t ~ U(1e-5, 1) of factor(t)/t is the mean of 1/t over the target [1e-3, 1]."""
    sde = processes.vp()
    sampling = times.importance(times.uniform(sde, t_min=1e-5), times.uniform(sde))
    u = (jnp.arange(2_000_000, dtype=jnp.float64) + 0.5) / 2_000_000
    t = jax.vmap(sampling.density.quantile)(u)
    estimate = jnp.mean(jax.vmap(sampling.factor)(t) / t)
    assert estimate == pytest.approx(np.log(1000) / 0.999, rel=1e-3)


@pytest.mark.parametrize("make", [times.uniform, times.log_normal_sigma, times.logit_normal])
def test_densities_vanish_outside(make, x64):
    sde = processes.edm()
    assert make(sde).log_density(100.0) == -jnp.inf
    assert make(sde).log_density(0.001) == -jnp.inf


def test_information_flattens_the_bound_of_gaussian_data(x64):
    """Its density is the likelihood weighting times the ideal error, up to the singular end."""
    sde = processes.rectified_flow()
    s2 = 0.6**2
    d = times.information(sde, 0.6)
    t = jnp.linspace(0.002, 0.9999, 50)
    log_p = jax.vmap(d.log_density)(t)
    half_slope = 1 / (t * (1 - t))  # -lambda'/2 of the linear path
    rate = half_slope * (1 - t) ** 2 * s2 / ((1 - t) ** 2 * s2 + t**2)
    total = 0.5 * np.log1p(s2 * (0.999 / 0.001) ** 2)
    np.testing.assert_allclose(np.exp(log_p), rate / total, rtol=1e-12)
    with pytest.raises(ValueError, match=r"sigma_data=0\.0"):
        times.information(sde, 0.0)


@pytest.mark.parametrize("num", [2, 10, 232, 1000])
def test_levels_are_the_times_of_the_uniform_grid_equally_often(num):
    sde = processes.ve(0.02, 9.6)
    density = times.levels(sde, num)
    u = (np.arange(4 * num) + 0.5) / (4 * num)
    t = np.asarray(jax.vmap(density.quantile)(jnp.asarray(u, jnp.float32)))
    found, counts = np.unique(t, return_counts=True)
    np.testing.assert_array_equal(counts, 4)
    np.testing.assert_allclose(found[::-1], grids.uniform(sde, num - 1), rtol=0, atol=1e-7)
    sigma = np.asarray(jax.vmap(sde.sigma)(jnp.asarray(found)), float)
    np.testing.assert_allclose(sigma[1:] / sigma[:-1], 480 ** (1 / (num - 1)), rtol=2e-4)


def test_levels_stay_inside_at_the_ends_of_float32():
    """The largest float32 below 1 times 1000 rounds to 1000, beyond the last level."""
    sde = processes.vp()
    quantile = times.levels(sde, 1000).quantile
    ends = jax.vmap(quantile)(jnp.asarray([0.0, 1.0 - 2.0**-24], jnp.float32))
    np.testing.assert_array_equal(ends, np.float32([sde.t_min, sde.t_max]))


def test_levels_have_no_density_and_no_fewer_than_two():
    sde = processes.vp()
    sampling = times.importance(times.levels(sde, 10), times.uniform(sde))
    with pytest.raises(ValueError, match="cannot be an importance sampler"):
        sampling.factor(0.3)
    with pytest.raises(ValueError, match="got num=1; expected at least 2"):
        times.levels(sde, 1)
