"""Scaling: the affine map between stored and network values, per entry of the last axis,

    y = (x - offset) / scale,        x = scale y + offset.

It is kept with every checkpoint, since samples are meaningless without it. Integers 0 .. L-1 map
onto [-1, 1] with ``offset = scale = (L - 1) / 2``; one stored level is then 1/scale wide, which is
what dequantisation and bits per dimension need. ``uncentred`` data lie in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8


class Scaling(NamedTuple):
    """``y = (x - offset) / scale`` along the last axis; ``levels``: stored integers or None."""

    offset: tuple[float, ...] = (0.0,)
    scale: tuple[float, ...] = (1.0,)
    levels: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a dict of lists and numbers; ``Scaling.from_json`` undoes it."""
        return {"offset": list(self.offset), "scale": list(self.scale), "levels": self.levels}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Scaling:
        """Rebuild a scaling from what ``to_json`` gave."""
        return cls(tuple(saved["offset"]), tuple(saved["scale"]), saved["levels"])


def integers(levels: int) -> Scaling:
    """Scale the integers 0 .. levels - 1 onto [-1, 1]; 256 for 8-bit images."""
    half = (levels - 1) / 2
    return Scaling((half,), (half,), levels)


def uncentred(scaling: Scaling) -> Scaling:
    """Scale the same integers onto [0, 1] instead, as VE models of images are published.

    Raises:
        ValueError: for real-valued data, which have no range.
    """
    if scaling.levels is None:
        raise ValueError(
            "data.centered: got False for real-valued data; expected stored integers, whose range "
            "becomes [0, 1]; set it to True"
        )
    return Scaling((0.0,), (float(scaling.levels - 1),), scaling.levels)


def bounds(scaling: Scaling) -> tuple[float, float]:
    """Smallest and largest network value of stored integers: (-1, 1), or (0, 1) uncentred.

    Raises:
        ValueError: for real-valued data, which have no range.
    """
    if scaling.levels is None:
        raise ValueError("scaling.levels: got None (real-valued data), which have no range")
    ends = [
        ((k - offset) / scale)
        for k in (0, scaling.levels - 1)
        for offset, scale in zip(scaling.offset, scaling.scale, strict=True)
    ]
    return min(ends), max(ends)


def standardise(x: Any, chunk: int = 4096) -> Scaling:
    """Scale to mean 0 and variance 1: per feature of a vector, one pair for anything larger.

    Two passes over the rows in chunks, in float64, so a memory map is never loaded whole. A
    feature that does not vary is only centred.

    Args:
        x: the *training* rows, a column of shape [n, *event].
        chunk: rows held at once.

    Returns:
        The scaling, with one entry per feature if the event is a vector, else one entry.

    Raises:
        ValueError: if there are NaN or infinite values.
    """
    axes = (0,) if len(x.shape) == 2 else tuple(range(len(x.shape)))

    def mean_of(fn: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        starts = range(0, len(x), chunk)
        blocks = (x[np.arange(s, min(s + chunk, len(x)))].astype(np.float64) for s in starts)
        total = sum(np.sum(fn(block), axis=axes) for block in blocks)
        return np.atleast_1d(total) / (len(x) * np.prod(x.shape[1:]) / np.size(total))

    mean = mean_of(lambda block: block)
    if not np.all(np.isfinite(mean)):
        raise ValueError("x: got NaN or infinite values, expected finite ones; clean the array")
    std = np.sqrt(mean_of(lambda block: (block - mean) ** 2))
    return Scaling(
        tuple(mean.tolist()),
        tuple(np.where(std > 64 * np.finfo(float).eps * np.abs(mean), std, 1.0).tolist()),
    )


def apply(scaling: Scaling, x: Any) -> Float32[np.ndarray, "..."]:
    """Map stored values to network values, y = (x - offset) / scale, as a fresh float32 array."""
    y = np.array(x, np.result_type(np.asarray(x).dtype, np.float32))
    y -= np.asarray(scaling.offset, y.dtype)
    y /= np.asarray(scaling.scale, y.dtype)
    return y.astype(np.float32, copy=False)


def invert(scaling: Scaling, y: Any) -> Float32[np.ndarray, "..."]:
    """Map network values to stored units, x = scale y + offset, neither rounded nor clipped."""
    y64 = np.asarray(y, np.float64)
    return (y64 * np.asarray(scaling.scale) + np.asarray(scaling.offset)).astype(np.float32)


def to_uint8(scaling: Scaling, y: Any) -> UInt8[np.ndarray, "..."]:
    """Map network values to the grey levels 0 .. 255 of a picture: nearest stored level, clipped.

    Raises:
        ValueError: if the stored values are not integers, so that no grey scale is defined.
    """
    if scaling.levels is None:
        raise ValueError(
            "scaling.levels: got None (real-valued data), expected a number of integer levels; "
            "plot real-valued data with a colour scale of your own"
        )
    top = scaling.levels - 1
    level = np.clip(np.rint(invert(scaling, y)), 0, top)
    return np.rint(level * (255 / top)).astype(np.uint8)
