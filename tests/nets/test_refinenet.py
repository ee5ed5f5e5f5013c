"""The blocks of RefineNet against what they compute on weights that can be followed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from quick import jit, random_params

from sdejax.nets.refinenet import (
    ChainedPooling,
    Fusion,
    RefineNet,
    ResidualBlock,
    ResidualUnits,
    check_unlabelled,
    max_pool,
    mean_pool,
    resize_bilinear,
)

RNG = np.random.default_rng(0)
X = RNG.gamma(2.0, size=(2, 6, 9, 3)) - 1.0


def per_channel(fn, x):
    return np.stack([[fn(image[..., k]) for k in range(x.shape[-1])] for image in x]).transpose(
        0, 2, 3, 1
    )


def test_max_pooling_is_that_of_scipy():
    def window(image):
        return scipy.ndimage.maximum_filter(image, 5, mode="constant", cval=-np.inf)

    np.testing.assert_array_equal(
        max_pool(jnp.asarray(X - 9)), np.float32(per_channel(window, X - 9))
    )


def test_mean_pooling_is_that_of_scipy_with_zeros_beyond_the_border():
    def window(image):
        return scipy.ndimage.uniform_filter(image, 5, mode="constant", cval=0.0)

    with jax.enable_x64(True):
        got = np.asarray(mean_pool(jnp.asarray(X)))
    np.testing.assert_allclose(got, per_channel(window, X), rtol=0, atol=1e-14)


@pytest.mark.parametrize("size", [(12, 18), (7, 9), (6, 9), (3, 17), (1, 4)])
def test_resizing_is_scipy_s_with_corners_on_corners(size):
    def zoom(image):
        factors = [to / n for to, n in zip(size, image.shape, strict=True)]
        return scipy.ndimage.zoom(image, factors, order=1, mode="nearest", grid_mode=False)

    with jax.enable_x64(True):
        got = np.asarray(resize_bilinear(jnp.asarray(X), *size))
    np.testing.assert_allclose(got, per_channel(zoom, X), rtol=0, atol=1e-13)


def test_resizing_keeps_planes_and_corners():
    i, j = np.mgrid[0:4, 0:4] / 3
    big_i, big_j = np.mgrid[0:8, 0:8] / 7
    plane = (2 * i - 5 * j + 1)[None, ..., None]
    want = (2 * big_i - 5 * big_j + 1)[None, ..., None]
    np.testing.assert_allclose(resize_bilinear(jnp.float32(plane), 8, 8), want, atol=1e-5)


def apply(net, x):
    """The output for parameters with which every convolution hands its input on."""
    x = jax.tree.map(jnp.asarray, x)
    shapes = jax.eval_shape(net.init, jax.random.key(0), x)

    def leaf(path, like):
        kernel = np.zeros(like.shape)
        if path[-1].key == "kernel":
            kernel[like.shape[0] // 2, like.shape[1] // 2] = np.eye(*like.shape[2:])
        return jnp.asarray(kernel, jnp.float32)

    return net.apply(jax.tree_util.tree_map_with_path(leaf, shapes), x)


def elu(x):
    return np.where(x > 0, x, np.expm1(x))


def test_residual_units_add_two_activations_each():
    x = np.float32(X)
    net = ResidualUnits(2)
    once = x + elu(elu(x))
    got = apply(net, x)
    np.testing.assert_allclose(got, once + elu(elu(once)), rtol=1e-5, atol=1e-6)


def test_chained_pooling_sums_windows_of_one_five_and_nine():
    x = np.float32(X)

    def window(size):
        def largest(image):
            return scipy.ndimage.maximum_filter(image, size, mode="constant", cval=-np.inf)

        return per_channel(largest, elu(x))

    net = ChainedPooling(max_pool)
    want = elu(x) + window(5) + window(9)
    np.testing.assert_allclose(apply(net, x), want, rtol=1e-5, atol=1e-6)


def test_fusion_adds_the_smaller_input_enlarged():
    large, small = (
        np.float32(RNG.normal(size=(2, 8, 6, 3))),
        np.float32(RNG.normal(size=(2, 4, 3, 5))),
    )
    net = Fusion(4)
    got = apply(net, [large, small])
    want = np.zeros((2, 8, 6, 4))
    want[..., :3] += large
    want += np.asarray(resize_bilinear(jnp.asarray(small), 8, 6))[..., :4]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("first", "dilation"), [(False, 1), (False, 4), (True, 2), (True, 1)])
def test_a_residual_block_reaches_as_far_as_its_dilation(first, dilation):
    """One pixel moves those whole multiples of the dilation away, at most twice, and no others."""
    net = ResidualBlock(3, first, dilation)
    x = jnp.asarray(RNG.normal(size=(1, 20, 20, 3)), jnp.float32)
    params = random_params(net, x)
    moved = jit(net.apply)(params, x.at[0, 10, 10].add(1.0)) - jit(net.apply)(params, x)
    touched = np.abs(np.asarray(moved[0])).max(-1) > 1e-6
    offsets = np.arange(20) - 10
    if first and dilation == 1:  # 20 pixels, seen two by two
        reached = np.abs(np.arange(10) - 5) <= 1
    else:
        reached = (np.abs(offsets) <= 2 * dilation) & (offsets % dilation == 0)
    np.testing.assert_array_equal(touched, np.outer(reached, reached))


def test_a_block_that_halves_is_the_mean_over_four_pixels_of_one_that_does_not():
    """On weights that hand on: x + conv2(elu(conv1(elu x))) before the mean, after it the same."""
    x = np.float32(RNG.normal(size=(2, 6, 4, 3)))
    net = ResidualBlock(3, first=True)
    whole = x + elu(elu(x))
    want = (
        whole[:, ::2, ::2] + whole[:, 1::2, ::2] + whole[:, ::2, 1::2] + whole[:, 1::2, 1::2]
    ) / 4
    np.testing.assert_allclose(apply(net, x), want, rtol=1e-5, atol=1e-6)


def test_fresh_kernels_are_uniform_with_variance_one_third_of_the_fan():
    x = jnp.zeros((1, 4, 4, 60))
    kernel = ResidualUnits(1).init(jax.random.key(0), x)["params"]["conv_0_0"]["kernel"]
    bound = 1 / np.sqrt(9 * 60)
    assert 0.99 * bound < np.abs(kernel).max() <= bound


SMALL = {"out_channels": 2, "nf": 4, "ch_mult": (1, 2), "dilations": (1, 1)}


def test_the_whole_network_is_zero_before_training_and_every_weight_learns():
    net = RefineNet(**SMALL, pool=mean_pool)
    x = jnp.asarray(RNG.normal(size=(2, 8, 4, 3)), jnp.float32)
    fresh = jit(net.init)(jax.random.key(0), x)
    out = net.apply(fresh, x)
    assert out.shape == (2, 8, 4, 2)
    assert not np.any(out)
    params = random_params(net, x)
    weight = jnp.asarray(RNG.normal(size=out.shape), jnp.float32)
    grads = jit(jax.grad(lambda p: (net.apply(p, x) * weight).sum()))(params)
    for path, g in jax.tree_util.tree_flatten_with_path(grads)[0]:
        assert np.isfinite(g).all(), path
        assert np.abs(g).max() > 1e-6, path


@pytest.mark.parametrize(
    ("changes", "shape", "message"),
    [
        ({}, (1, 7, 8, 3), "got images of 7x8, expected sides divisible by 2"),
        (
            {"ch_mult": (1, 1, 1), "dilations": (1, 1, 1)},
            (1, 8, 6, 3),
            "divisible by 4.*halve them 2 times",
        ),
        ({"dilations": (1, 1, 2)}, (1, 8, 8, 3), r"dilations: got \(1, 1, 2\) for 2 stages"),
        ({"dilations": (2, 1)}, (1, 8, 8, 3), "the first of them 1"),
    ],
)
def test_what_the_network_refuses(changes, shape, message):
    net = RefineNet(**{**SMALL, **changes}, pool=max_pool)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(net.init, jax.random.key(0), jnp.zeros(shape))


def test_labels_are_refused():
    check_unlabelled(None)
    with pytest.raises(ValueError, match="cond: got labels"):
        check_unlabelled(jnp.array([1]))
