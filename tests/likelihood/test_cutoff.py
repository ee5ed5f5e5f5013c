"""The cut-off at t_min against Gaussian data, where both sides of it are known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stats import assert_mean

from sdejax import processes, truth
from sdejax.likelihood import as_is, log_likelihood, noised, rescaled

KEY = jax.random.key(0)
SDE = processes.vp(t_min=0.2)
M, S = np.asarray([1.0, -2.0]), np.asarray([0.5, 1.5])
DIST = truth.gaussian(jnp.asarray(M, jnp.float32), jnp.asarray(np.diag(S**2), jnp.float32))
X = jnp.asarray([0.4, -1.0])


def ends():
    beta = 0.1 * 0.2 + 19.9 * 0.2**2 / 2
    return np.exp(-beta / 2), np.sqrt(-np.expm1(-beta))


def log_normal(x, mean, std):
    z = (np.asarray(x) - mean) / std
    return np.sum(-0.5 * z**2 - np.log(std) - 0.5 * np.log(2 * np.pi), axis=-1)


def exact_prior(z):
    return truth.log_prob(DIST, SDE, z, SDE.t_max)


@functools.partial(jax.jit, static_argnums=0)
def run(cutoff, key=KEY):
    return log_likelihood(
        key, SDE, truth.denoiser(DIST, SDE), X, cutoff=cutoff, prior=exact_prior, tolerance=1e-6
    )


def test_as_is_is_the_density_at_t_min():
    alpha, sigma = ends()
    expected = log_normal(X, alpha * M, np.sqrt(alpha**2 * S**2 + sigma**2))
    np.testing.assert_allclose(run(as_is).log_p, expected, atol=2e-4)
    assert run(as_is).cutoff == 0.0


def test_rescaled_is_that_of_the_state_over_alpha():
    alpha, sigma = ends()
    expected = log_normal(X, M, np.sqrt(S**2 + (sigma / alpha) ** 2))
    found = run(rescaled)
    np.testing.assert_allclose(found.log_p, expected, atol=2e-4)
    np.testing.assert_allclose(found.cutoff, 2 * np.log(alpha), rtol=1e-5)


def test_noised_bounds_the_density_of_the_two_stages():
    """x_tmin from its density, then x about its denoised value: a Gaussian of closed form.

    The mean of exp(bound) is that density, the mean of the bound lies below its logarithm.
    """
    alpha, sigma = ends()
    v = alpha**2 * S**2 + sigma**2
    gain = alpha * S**2 / v  # x0_hat = m + gain (x_tmin - alpha m)
    density = log_normal(X, M, np.sqrt(gain**2 * v + (sigma / alpha) ** 2))
    found = jax.jit(jax.vmap(lambda k: run(noised, k)))(jax.random.split(KEY, 4000))
    assert_mean(np.exp(np.asarray(found.log_p) - density), 1.0)
    bound = np.asarray(found.log_p)
    assert bound.mean() + 5 * bound.std() / np.sqrt(4000) < density
    assert np.all(found.nfe == run(as_is, KEY).nfe + 1) or np.ptp(found.nfe) > 0


@pytest.mark.parametrize("cutoff", [as_is, rescaled, noised])
def test_parts_add_up(cutoff):
    found = run(cutoff)
    np.testing.assert_allclose(
        found.prior + found.divergence + found.cutoff, found.log_p, rtol=1e-6
    )
