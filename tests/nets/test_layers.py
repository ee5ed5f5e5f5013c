"""Initialisation and normalisation against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdejax.nets.layers import conv, dense, norm


def test_kernels_are_uniform_with_variance_over_the_mean_fan():
    x = jnp.zeros((1, 4, 4, 24))
    kernel = conv(40).init(jax.random.key(0), x)["params"]["kernel"]
    variance = 1 / (9 * (24 + 40) / 2)
    assert np.abs(kernel).max() <= np.sqrt(3 * variance)
    assert np.abs(kernel).max() > 0.99 * np.sqrt(3 * variance)
    # the kurtosis of a uniform variable is 1.8: the standard error of its variance
    error = variance * np.sqrt(0.8 / kernel.size)
    assert abs(kernel.var() - variance) < 5 * error


def test_scale_shrinks_the_variance_and_zero_is_exact():
    x = jnp.zeros((1, 50))
    small = dense(60, scale=0.1).init(jax.random.key(0), x)["params"]["kernel"]
    large = dense(60).init(jax.random.key(0), x)["params"]["kernel"]
    np.testing.assert_allclose(small, large * np.sqrt(0.1), rtol=1e-5)
    np.testing.assert_array_equal(
        dense(60, scale=0.0).init(jax.random.key(0), x)["params"]["kernel"], 0
    )


@pytest.mark.parametrize(
    ("channels", "group_size", "groups"),
    [(128, 4, 32), (48, 4, 12), (16, 4, 4), (64, 1, 32), (512, 1, 32), (3, 4, 1), (132, 4, 22)],
)
def test_the_number_of_groups(channels, group_size, groups):
    assert norm(channels, group_size).num_groups == groups


def test_statistics_are_those_of_float32_even_for_bfloat16_with_a_large_mean():
    x = 300 + 4 * jax.random.normal(jax.random.key(0), (1, 8, 8, 8))
    x = x.astype(jnp.bfloat16)
    layer = norm(8, dtype=jnp.bfloat16)
    got = layer.apply(layer.init(jax.random.key(0), x), x)
    groups = np.asarray(x, np.float64).reshape(64, 2, 4)
    want = (groups - groups.mean((0, 2), keepdims=True)) / groups.std((0, 2), keepdims=True)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(got, np.float64).reshape(64, 2, 4), want, atol=0.02)
