"""Held against brute force in float64, for chunks that divide the training set and that do not."""

import jax.numpy as jnp
import numpy as np
import pytest

from sdejax.metrics.nearest import nearest_distances


def images(seed: int, n: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(3.0, 1.0, size=(n, 4, 4, 1)).astype(np.float32)


@pytest.mark.parametrize("chunk", [1, 7, 10, 50, 1024])
def test_against_brute_force(chunk):
    x, train = images(0, 23), images(1, 50)
    distance, index = nearest_distances(jnp.asarray(x), jnp.asarray(train), chunk=chunk)
    full = np.linalg.norm((x[:, None] - train[None]).reshape(23, 50, -1).astype(np.float64), axis=2)
    np.testing.assert_array_equal(index, full.argmin(1))
    np.testing.assert_allclose(distance, full.min(1), rtol=1e-6)


def test_copies_are_at_distance_zero_even_far_from_the_origin():
    train = images(2, 40) + 1000
    distance, index = nearest_distances(jnp.asarray(train[::-1]), jnp.asarray(train), chunk=16)
    np.testing.assert_array_equal(distance, 0)
    np.testing.assert_array_equal(index, np.arange(40)[::-1])


def test_misuse():
    with pytest.raises(ValueError, match="one shape"):
        nearest_distances(jnp.zeros((2, 3)), jnp.zeros((2, 4)))
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        nearest_distances(jnp.zeros((2, 3)), jnp.zeros((2, 3)), chunk=0)
    with pytest.raises(ValueError, match="train must not be empty"):
        nearest_distances(jnp.zeros((2, 3)), jnp.zeros((0, 3)))
