"""DDPM's chain: its levels against the product that defines them, in exact arithmetic."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdejax import grids, processes
from sdejax.discrete import ddpm
from sdejax.sde import coefficients, log_snr


def products(beta_min, beta_max, levels):
    """alpha_i^2 and sigma_i^2, multiplied out in rationals of bounded size, for every level."""
    first, last = Fraction(beta_min) / levels, Fraction(beta_max) / levels
    kept, alphas, sigmas = Fraction(1), [], []
    for k in range(levels):
        kept *= 1 - (first + (last - first) * k / (levels - 1))
        kept = Fraction(round(kept * 2**200), 2**200)
        alphas.append(float(kept))
        sigmas.append(float(1 - kept))
    return np.asarray(alphas), np.asarray(sigmas)


CHAINS = [("0.1", "20", 1000), ("0.1", "20", 200), ("1", "3", 50)]  # the first is published


@pytest.mark.parametrize(("low", "high", "levels"), CHAINS)
def test_the_levels_are_the_chain(x64, low, high, levels):
    sde = ddpm(float(low), float(high), levels)
    t = jnp.arange(levels) / (levels - 1)
    alpha, sigma = jax.jit(jax.vmap(lambda t: (sde.alpha(t), sde.sigma(t))))(t)
    alphas, sigmas = products(low, high, levels)
    # What Euler-Maclaurin leaves out: 7/5760 d^3 h''' with d = 1e-4 and h''' = 2 for N = 200.
    np.testing.assert_allclose(alpha**2, alphas, rtol=1e-11)
    np.testing.assert_allclose(sigma**2, sigmas, rtol=1e-9)


@pytest.mark.parametrize(("low", "high", "levels"), [("0.1", "0.2", 2), ("0.051", "5", 50)])
def test_the_roughest_chains_are_described_to_six_digits(x64, low, high, levels):
    sde = ddpm(float(low), float(high), levels)
    sigma = jax.vmap(sde.sigma)(jnp.arange(levels) / (levels - 1))
    np.testing.assert_allclose(sigma, np.sqrt(products(low, high, levels)[1]), rtol=1e-6)


@pytest.mark.parametrize(("low", "high", "levels"), CHAINS)
def test_the_levels_are_the_chain_in_float32(low, high, levels):
    sde = ddpm(float(low), float(high), levels)
    t = np.arange(levels, dtype=np.float32) / np.float32(levels - 1)
    alpha, sigma = jax.jit(jax.vmap(lambda t: (sde.alpha(t), sde.sigma(t))))(jnp.asarray(t))
    alphas, sigmas = products(low, high, levels)
    seen = alphas >= 1e-6
    np.testing.assert_allclose(alpha[seen], np.sqrt(alphas[seen]), rtol=2e-6)
    np.testing.assert_allclose(sigma, np.sqrt(sigmas), rtol=1e-6)


def test_between_the_levels_it_is_smooth(x64):
    """Cubic interpolation of neighbouring levels, in log alpha, meets it in between."""
    sde, n = ddpm(), 1000
    log = jax.vmap(lambda i: jnp.log(sde.alpha(i / (n - 1))))
    i = jnp.arange(1.0, n - 2)
    cubic = (9 * (log(i) + log(i + 1)) - log(i - 1) - log(i + 2)) / 16
    np.testing.assert_allclose(log(i + 0.5), cubic, rtol=1e-9)


def test_many_levels_are_the_vp_process(x64):
    t = jnp.linspace(0.05, 1.0, 20)
    gaps = []
    for levels in (1000, 10_000, 100_000):
        alpha, want = (jax.vmap(sde.alpha)(t) for sde in (ddpm(levels=levels), processes.vp()))
        gaps.append(float(jnp.max(jnp.abs(jnp.log(alpha / want)))))
    assert gaps[0] < 0.06
    np.testing.assert_allclose(np.divide(gaps[:2], gaps[1:]), 10.0, rtol=0.1)  # of order 1/levels


def test_it_is_finite_from_end_to_end_and_its_log_snr_is_inverted():
    sde = ddpm()
    assert (sde.t_min, sde.t_max, sde.prior_std) == (0.0, 1.0, 1.0)
    for t in (0.0, 0.5, 1.0):
        assert np.all(np.isfinite(np.asarray(coefficients(sde, t))))
        np.testing.assert_allclose(sde.time_of_log_snr(log_snr(sde, jnp.float32(t))), t, atol=1e-5)
    np.testing.assert_allclose(sde.sigma(0.0), 0.01, rtol=1e-6)  # the root of beta_0 = 1e-4
    ts = grids.uniform(sde, 999)
    np.testing.assert_allclose(ts * 999, np.arange(1000)[::-1], atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beta_min": 0.0}, "got beta_min=0.0, beta_max=20.0"),
        ({"beta_min": 30.0}, "got beta_min=30.0"),
        ({"levels": 1, "beta_max": 0.09, "beta_min": 0.01}, "levels=1; expected at least 2"),
        ({"beta_min": 1e-6, "beta_max": 100.0}, "half the distance to the second"),
        ({"levels": 100}, "levels >= 200"),
    ],
)
def test_chains_that_the_formulas_do_not_describe_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"ddpm: .*{message}|ddpm: {message}"):
        ddpm(**arguments)
