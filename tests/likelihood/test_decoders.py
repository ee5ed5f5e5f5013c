import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from bounds import MEAN, STD, line, normal_nodes
from oracles import PUBLISHED
from stats import assert_mean

from sdejax import processes, truth
from sdejax.likelihood.decoders import discretised, gaussian
from sdejax.prediction import Estimate

KEY = jax.random.key(0)


def never(x, t):
    raise AssertionError("the network is called")


VP = processes.vp(t_min=0.05)
ALPHA, SIGMA = (float(k(np.longdouble("0.05"))) for k in PUBLISHED["vp"][:2])


def known_mean(mean):
    """A denoiser whose x0_hat is fixed."""
    return lambda x, t: Estimate(jnp.broadcast_to(jnp.asarray(mean, x.dtype), x.shape), x)


@pytest.mark.parametrize("std", [None, 0.3])
def test_gaussian_about_the_state_is_closed(std):
    """-d/2 (log 2 pi s^2 + sigma^2/(alpha s)^2), and the mean of draws of x_t."""
    x, decoder = jnp.asarray([0.4, -2.0, 1.0]), gaussian(std)
    assert decoder.calls == 0
    got = jax.jit(lambda x: decoder.draw(KEY, VP, never, x, VP.t_min))(x)
    s, ratio = std or SIGMA / ALPHA, SIGMA / ALPHA
    exact = -1.5 * (np.log(2 * np.pi * s**2) + (ratio / s) ** 2)
    np.testing.assert_allclose(got, exact, rtol=1e-5)
    draws = np.asarray(x) + ratio * np.random.default_rng(0).normal(size=(20_000, 3))
    assert_mean(scipy.stats.norm.logpdf(x, draws, s).sum(-1), exact)


def test_gaussian_about_x0_hat_is_the_posterior_of_gaussian_data(x64):
    """With the exact denoiser and the posterior's std: E log p(x | x_t), by nodes for x_t."""
    v = ALPHA**2 * STD**2 + SIGMA**2
    std = STD * SIGMA / np.sqrt(v)
    decoder, denoiser = gaussian(std, denoise=True), truth.denoiser(line(), VP)
    assert decoder.calls == 1
    keys = jax.random.split(KEY, 20_000)
    x = jnp.asarray([1.3])
    draws = jax.jit(jax.vmap(lambda key: decoder.draw(key, VP, denoiser, x, VP.t_min)))(keys)
    z, w = (np.asarray(a) for a in normal_nodes(4))
    state = ALPHA * 1.3 + SIGMA * z
    mean = MEAN + ALPHA * STD**2 / v * (state - ALPHA * MEAN)
    assert_mean(draws, w @ scipy.stats.norm.logpdf(1.3, mean, std))


@pytest.mark.parametrize(("mean", "std"), [(0.1, 0.2), (-2.0, 0.05), (0.9, 1e-3), (0.0, 30.0)])
def test_masses_of_bins(mean, std, x64):
    """Against SciPy's tails, to full relative accuracy; the masses of all levels add up to 1."""
    decoder = discretised(8, std=std)
    x = (jnp.arange(8.0) - 3.5) / 3.5
    each = jax.jit(jax.vmap(lambda x: decoder.draw(KEY, VP, known_mean(mean), x[None], VP.t_min)))(
        x
    )
    edges = (np.concatenate([[-np.inf], np.arange(0.5, 7), [np.inf]]) - 3.5) / 3.5
    z = (edges - mean) / std
    exact = np.where(  # of the nearer tail
        z[:-1] + z[1:] > 0,
        _log_difference(-z[1:], -z[:-1]),
        _log_difference(z[:-1], z[1:]),
    )
    np.testing.assert_allclose(each, exact, rtol=1e-9)
    np.testing.assert_allclose(np.exp(np.asarray(each)).sum(), 1.0, rtol=1e-12)
    gradient = jax.grad(lambda m: decoder.draw(KEY, VP, known_mean(m), x[:1], VP.t_min))(mean)
    assert np.isfinite(gradient)


def _log_difference(low, high):
    upper = scipy.stats.norm.logcdf(high)
    with np.errstate(divide="ignore"):  # of the tail that is not taken
        return upper + np.log1p(-np.exp(scipy.stats.norm.logcdf(low) - upper))


def test_scales_of_the_last_axis_and_many_levels():
    """16 bits in float32, a scale per channel: the density times the bin's width."""
    scale, offset = (1000.0, 4000.0), (30_000.0, 100.0)
    decoder = discretised(2**16, scale=scale, offset=offset, std=0.5)
    integers = np.asarray([[31_000.0, 900.0], [29_500.0, 6100.0]], np.float32)
    x = jnp.asarray((integers - np.asarray(offset)) / np.asarray(scale), jnp.float32)
    got = jax.jit(lambda x: decoder.draw(KEY, VP, known_mean(0.3), x, VP.t_min))(x)
    exact = np.sum(scipy.stats.norm.logpdf(x, 0.3, 0.5) - np.log(scale))
    np.testing.assert_allclose(got, exact, rtol=1e-3)


def test_data_off_the_levels_has_no_mass():
    """Dequantised, shifted or out of range: NaN, never a number that looks like a likelihood."""
    decoder = discretised(4, std=0.2, denoise=False)
    assert decoder.calls == 0
    draw = jax.jit(lambda x: decoder.draw(KEY, VP, never, x, VP.t_min))
    assert np.isfinite(draw(jnp.asarray([-1.0, 1.0 / 3.0, 1.0])))
    for bad in (0.0, 0.4, 5.0 / 3.0, -5.0 / 3.0, np.nan):
        assert np.isnan(draw(jnp.asarray([1.0, bad]))), bad


def test_bad_arguments():
    for make, name in [
        (lambda: gaussian(std=0.0), "std=0.0"),
        (lambda: discretised(8, std=-1.0), "std=-1.0"),
        (lambda: discretised(1), "levels=1"),
        (lambda: discretised(8, scale=(1.0, 0.0)), "scale="),
    ]:
        with pytest.raises(ValueError, match=name):
            make()
