"""Two-dimensional toy distributions, sampled exactly by pure functions of a key.

Each is centred and scaled, by closed-form constants, to E[x] = 0 and E|x|^2 = 2, the moments of a
standard normal in the plane; geometry below is given before that. ``noise`` is the standard
deviation of isotropic Gaussian noise in the same units.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sdejax.types import Key

Points = Float[Array, "n 2"]


def _finish(
    key: Key, points: Points, noise: float, centre: tuple[float, float], power: float
) -> Points:
    """Add noise, subtract the mean, and divide by sqrt(E|x - mean|^2 / 2)."""
    noisy = points + noise * jax.random.normal(key, points.shape, points.dtype)
    return (noisy - jnp.array([centre], points.dtype)) / scale_of(power, noise)


def scale_of(power: float, noise: float) -> float:
    """sqrt(E|x - mean|^2 / 2) of a shape with centred second moment ``power`` plus noise."""
    return float(np.sqrt(power / 2 + noise**2))


def _circle(angle: Float[Array, " n"]) -> Points:
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def two_moons(key: Key, n: int, noise: float = 0.1) -> Points:
    """Two interleaved half circles of radius 1.

    With u uniform on [0, pi]: (cos u, sin u), or (1 - cos u, 1/2 - sin u), with equal chance.

    Args:
        key: a typed key.
        n: number of points.
        noise: standard deviation of the noise.

    Returns:
        Points, [n, 2].
    """
    key_angle, key_moon, key_noise = jax.random.split(key, 3)
    upper = _circle(jax.random.uniform(key_angle, (n,), maxval=np.pi))
    lower = jnp.array([[1.0, 0.5]], upper.dtype) - upper
    points = jnp.where(jax.random.bernoulli(key_moon, shape=(n, 1)), upper, lower)
    # E|x|^2 is 1 above and 1 + 1 + 1/4 - 2/pi below; the mean is (1/2, 1/4).
    power = 0.5 * (1 + 2.25 - 2 / np.pi) - (0.25 + 0.0625)
    return _finish(key_noise, points, noise, (0.5, 0.25), power)


def checkerboard(key: Key, n: int) -> Points:
    """Uniform on the eight cells (i, j) with i + j even of a 4 x 4 board on [-2, 2]^2.

    Args:
        key: a typed key.
        n: number of points.

    Returns:
        Points, [n, 2]; a cell has the side sqrt(3)/2.
    """
    key_x, key_row, key_y, key_noise = jax.random.split(key, 4)
    x = jax.random.uniform(key_x, (n,), minval=-2, maxval=2)
    column = jnp.floor(x)
    row = 2.0 * jax.random.bernoulli(key_row, shape=(n,)).astype(x.dtype) - 2
    y = row + jnp.remainder(column, 2.0) + jax.random.uniform(key_y, (n,))
    return _finish(key_noise, jnp.stack([x, y], axis=-1), 0.0, (0.0, 0.0), 8 / 3)


def rings(key: Key, n: int, noise: float = 0.1) -> Points:
    """Four circles of radii 1, 2, 3, 4 around the origin, with equal chance.

    Args:
        key: a typed key.
        n: number of points.
        noise: standard deviation of the noise.

    Returns:
        Points, [n, 2].
    """
    key_angle, key_ring, key_noise = jax.random.split(key, 3)
    angle = jax.random.uniform(key_angle, (n,), maxval=2 * np.pi)
    radius = jax.random.randint(key_ring, (n, 1), 1, 5).astype(angle.dtype)
    return _finish(key_noise, radius * _circle(angle), noise, (0.0, 0.0), 7.5)


def swiss_roll(key: Key, n: int, noise: float = 0.5) -> Points:
    """Archimedean spiral u (cos u, sin u), u uniform on [3 pi / 2, 9 pi / 2].

    Args:
        key: a typed key.
        n: number of points.
        noise: standard deviation of the noise; neighbouring arms are 2 pi apart.

    Returns:
        Points, [n, 2].
    """
    key_angle, key_noise = jax.random.split(key)
    angle = jax.random.uniform(key_angle, (n,), minval=1.5 * np.pi, maxval=4.5 * np.pi)
    centre = (2.0, 2 / (3 * np.pi))  # integrals of u cos u and u sin u over the range, / 3 pi
    power = 9.75 * np.pi**2 - centre[0] ** 2 - centre[1] ** 2
    return _finish(key_noise, angle[:, None] * _circle(angle), noise, centre, power)


def eight_gaussians(key: Key, n: int, noise: float = 0.1) -> Points:
    """Eight Gaussians on the unit circle, at the angles k pi / 4, with equal chance.

    Args:
        key: a typed key.
        n: number of points.
        noise: standard deviation of each Gaussian.

    Returns:
        Points, [n, 2].
    """
    key_mode, key_noise = jax.random.split(key)
    mode = jax.random.randint(key_mode, (n,), 0, 8).astype(jnp.result_type(float))
    return _finish(key_noise, _circle(mode * (np.pi / 4)), noise, (0.0, 0.0), 1.0)


def two_gaussians(key: Key, n: int, noise: float = 0.25) -> Points:
    """Gaussians at (-1, 0) and (1, 0) with chances 0.3 and 0.7: skewed, so a sign error shows.

    Args:
        key: a typed key.
        n: number of points.
        noise: standard deviation of each Gaussian.

    Returns:
        Points, [n, 2].
    """
    key_mode, key_noise = jax.random.split(key)
    right = jax.random.bernoulli(key_mode, 0.7, (n,)).astype(jnp.result_type(float))
    points = jnp.stack([2.0 * right - 1, jnp.zeros_like(right)], axis=-1)
    return _finish(key_noise, points, noise, (0.4, 0.0), 0.84)


TOYS: dict[str, Callable[..., Points]] = {
    "two_moons": two_moons,
    "checkerboard": checkerboard,
    "rings": rings,
    "swiss_roll": swiss_roll,
    "eight_gaussians": eight_gaussians,
    "two_gaussians": two_gaussians,
}
