"""Held against one-dimensional closed forms, translations, scalings and optimal assignment."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from sdejax.metrics.sliced_wasserstein import (
    projected_wasserstein,
    quantile_pairs,
    random_directions,
    sliced_wasserstein,
)

KEY = jax.random.key(0)


def skewed(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).gamma(1.5, size=shape), jnp.float32)


def test_directions_are_isotropic_unit_vectors():
    theta = np.asarray(random_directions(KEY, 4000, 5))
    np.testing.assert_allclose(np.linalg.norm(theta, axis=1), 1, rtol=1e-6)
    # E theta theta^T = I/5; the variance of theta_i theta_j is at most 8/175.
    error = np.abs(theta.T @ theta / 4000 - np.eye(5) / 5).max()
    assert error < 5 * np.sqrt(8 / 175 / 4000)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 3), (2, 5), (6, 4), (7, 1), (30, 31)])
def test_quantile_pairs_are_a_coupling_with_uniform_marginals(n, m):
    i, j, length = quantile_pairs(n, m)
    np.testing.assert_allclose(np.bincount(i, length, n), 1 / n, rtol=1e-12)
    np.testing.assert_allclose(np.bincount(j, length, m), 1 / m, rtol=1e-12)
    assert np.all(np.diff(i) >= 0)
    assert np.all(np.diff(j) >= 0)


def test_one_dimension_by_hand():
    # F^-1 = 0 | 3 on halves, G^-1 = 0 | 1 | 2 on thirds:
    # the pieces are 0-0 (1/3), 0-1 (1/6), 3-1 (1/6), 3-2 (1/3).
    x, y = jnp.array([[3.0], [0.0]]), jnp.array([[2.0], [0.0], [1.0]])
    expected = np.sqrt(1 / 6 + 4 / 6 + 1 / 3)
    np.testing.assert_allclose(
        sliced_wasserstein(KEY, x, y, num_projections=4), expected, rtol=1e-6
    )


def test_unequal_sizes_agree_with_repeated_samples():
    # Repeating every point changes no empirical distribution: n = 6 against m = 4 at 12 each.
    x, y = skewed(1, 6, 3), -skewed(2, 4, 3)
    theta = random_directions(KEY, 16, 3)
    repeated = projected_wasserstein(theta, jnp.repeat(x, 2, 0), jnp.repeat(y, 3, 0))
    np.testing.assert_allclose(projected_wasserstein(theta, x, y), repeated, rtol=1e-5)


def test_w1_of_scipy_bounds_w2_from_below_and_meets_it_for_a_shift():
    x, y = skewed(1, 50, 1), skewed(2, 37, 1) * 2
    w2 = float(sliced_wasserstein(KEY, x, y, num_projections=2))
    assert w2 > wasserstein_distance(x[:, 0], y[:, 0])
    shifted = float(sliced_wasserstein(KEY, x, x + 0.7, num_projections=2))
    np.testing.assert_allclose(shifted, wasserstein_distance(x[:, 0], x[:, 0] + 0.7), rtol=1e-5)


def test_translation_in_standard_errors_and_exactly_per_direction():
    x, shift = skewed(3, 40, 2, 3), skewed(4, 2, 3)
    theta = random_directions(KEY, 2048, 6)
    squared = np.asarray(projected_wasserstein(theta, x, x + shift))
    np.testing.assert_allclose(squared, np.asarray(theta @ shift.reshape(-1)) ** 2, atol=1e-4)
    expected = float(jnp.sum(shift**2)) / 6
    assert abs(squared.mean() - expected) < 5 * squared.std() / np.sqrt(2048)
    assert squared.std() > 0


def test_gaussians_of_different_scale():
    # Along any theta: W2 = |s1 - s2|. The empirical quantiles of n points of N(0, s^2) err by a
    # standard error of about s/sqrt(2n) in the fitted scale; the tails bias W2^2 by O(log log n/n).
    n, key = 20_000, jax.random.split(KEY)
    x, y = jax.random.normal(key[0], (n, 2)), 2.5 * jax.random.normal(key[1], (n, 2))
    distance = float(sliced_wasserstein(KEY, x, y, num_projections=64))
    assert abs(distance - 1.5) < 5 * np.sqrt((1 + 2.5**2) / (2 * n))


def test_symmetric_positive_and_blind_to_order():
    x, y = skewed(5, 30, 4), skewed(6, 20, 4)
    shuffled = jax.random.permutation(KEY, x)
    distance = sliced_wasserstein(KEY, x, y)
    np.testing.assert_allclose(distance, sliced_wasserstein(KEY, y, x), rtol=1e-6)
    np.testing.assert_allclose(distance, sliced_wasserstein(KEY, shuffled, y), rtol=1e-6)
    assert float(sliced_wasserstein(KEY, x, shuffled)) == 0.0
    assert float(distance) > 0


def test_homogeneous_under_jit_and_in_float64(x64):
    x, y = (jnp.asarray(z, jnp.float64) for z in (skewed(5, 30, 4), skewed(6, 20, 4)))
    jitted = jax.jit(sliced_wasserstein, static_argnames="num_projections")
    one = sliced_wasserstein(KEY, x, y)
    assert one.dtype == jnp.float64
    np.testing.assert_allclose(jitted(KEY, 3 * x, 3 * y, num_projections=512), 3 * one, rtol=1e-12)


@pytest.mark.parametrize(
    ("x", "y", "num", "message"),
    [
        (jnp.zeros((3, 2)), jnp.zeros((3, 4)), 8, "one shape"),
        (jnp.zeros((0, 2)), jnp.zeros((3, 2)), 8, "empty"),
        (jnp.zeros((3, 2)), jnp.zeros((3, 2)), 0, "num_projections"),
    ],
)
def test_misuse(x, y, num, message):
    with pytest.raises(ValueError, match=message):
        sliced_wasserstein(KEY, x, y, num_projections=num)
