import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from bounds import (
    MEAN,
    PAIRS,
    STD,
    ideal_rate,
    line,
    normal_nodes,
    over_times,
    prior_kl,
    process,
    through,
)
from oracles import PROCESSES, PUBLISHED, plane
from stats import assert_mean

from sdejax import divergence, processes, times, truth
from sdejax.likelihood.decoders import discretised, gaussian
from sdejax.likelihood.elbo import data_bound, state_bound, strata, successive_error

KEY = jax.random.key(0)
TRACES = {"pair": None, "exact": divergence.exact(), "hutchinson": divergence.hutchinson(2)}


@pytest.mark.parametrize(
    ("name", "prediction"),
    [
        pytest.param(*pair, marks=[pytest.mark.slow] * (pair[0] in ("sub_vp", "ve")))
        for pair in PAIRS
    ],
)
def test_the_data_bound_of_gaussian_data(name, prediction, strict):
    """All parts against the published formulas, in float32, at one x per key."""
    sde, p = process(name), PUBLISHED[name]
    denoiser, x = through(line(), sde, prediction), 1.4
    keys = jax.random.split(KEY, 512)
    bound = jax.jit(
        jax.vmap(lambda key: data_bound(key, sde, denoiser, jnp.asarray([x]), samples=16))
    )(keys)
    t = np.geomspace(p.t_min, p.t_max, 400_001)
    rate = ideal_rate(name, t, x)
    assert_mean(bound.diffusion, -np.sum(0.5 * (rate[1:] + rate[:-1]) * np.diff(t)))
    np.testing.assert_allclose(bound.prior, -prior_kl(name, x), rtol=1e-4, atol=1e-6)
    ratio = float(p.sigma(np.longdouble(p.t_min)) / p.alpha(np.longdouble(p.t_min)))
    np.testing.assert_allclose(
        bound.reconstruction, -0.5 * np.log(2 * np.pi * np.e * ratio**2), rtol=1e-4
    )
    parts = bound.prior + bound.diffusion + bound.reconstruction
    np.testing.assert_allclose(bound.log_p, parts, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(bound.bits_per_dim, -bound.log_p / np.log(2), rtol=1e-5)
    assert np.all(bound.nfe == 16)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_data_bound_is_an_equality_for_the_posterior_as_decoder(name, x64):
    """log p_0(x) of Gaussian data, with the exact denoiser, p_T and p(x | x_tmin).

    The closed forms of the parts add up to it by quadrature, and one process draws them.
    """
    sde, p = process(name), PUBLISHED[name]
    x, exact = 1.4, scipy.stats.norm.logpdf(1.4, MEAN, STD)
    low, high = np.longdouble(p.t_min), np.longdouble(p.t_max)
    a, s, a_end, s_end = (float(k(t)) for t in (low, high) for k in (p.alpha, p.sigma))
    std = STD * s / np.sqrt((a * STD) ** 2 + s**2)
    diffused = over_times(times.information(sde), lambda t: ideal_rate(name, t, x))
    spread = np.sqrt((a_end * STD) ** 2 + s_end**2)
    square = (s_end**2 + (a_end * (x - MEAN)) ** 2) / spread**2
    kl = np.log(spread / s_end) + 0.5 * (square - 1)
    z, w = (np.asarray(k) for k in normal_nodes(4))
    gain = a * STD**2 / ((a * STD) ** 2 + s**2)
    mean = MEAN + gain * (a * (x - MEAN) + s * z)
    last = w @ scipy.stats.norm.logpdf(x, mean, std)
    np.testing.assert_allclose(last - kl - diffused, exact, atol=1e-8)
    if name == "sub_vp":
        settings = {
            "samples": 4,
            "decoder": gaussian(std, denoise=True),
            "prior_log_prob": lambda y: truth.log_prob(line(), sde, y, sde.t_max),
        }
        denoiser, point = truth.denoiser(line(), sde), jnp.asarray([x])
        run = jax.vmap(lambda key: data_bound(key, sde, denoiser, point, **settings))
        bound = jax.jit(run)(jax.random.split(KEY, 2048))
        assert_mean(bound.log_p, exact)
        assert_mean(bound.prior, -kl)
        assert_mean(bound.reconstruction, last)
        assert np.all(bound.nfe == 8)


CASES = [("vp", "pair"), ("ve", "pair"), ("rectified_flow", "pair"), ("vp", "hutchinson")]
OTHERS = [("sub_vp", "pair"), ("cosine", "pair"), ("edm", "pair"), ("vp", "exact")]


@pytest.mark.parametrize(
    ("name", "form"), CASES + [pytest.param(*case, marks=pytest.mark.slow) for case in OTHERS]
)
def test_the_state_bound_of_a_mixture(name, form, strict):
    """Exact score and p_T, in float32: log p_tmin(x) in the mean, with errors as reported."""
    sde, dist = process(name, 0.99), plane()
    denoiser = truth.denoiser(dist, sde)
    keys = jax.random.split(KEY, 1024)
    count = 256 if form == "pair" else 64

    def one(key):
        draw_key, bound_key = jax.random.split(key)
        x = truth.sample_at(draw_key, dist, sde, sde.t_min)
        bound = state_bound(
            bound_key,
            sde,
            denoiser,
            x,
            samples=count,
            divergence=TRACES[form],
            prior_log_prob=lambda y: truth.log_prob(dist, sde, y, sde.t_max),
        )
        return bound, truth.log_prob(dist, sde, x, sde.t_min)

    bound, exact = jax.jit(jax.vmap(one))(keys)
    assert_mean(bound.log_p - exact, 0.0)
    scaled = (bound.log_p - exact) / bound.standard_error
    assert 0.8 < np.sqrt(np.mean(scaled**2)) < 1.25
    assert np.all(bound.nfe == (2 * count if form == "pair" else count))
    assert np.all(bound.reconstruction == 0.0)


@pytest.mark.parametrize("name", ["rectified_flow", pytest.param("vp", marks=pytest.mark.slow)])
def test_the_report_s_standard_error_is_the_spread(name):
    """Over 2000 keys, for a discretised decoder that adds its own noise."""
    sde = process(name)
    denoiser = through(plane(), sde, "v")
    x = jnp.asarray([0.2, -0.6])
    keys = jax.random.split(KEY, 2000)
    decoder = discretised(6)
    bound = jax.jit(
        jax.vmap(lambda k: data_bound(k, sde, denoiser, x, samples=32, decoder=decoder))
    )(keys)
    mean_square = np.sqrt(np.mean(np.asarray(bound.standard_error) ** 2))
    assert 0.9 < mean_square / np.std(bound.log_p) < 1.1


@pytest.mark.slow
def test_what_times_save(x64):
    """Variance per call on d16, uniform independent times being 1.

    Measured: uniform log-SNR 0.030 and information 0.0051 independent, 0.0055 and 0.0024 in 32
    strata.
    """
    sde, dist = processes.vp(), truth.problems.d16()
    denoiser, x = truth.denoiser(dist, sde), truth.sample(KEY, dist)
    keys = jax.random.split(KEY, 1024)

    def variance(density, samples):
        run = jax.vmap(lambda k: data_bound(k, sde, denoiser, x, samples=samples, times=density))
        return np.var(jax.jit(run)(keys).log_p) * samples

    uniform = variance(times.uniform(sde), 1)
    assert variance(times.uniform_log_snr(sde), 1) < 0.06 * uniform
    assert variance(times.uniform_log_snr(sde), 32) < 0.011 * uniform
    assert variance(times.information(sde, 0.5), 32) < 0.005 * uniform


def test_uniforms_of_strata():
    """One in each stratum, in order, below 1 also in float32 near its rounding."""
    for count in (1, 7, 100_000):
        u = np.asarray(strata(KEY, count, jnp.float32))
        assert u[-1] < 1.0
        assert np.all(np.abs(u * count - np.arange(count) - 0.5) <= 0.51)


def test_successive_error():
    """Exact for independent numbers in the mean, blind to a slow trend; NaN for one number."""
    draws = np.random.default_rng(0).normal(size=(20_000, 8)).astype(np.float32)
    square = jax.vmap(successive_error)(jnp.asarray(draws)) ** 2
    assert_mean(square, 1 / 8)
    trend = successive_error(jnp.arange(1000.0))
    np.testing.assert_allclose(trend, np.sqrt(1 / 2000), rtol=1e-6)
    assert np.isnan(successive_error(jnp.ones(1)))


def test_errors_are_not_too_small_where_the_times_do_not_fit():
    """Data far narrower than the default times expect: a trend over the strata, and it is told."""
    sde, size = processes.vp(), 256
    dist = truth.isotropic(jnp.ones(1), jnp.zeros((1, size)), jnp.full(1, 0.1))
    denoiser, x = truth.denoiser(dist, sde), 0.1 * jax.random.normal(KEY, (size,))
    run = jax.jit(jax.vmap(lambda k: data_bound(k, sde, denoiser, x, samples=64)))
    found = run(jax.random.split(jax.random.key(7), 300))
    log_p = np.asarray(found.log_p, float)
    ratio = np.sqrt(np.mean(np.asarray(found.standard_error, float) ** 2)) / log_p.std()
    assert 0.85 < ratio < 2.0, ratio  # 300 draws tell a spread to 4 %
    assert np.all(found.result == 0)


def test_bad_arguments():
    sde = processes.rectified_flow()
    denoiser = truth.denoiser(line(), sde)
    x = jnp.ones(1)
    for bound in (data_bound, state_bound):
        with pytest.raises(ValueError, match="samples=0"):
            bound(KEY, sde, denoiser, x, samples=0)
    with pytest.raises(ValueError, match=r"t_max=1.0, where g of RectifiedFlow"):
        jax.jit(lambda x: state_bound(KEY, sde, denoiser, x))(x)
    with pytest.raises(ValueError, match="log-SNR is infinite"):
        data_bound(KEY, sde, denoiser, x, times=times.uniform_log_snr(sde))


def test_a_network_that_fails_is_seen():
    sde, x = processes.vp(), jnp.ones(1)

    def failing(x, t):
        return truth.estimate(line(), sde, x * jnp.nan, t)

    for bound in (data_bound, state_bound):
        run = jax.jit(lambda x, bound=bound: bound(KEY, sde, failing, x, samples=2))
        assert np.isnan(run(x).log_p)
