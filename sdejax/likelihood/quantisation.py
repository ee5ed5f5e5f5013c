"""Integers as bins of real numbers: a change of variables with a log-determinant.

Data are stored as integers k in 0 .. L-1 and networks see y = (k - offset)/scale, an affine map for
each entry of the last axis. A density p over y gives a probability to every integer,

    P(k) = int_{[0,1)^d} p(y(k, u)) |dy/du| du,    y(k, u) = (k + u - 1/2 - offset)/scale,

the mass of the bin, one stored level wide, in whose middle the network sees k (u = 1/2). So

    log |dy/du| = -sum_i log |scale_i|,    bits per dimension = -log2 P(k) / d,

and there is no offset to remember: L and the scaling are all there is. The masses of all L^d
integers add up to at most 1, what is missing being the mass of p outside of the outermost bins.

With 256 levels on [-1, 1] a bin is 2/255 wide. Bins of width 1/128 that begin at k, as for data
divided by 256, are another model of the same integers: their bits differ.

Reference: Theis et al. 2016, arXiv:1511.01844, section 3.1; Uria et al. 2013, arXiv:1306.0186.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from sdejax.types import Data, Scalar

Levels = Integer[Array, "*event"]  # the stored integers of one example


class Quantisation(NamedTuple):
    """How integers 0 .. levels - 1 are scaled: a number each, or one an entry of the last axis."""

    offset: Any
    scale: Any
    levels: int


def quantisation(offset: Any, scale: Any, levels: int | None) -> Quantisation:
    """A checked ``Quantisation``, with NumPy arrays.

    Args:
        offset: [] or [c], finite.
        scale: [] or [c], finite and not 0.
        levels: L; None for data that are no integers, which have no bits per dimension.

    Returns:
        The quantisation.

    Raises:
        ValueError: for numbers that describe none.
    """
    if levels is None or levels < 2:
        raise ValueError(
            f"levels: got {levels}; expected at least 2 stored integers: real-valued data have a "
            "density, in nats, and no bits per dimension of stored values"
        )
    q = Quantisation(np.asarray(offset, float), np.asarray(scale, float), int(levels))
    for name, value in zip(("offset", "scale"), q[:2], strict=True):
        if (
            value.ndim > 1
            or not np.all(np.isfinite(value))
            or (name == "scale" and not value.all())
        ):
            wanted = "finite numbers that are not 0" if name == "scale" else "finite numbers"
            raise ValueError(f"{name}: got {value.tolist()}; expected {wanted}, [] or [channels]")
    return q


def to_continuous(q: Quantisation, k: Levels, u: Data) -> Data:
    """``y = (k + u - 1/2 - offset)/scale``: a point of the bin of k.

    Args:
        q: the quantisation.
        k: stored integers [*event].
        u: place in the bin, in [0, 1) [*event]; 1/2 gives what networks see.

    Returns:
        y [*event], of u's dtype. In float32 y in [-1, 1] has steps of 6e-8, which is 1/500 of a bin
        of 16 bits; take float64 where that matters.
    """
    offset, scale = (_spread(value, u.shape, u.dtype) for value in q[:2])
    return (k.astype(u.dtype) - offset + (u - 0.5)) / scale


def to_discrete(q: Quantisation, y: Data) -> tuple[Integer[Array, "*event"], Data]:
    """The inverse: ``k = floor(scale y + offset + 1/2)`` and u, the rest.

    Args:
        q: the quantisation.
        y: [*event].

    Returns:
        k [*event], below 0 or above levels - 1 where y is outside of all bins, and u [*event].
    """
    offset, scale = (_spread(value, y.shape, y.dtype) for value in q[:2])
    v = scale * y + offset + 0.5
    k = jnp.floor(v)
    return k.astype(jnp.int32), v - k


def log_det(q: Quantisation, event_shape: tuple[int, ...], dtype: Any = None) -> Scalar:
    """``log |dy/du| = -sum_i log |scale_i|`` over the entries of an event.

    Args:
        q: the quantisation.
        event_shape: shape of one example.
        dtype: of the result, by default the working one.

    Returns:
        The log-determinant [], in nats.
    """
    dtype = dtype or jnp.result_type(float)
    return -jnp.sum(jnp.log(jnp.abs(_spread(q.scale, event_shape, dtype))))


def bits_per_dim(log_p: Float[Array, "*batch"], size: int) -> Float[Array, "*batch"]:
    """``-log P / (d log 2)``.

    Args:
        log_p: log-probabilities in nats [*batch].
        size: d, entries of an event.

    Returns:
        Bits per entry [*batch].
    """
    return -log_p / (size * math.log(2.0))


def bin_width(q: Quantisation) -> Float[np.ndarray, "..."]:
    """The width of a bin in y, 1/|scale|, [] or [c]: how far noise in training should reach."""
    return np.asarray(1.0 / np.abs(np.asarray(q.scale, float)))


def require_levels(q: Quantisation, k: Any) -> Integer[np.ndarray, "..."]:
    """Refuses, on the host, what is no integer of 0 .. levels - 1.

    Args:
        q: the quantisation.
        k: stored values, one example or many, integers or floats with integral values.

    Returns:
        They as int32.

    Raises:
        ValueError: naming the first offender and its place.
    """
    values = np.asarray(k)
    if not np.issubdtype(values.dtype, np.number) or np.iscomplexobj(values):
        raise ValueError(f"data: got values of dtype {values.dtype}; expected integers")
    with np.errstate(invalid="ignore"):
        wrong = ~((values >= 0) & (values < q.levels) & (values == np.floor(values)))
    if wrong.any():
        place = tuple(int(i) for i in np.unravel_index(int(np.argmax(wrong)), wrong.shape))
        raise ValueError(
            f"data: got {values[place]} at {list(place)}; expected integers 0 .. {q.levels - 1}, "
            "stored values before scaling; is this the data set that the model was trained on?"
        )
    return values.astype(np.int32)


def _spread(value: Any, shape: tuple[int, ...], dtype: Any) -> Data:
    """A number, or one for each entry of the last axis, over an event."""
    array = np.asarray(value, float)
    if array.size == 1:
        return jnp.full(shape, array.reshape(()).item(), dtype)
    if array.ndim != 1 or array.shape != tuple(shape[-1:]):
        raise ValueError(
            f"quantisation: got {list(array.shape)} numbers for events of shape {list(shape)}; "
            "expected one, or as many as the last axis has entries"
        )
    return jnp.broadcast_to(jnp.asarray(array, dtype), shape)
