"""Initialisation and normalisation against their formulas."""

import flax.linen as nn
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


@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_normalisation_is_that_of_float64_and_of_flax(mean):
    """Values to the rounding of x - mean; parameters and gradients are those of flax."""
    x = np.float32(mean + 4 * np.random.default_rng(0).normal(size=(2, 16, 8, 32)))
    layer = norm(32, 4)
    theirs = nn.GroupNorm(8, epsilon=1e-6, use_fast_variance=False)
    fresh = layer.init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, fresh, theirs.init(jax.random.key(0), x))
    scale, bias = (np.random.default_rng(i).normal(size=32) for i in (1, 2))
    params = {"params": {"scale": jnp.float32(scale), "bias": jnp.float32(bias)}}
    groups = x.astype(np.float64).reshape(2, 128, 8, 4)
    unit = (groups - groups.mean((1, 3), keepdims=True)) / groups.std((1, 3), keepdims=True)
    want = unit.reshape(x.shape) * scale + bias
    tolerance = 1e-5 + mean * 2.0**-22  # the mean is rounded by half a unit of 2^-23
    np.testing.assert_allclose(layer.apply(params, x), want, atol=tolerance)

    def gradients(module):
        loss = jax.grad(lambda p, x: jnp.sum(jnp.sin(module.apply(p, x))), argnums=(0, 1))
        return jax.jit(loss)(params, x - jnp.float32(mean))

    for a, b in zip(*map(jax.tree.leaves, map(gradients, (layer, theirs))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)
