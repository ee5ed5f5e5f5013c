"""Grids of images and their way from noise to data; a pixel stays a sharp square."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Num, UInt8
from matplotlib.figure import Figure

_WHITE = 255
_TOLERANCE = 1e-3  # less than half a grey level beyond [0, 1] is rounding


def to_pixels(images: Num[np.ndarray | jax.Array, "..."]) -> UInt8[np.ndarray, "..."]:
    """Bring images in [0, 1] to uint8; uint8 passes unchanged.

    Args:
        images: any shape, a first axis of examples; uint8 or floats in [0, 1].

    Returns:
        The same shape in uint8, rounded to the nearest level.

    Raises:
        ValueError: if values are not finite (it says in how many images) or outside [0, 1].
    """
    x = np.asarray(images)
    if x.dtype == np.uint8:
        return x
    x = x.astype(np.float32)
    if x.ndim > 1 and not np.isfinite(x).all():
        bad = int(np.sum(~np.isfinite(x).reshape(len(x), -1).all(axis=1)))
        raise ValueError(f"images must be finite: {bad} of {len(x)} hold NaN or infinity")
    if x.size and not (x.min() >= -_TOLERANCE and x.max() <= 1 + _TOLERANCE):
        raise ValueError(
            f"images must be uint8 or floats in [0, 1]: got [{x.min():.4g}, {x.max():.4g}]; "
            "bring data in [-1, 1] there by (x + 1) / 2 and clip"
        )
    return np.round(255 * x.clip(0, 1)).astype(np.uint8)


def image_grid(
    images: Num[np.ndarray | jax.Array, "..."],
    columns: int | None = None,
    *,
    scale: int | None = None,
    gap: int = 2,
) -> UInt8[np.ndarray, "height width c"]:
    """Lay images out row by row, each pixel as a square of ``scale`` pixels.

    Args:
        images: [n, h, w, c], c of 1, 3 or 4, uint8 or floats in [0, 1].
        columns: images per row; by default as square as possible.
        scale: whole-number enlargement (nearest neighbour, so that nothing is smoothed away); by
            default large enough to make an image at least 64 pixels wide.
        gap: white pixels between images.

    Returns:
        One picture, uint8, [rows * h * scale + gaps, columns * w * scale + gaps, c].

    Raises:
        ValueError: on another shape or range, or images that are not finite (it says how many).
    """
    x = np.asarray(images)
    if x.ndim != 4 or x.shape[-1] not in (1, 3, 4) or 0 in x.shape:
        raise ValueError(
            f"images must be [n, h, w, c] with c of 1, 3 or 4 and n > 0: got {list(x.shape)}"
        )
    n, h, w, c = x.shape
    columns = math.ceil(math.sqrt(n)) if columns is None else columns
    scale = max(1, math.ceil(64 / w)) if scale is None else scale
    if columns < 1 or scale < 1 or gap < 0:
        raise ValueError(
            f"columns and scale must be at least 1 and gap at least 0: got columns={columns}, "
            f"scale={scale}, gap={gap}"
        )
    columns = min(columns, n)
    rows = math.ceil(n / columns)
    tile_h, tile_w = h * scale, w * scale
    big = to_pixels(x).repeat(scale, axis=1).repeat(scale, axis=2)
    cells = np.full((rows * columns, tile_h + gap, tile_w + gap, c), _WHITE, np.uint8)
    cells[:n, :tile_h, :tile_w] = big
    picture = cells.reshape(rows, columns, tile_h + gap, tile_w + gap, c).swapaxes(1, 2)
    picture = picture.reshape(rows * (tile_h + gap), columns * (tile_w + gap), c)
    return picture[: picture.shape[0] - gap, : picture.shape[1] - gap]


def trajectory_strip(
    frames: Num[np.ndarray | jax.Array, "..."],
    times: Sequence[float] | None = None,
    *,
    scale: int | None = None,
) -> Figure:
    """Show how images emerge: one row per example, one column per time.

    Args:
        frames: [times, n, h, w, c], in the order in which they are shown, uint8 or in [0, 1].
        times: the time of each column, written above it.
        scale: enlargement, as in ``image_grid``.

    Returns:
        The figure.

    Raises:
        ValueError: on another shape or range, or if ``times`` does not have one entry per column.
    """
    x = np.asarray(frames)
    if x.ndim != 5:
        raise ValueError(f"frames must be [times, n, h, w, c]: got {list(x.shape)}")
    columns, gap = x.shape[0], 2
    if times is not None and len(times) != columns:
        raise ValueError(f"times must name the {columns} columns of frames: got {len(times)}")
    picture = image_grid(x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), columns, scale=scale, gap=gap)
    height, width = picture.shape[:2]
    figure = Figure(figsize=(width / 90, height / 90 + 0.35 * (times is not None)))
    axes = figure.add_axes((0, 0, 1, height / 90 / figure.get_figheight()))
    grey = picture.shape[-1] == 1
    axes.imshow(picture[..., 0] if grey else picture, cmap="gray", vmin=0, vmax=255)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set(xticks=[], yticks=[])
    if times is not None:
        pitch = (width + gap) / columns
        centres = pitch * np.arange(columns) + (pitch - gap) / 2 - 0.5
        axes.set_xticks(centres, [f"t = {float(t):.3g}" for t in times], fontsize=9)
        axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    return figure
