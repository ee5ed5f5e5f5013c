"""Runs of stochastic samplers and methods that their tests share."""

import jax
import jax.numpy as jnp
import numpy as np
from oracles import skewed, skewed_moments
from stats import assert_moments

from sdejax import truth
from sdejax.prediction import Estimate
from sdejax.sde import coefficients

KEY = jax.random.key(0)
COUNT = 4096
MEAN, VARIANCE = 0.5, 0.3


def gaussian_denoiser(sde, mean=MEAN, variance=VARIANCE):
    """The posterior mean for N(mean, variance I) in one line, so that compiling is quick."""

    def denoiser(x, t):
        alpha, sigma = jnp.asarray(sde.alpha(t), x.dtype), jnp.asarray(sde.sigma(t), x.dtype)
        r = (x - alpha * mean) / (variance * alpha**2 + sigma**2)
        return Estimate(mean + variance * alpha * r, sigma * r)

    return denoiser


def assert_skewed_moments(run, sde, count=COUNT):
    """From exact draws of p at t_max: mean, variance and skewness at t_min, in standard errors."""
    dist = truth.mixture(*map(jnp.asarray, skewed()))
    denoiser, start = truth.denoiser(dist, sde), coefficients(sde, sde.t_max)

    def draw(key):
        data_key, noise_key, key = jax.random.split(key, 3)
        noise = jax.random.normal(noise_key, (1,))
        return run(
            key, sde, denoiser, start.alpha * truth.sample(data_key, dist) + start.sigma * noise
        )

    x, stats = jax.jit(jax.vmap(draw))(jax.random.split(KEY, count))
    end = coefficients(sde, sde.t_min)
    assert_moments(x[:, 0], *skewed_moments(end.alpha, end.sigma))
    assert np.all(stats.result == 0)
    return stats


def assert_counted(run, sde, expected):
    """``stats.nfe`` is what a counting callback counts."""
    calls = []

    def denoiser(x, t):
        jax.debug.callback(lambda t: calls.append(float(t)), t)
        return gaussian_denoiser(sde)(x, t)

    _, stats = run(KEY, sde, denoiser, jnp.ones((2,)))
    jax.effects_barrier()
    assert stats.nfe == len(calls) == expected
    return calls


def assert_pure(run, sde):
    """The batch is its examples without jit, whatever their company; float32 stays."""
    denoiser = gaussian_denoiser(sde)
    keys = jax.random.split(KEY, 5)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3, 2)), jnp.float32)
    x = x * jnp.asarray(sde.prior_std, jnp.float32)

    def one(key, x):
        return run(key, sde, denoiser, x)[0]

    batch = jax.jit(jax.vmap(one))
    together = batch(keys, x)
    assert together.dtype == jnp.float32
    np.testing.assert_allclose(one(keys[3], x[3]), together[3], rtol=1e-5, atol=1e-5)
    others = batch(keys.at[0].set(KEY), x.at[1:3].multiply(100.0))
    np.testing.assert_array_equal(others[3:], together[3:])


def assert_float64_and_gradient(run, make, value=20.0):
    """float64 in, float64 out, and the derivative by a field of the process is right."""

    @jax.jit
    def end(value):
        sde = make(value)
        x, _ = run(KEY, sde, gaussian_denoiser(sde), jnp.ones((1,)))
        assert x.dtype == jnp.float64
        return x[0]

    gradient = jax.jit(jax.grad(end))(value)
    expected = (end(value + 1e-4) - end(value - 1e-4)) / 2e-4
    assert abs(expected) > 1e-6
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)
