r"""Sliced Wasserstein-2 distance between two empirical samples.

In one dimension optimal transport is sorting: with the quantile functions F^{-1} and G^{-1} of two
samples, W2^2 = \int_0^1 (F^{-1}(u) - G^{-1}(u))^2 du. The sliced distance averages this over
directions theta, uniform on the unit sphere of R^d:

    SW2^2(P, Q) = E_theta W2^2(theta . P, theta . Q).

The quantile functions of n and m points are constant between the levels i/n and j/m, so the
integral is a finite sum for any two sizes; nothing is interpolated or thrown away. A translation by
delta gives SW2 = |delta| / sqrt(d), which fixes the unit: it is the unit of one coordinate.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from sdejax.types import Key, Scalar


def random_directions(key: Key, num: int, dim: int) -> Float[Array, "{num} {dim}"]:
    """Draw directions uniformly from the unit sphere.

    Args:
        key: a random key.
        num: how many directions.
        dim: the dimension of the space.

    Returns:
        Unit vectors, [num, dim].
    """
    normal = jax.random.normal(key, (num, dim))
    return normal / jnp.linalg.norm(normal, axis=-1, keepdims=True)


def quantile_pairs(
    n: int, m: int
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Which order statistics of n and of m points meet, and over how much of [0, 1].

    The levels i/n and j/m are compared as the integers i m and j n: no rounding moves a boundary.

    Args:
        n: size of the first sample.
        m: size of the second sample.

    Returns:
        Ranks in the first sample, ranks in the second, and the lengths, which sum to one.
    """
    levels = np.union1d(np.arange(n + 1) * m, np.arange(m + 1) * n)
    left = levels[:-1]
    return left // m, left // n, np.diff(levels) / (n * m)


def projected_wasserstein(
    directions: Float[Array, "p d"], x: Float[Array, "n ..."], y: Float[Array, "m ..."]
) -> Float[Array, " p"]:
    """Squared Wasserstein-2 distance of the two samples along each direction.

    Args:
        directions: unit vectors of the flattened event space, [p, d].
        x: first sample, [n, *event].
        y: second sample, [m, *event].

    Returns:
        W2^2 per direction, [p]; their mean estimates SW2^2, their spread its standard error.

    Raises:
        ValueError: if a sample is empty or the event shapes differ.
    """
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"x and y must hold events of one shape: got x {x.shape[1:]} and y {y.shape[1:]}"
        )
    if not (x.shape[0] and y.shape[0]):
        raise ValueError(f"x and y must not be empty: got {x.shape[0]} and {y.shape[0]} examples")
    rank_x, rank_y, lengths = quantile_pairs(x.shape[0], y.shape[0])
    measure = jnp.asarray(lengths, x.dtype)
    x, y = (z.reshape(z.shape[0], -1) for z in (x, y))

    def along(theta):
        # Full precision: the accelerators' default would round the projections to a few digits.
        u, v = (jnp.sort(jnp.dot(z, theta, precision=jax.lax.Precision.HIGHEST)) for z in (x, y))
        return jnp.sum(measure * (u[rank_x] - v[rank_y]) ** 2)

    # A few directions at a time: memory does not grow with their number.
    return jax.lax.map(along, directions, batch_size=32)


def sliced_wasserstein(
    key: Key, x: Float[Array, "n ..."], y: Float[Array, "m ..."], *, num_projections: int = 512
) -> Scalar:
    """Sliced Wasserstein-2 distance, SW2 = sqrt(E_theta W2^2(theta . x, theta . y)).

    Two finite samples of one distribution are not at distance zero: compare with the distance of
    two real samples of the same sizes (``sdejax.metrics.report``). The same key gives the same
    directions, so distances that are compared share their projection noise.

    Args:
        key: draws the directions.
        x: first sample, [n, *event].
        y: second sample, [m, *event]; n and m may differ.
        num_projections: how many random directions; the relative error of SW2^2 falls as
            1/sqrt(num_projections).

    Returns:
        The distance, in the unit of one coordinate of the data.

    Raises:
        ValueError: if a sample is empty, the event shapes differ or there is no projection.

    Reference:
        Rabin, Peyre, Delon, Bernot 2011, Wasserstein barycenter and its application to texture
        mixing; Bonneel, Rabin, Peyre, Pfister 2015, Sliced and Radon Wasserstein barycenters of
        measures.
    """
    if num_projections < 1:
        raise ValueError(f"num_projections must be at least 1: got {num_projections}")
    directions = random_directions(key, num_projections, int(np.prod(x.shape[1:])))
    squared = projected_wasserstein(directions.astype(x.dtype), x, y)
    return jnp.sqrt(jnp.mean(squared))
