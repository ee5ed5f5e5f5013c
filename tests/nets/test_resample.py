"""Resampling against zeros inserted and convolved in numpy, and against transposed convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sdejax.nets.resample import Downsample, Upsample, fir_down, fir_filter, fir_up, resize

IMAGE = np.random.default_rng(0).standard_normal((2, 6, 4, 3))
TAPS = [(1, 3, 3, 1), (1, 2, 3, 4), (1, 2, 1), (1, 4, 6, 4, 1), (1, 1)]


def filtered(image, taps, pad, gain):
    """True convolution with the outer product, zero padding, in numpy."""
    out = np.pad(image, ((0, 0), pad, pad, (0, 0)))
    k = np.array(taps) / sum(taps) * gain
    for axis in (1, 2):
        out = np.apply_along_axis(lambda v: np.convolve(v, k, "valid"), axis, out)
    return out


@pytest.mark.parametrize("taps", TAPS)
def test_fir_up_is_the_filter_on_the_image_with_zeros_inserted(x64, taps):
    zeros = np.zeros((2, 12, 8, 3))
    zeros[:, ::2, ::2] = IMAGE
    p = len(taps) - 2
    want = filtered(zeros, taps, ((p + 1) // 2 + 1, p // 2), gain=2)
    np.testing.assert_allclose(fir_up(jnp.asarray(IMAGE), taps), want, atol=1e-14)


@pytest.mark.parametrize("taps", TAPS)
def test_fir_down_is_the_filter_at_every_second_pixel(x64, taps):
    p = len(taps) - 2
    want = filtered(IMAGE, taps, ((p + 1) // 2, p // 2), gain=1)[:, ::2, ::2]
    np.testing.assert_allclose(fir_down(jnp.asarray(IMAGE), taps), want, atol=1e-14)


def test_flat_images_stay_flat_away_from_the_border():
    flat = jnp.ones((1, 8, 8, 1))
    np.testing.assert_allclose(fir_up(flat)[:, 1:-1, 1:-1], 1, rtol=1e-6)
    np.testing.assert_allclose(fir_down(flat)[:, 1:-1, 1:-1], 1, rtol=1e-6)


@pytest.mark.parametrize("fir", [False, True])
def test_resizing_a_ramp_keeps_pixel_centres(x64, fir):
    ramp = jnp.arange(8.0)[None, :, None, None] * jnp.ones((1, 8, 8, 1))
    down = resize(ramp, "down", fir, (1, 3, 3, 1))[0, 1:-1, 1, 0]
    np.testing.assert_allclose(down, [2.5, 4.5], atol=1e-14)
    up = resize(ramp, "up", fir, (1, 3, 3, 1))[0, 2:-2, 2, 0]
    centre = (np.arange(2, 14) - 0.5) / 2
    want = centre if fir else np.repeat(np.arange(1.0, 7.0), 2)
    np.testing.assert_allclose(up, want, atol=1e-14)


def with_parameters(layer, x):
    params = layer.init(jax.random.key(0), x)["params"]
    (name,) = params
    params[name]["bias"] = jnp.arange(1.0, 6.0)
    return layer.apply({"params": params}, x), name, params[name]


def correlate(x, kernel, **kwargs):
    return lax.conv_general_dilated(x, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **kwargs)


def test_fir_upsample_is_a_transposed_convolution_then_the_filter():
    x = jnp.asarray(IMAGE, jnp.float32)
    got, name, p = with_parameters(Upsample(5, fir=True), x)
    assert name == "Conv2d_0"
    h = correlate(
        x, p["kernel"], window_strides=(1, 1), padding=[(2, 2), (2, 2)], lhs_dilation=(2, 2)
    )
    want = 4 * fir_filter(h, (1, 3, 3, 1), (1, 1)) + p["bias"]
    assert got.shape == (2, 12, 8, 5)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_fir_downsample_is_the_filter_then_a_strided_convolution():
    x = jnp.asarray(IMAGE, jnp.float32)
    got, name, p = with_parameters(Downsample(5, fir=True), x)
    assert name == "Conv2d_0"
    h = jnp.asarray(filtered(IMAGE, (1, 3, 3, 1), (2, 2), gain=1), jnp.float32)
    want = correlate(h, p["kernel"], window_strides=(2, 2), padding="VALID") + p["bias"]
    assert got.shape == (2, 3, 2, 5)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_plain_resamplers_have_a_convolution_at_the_published_place():
    x = jnp.asarray(IMAGE, jnp.float32)
    got, name, p = with_parameters(Downsample(5), x)
    assert name == "Conv_0"
    pad = [(0, 1), (0, 1)]
    want = correlate(x, p["kernel"], window_strides=(2, 2), padding=pad) + p["bias"]
    np.testing.assert_allclose(got, want, atol=1e-5)
    got, name, p = with_parameters(Upsample(5), x)
    assert name == "Conv_0"
    twice = jnp.asarray(np.kron(IMAGE, np.ones((1, 2, 2, 1))), jnp.float32)
    want = correlate(twice, p["kernel"], window_strides=(1, 1), padding="SAME") + p["bias"]
    np.testing.assert_allclose(got, want, atol=1e-5)
