"""Geometry and moments in closed form; statistics in standard errors, k = 5."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdejax.data.toy import TOYS, scale_of

N = 20_000
KEY = jax.random.key(0)
NOISY = {n: f for n, f in TOYS.items() if n != "checkerboard"}


@functools.cache
def draw(name, *noise):
    """N points in float64; one compilation for each set of static arguments."""
    jitted = jax.jit(lambda key: TOYS[name](key, N, *noise))
    return np.asarray(jitted(KEY), np.float64)


def close(values, expected):
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values) - expected) < 5 * error + 1e-6  # and what float32 leaves


@pytest.mark.parametrize("name", TOYS)
def test_moments_of_a_standard_normal(name):
    x = draw(name)
    close(x[:, 0], 0.0)
    close(x[:, 1], 0.0)
    close((x**2).sum(1), 2.0)


@pytest.mark.parametrize("name", NOISY)
@pytest.mark.parametrize("noise", [0.0, 0.7])
def test_moments_for_any_noise(name, noise):
    x = draw(name, noise)
    close(x[:, 0], 0.0)
    close((x**2).sum(1), 2.0)


@pytest.mark.parametrize("name", TOYS)
def test_pure_jitted_and_strict(name, strict):
    jitted = jax.jit(TOYS[name], static_argnums=1)
    x = jitted(KEY, 7)
    assert x.shape == (7, 2)
    assert x.dtype == jnp.float32
    np.testing.assert_array_equal(x, jitted(KEY, 7))
    assert np.abs(x - jitted(jax.random.key(1), 7)).max() > 1e-3


@pytest.mark.parametrize("name", TOYS)
def test_float64(name, x64):
    assert jax.eval_shape(lambda key: TOYS[name](key, 3), KEY).dtype == jnp.float64


def test_moons_are_two_half_circles():
    x = draw("two_moons", 0.0)
    raw = x * scale_of(0.5 * (3.25 - 2 / np.pi) - 0.3125, 0.0) + [0.5, 0.25]
    upper = np.abs(np.hypot(raw[:, 0], raw[:, 1]) - 1) < 1e-5
    lower = np.abs(np.hypot(raw[:, 0] - 1, raw[:, 1] - 0.5) - 1) < 1e-5
    assert np.all(upper | lower)
    assert raw[upper & ~lower, 1].min() > -1e-5  # the upper moon is above, the lower one below
    assert raw[lower & ~upper, 1].max() < 0.5 + 1e-5
    close(upper, 0.5)


def test_checkerboard_occupies_exactly_eight_cells_evenly():
    x = draw("checkerboard")
    cells = np.floor(x / (np.sqrt(3) / 2)).astype(int) + 2
    assert cells.min() == 0
    assert cells.max() == 3
    assert np.all(cells.sum(1) % 2 == 0)
    for i in range(4):
        for j in range(i % 2, 4, 2):
            close(np.all(cells == [i, j], axis=1), 1 / 8)
    inside = x / (np.sqrt(3) / 2) % 1  # uniform within a cell, the axes independent
    close(inside[:, 0], 0.5)
    close(inside[:, 1] ** 2, 1 / 3)
    close((inside[:, 0] - 0.5) * (inside[:, 1] - 0.5), 0.0)


def test_rings_have_four_radii():
    radius = np.linalg.norm(draw("rings", 0.0), axis=1) * scale_of(7.5, 0.0)
    np.testing.assert_allclose(radius, np.rint(radius), atol=1e-5)
    for k in range(1, 5):
        close(np.rint(radius) == k, 1 / 4)


def test_swiss_roll_is_a_spiral_of_one_and_a_half_turns():
    x = draw("swiss_roll", 0.0)
    centre = np.array([2.0, 2 / (3 * np.pi)])
    raw = x * scale_of(9.75 * np.pi**2 - (centre**2).sum(), 0.0) + centre
    u = np.linalg.norm(raw, axis=1)
    assert u.min() > 1.5 * np.pi - 1e-3
    assert u.max() < 4.5 * np.pi + 1e-3
    np.testing.assert_allclose(raw, u[:, None] * np.stack([np.cos(u), np.sin(u)], 1), atol=1e-3)
    close(u, 3 * np.pi)


def test_eight_gaussians_are_even_and_isotropic():
    noise = 0.05
    raw = draw("eight_gaussians", noise) * scale_of(1.0, noise)
    mode = np.rint(np.arctan2(raw[:, 1], raw[:, 0]) / (np.pi / 4)).astype(int) % 8
    centres = np.stack([np.cos(mode * np.pi / 4), np.sin(mode * np.pi / 4)], 1)
    for k in range(8):
        close(mode == k, 1 / 8)
    close(((raw - centres) ** 2).sum(1), 2 * noise**2)


def test_two_gaussians_are_skewed_to_the_right():
    noise = 0.05
    x = draw("two_gaussians", noise)
    raw = x * scale_of(0.84, noise) + [0.4, 0.0]
    close(raw[:, 0] > 0, 0.7)
    close(raw[raw[:, 0] > 0, 0], 1.0)
    close(raw[raw[:, 0] < 0, 0], -1.0)
