"""Distance of each sample to its nearest training example: does a model repeat what it saw?

A model that memorised sits closer to the training set than fresh real data does. So the distances
of samples are read against those of held-out examples, never alone.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@partial(jax.jit, static_argnames="chunk")
def _nearest_index(
    x: Float[Array, "n d"], train: Float[Array, "m d"], chunk: int
) -> Int[Array, " n"]:
    """Index of the nearest row of ``train``, holding [n, chunk] distances at a time."""
    # |x - y|^2 = |x|^2 - 2 x.y + |y|^2, and |x|^2 does not change the order.
    num = train.shape[0]
    padding = -num % chunk
    offset = jnp.pad(jnp.sum(train**2, axis=-1), (0, padding), constant_values=jnp.inf)
    blocks = jnp.pad(train, ((0, padding), (0, 0))).reshape(-1, chunk, train.shape[1])

    def visit(best, block):
        start, rows, squares = block
        cross = jnp.dot(x, rows.T, precision=jax.lax.Precision.HIGHEST)
        score = squares - 2 * cross
        local = jnp.argmin(score, axis=-1)
        value = jnp.take_along_axis(score, local[:, None], axis=-1)[:, 0]
        closer = value < best[0]
        return (jnp.where(closer, value, best[0]), jnp.where(closer, start + local, best[1])), None

    starts = jnp.arange(0, num + padding, chunk)
    best = (jnp.full(x.shape[0], jnp.inf, x.dtype), jnp.zeros(x.shape[0], starts.dtype))
    (_, index), _ = jax.lax.scan(visit, best, (starts, blocks, offset.reshape(-1, chunk)))
    return index


def nearest_distances(
    x: Float[Array, "n ..."], train: Float[Array, "m ..."], *, chunk: int = 1024
) -> tuple[Float[Array, " n"], Int[Array, " n"]]:
    """Euclidean distance of each example to its nearest training example.

    The search uses the expanded square, one matrix product per chunk; the distance is then taken
    again by subtraction, so that an exact copy is at distance exactly zero.

    Args:
        x: the examples to judge, [n, *event].
        train: the training set, [m, *event].
        chunk: training examples compared at once; memory grows with n * chunk, not with n * m.

    Returns:
        distances: [n], in the unit of the data.
        indices: [n], which training example is nearest.

    Raises:
        ValueError: if the event shapes differ, ``train`` is empty or ``chunk`` is below one.
    """
    if x.shape[1:] != train.shape[1:]:
        raise ValueError(
            f"x and train must hold events of one shape: got x {x.shape[1:]} and "
            f"train {train.shape[1:]}"
        )
    if not train.shape[0] or chunk < 1:
        raise ValueError(
            f"train must not be empty and chunk must be at least 1: got {train.shape[0]} examples "
            f"and chunk={chunk}"
        )
    x, train = (z.reshape(z.shape[0], -1) for z in (x, train))
    centre = jnp.mean(train, axis=0, keepdims=True)  # smaller numbers cancel less
    index = _nearest_index(x - centre, train - centre, min(chunk, train.shape[0]))
    return jnp.linalg.norm(x - train[index], axis=-1), index
