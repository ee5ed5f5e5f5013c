"""Write pictures and figures to a path or to an open file."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np
from jaxtyping import Num
from matplotlib.figure import Figure
from PIL import Image

from sdejax.viz.images import to_pixels

Target: TypeAlias = str | os.PathLike | io.IOBase  # a local path, or an open binary file


def save_image(target: Target, picture: Num[np.ndarray | jax.Array, "..."]) -> None:
    """Write one picture; the suffix of the path gives the format.

    Args:
        target: a path, whose folders are made, or an open binary file (written as PNG).
        picture: [h, w, c] or [h, w], uint8 or floats in [0, 1].

    Raises:
        ValueError: on another shape or range.
    """
    x = np.asarray(picture)
    if x.ndim == 2:
        x = x[..., None]
    if x.ndim != 3 or x.shape[-1] not in (1, 3, 4):
        raise ValueError(f"picture must be [h, w] or [h, w, c], c of 1, 3, 4: got {list(x.shape)}")
    pixels = to_pixels(x)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    # A path says its format by its suffix; an open file cannot.
    image.save(_ready(target), format=None if _is_path(target) else "png")


def save_figure(figure: Figure, target: Target, *, dpi: int = 150) -> None:
    """Write a figure; the suffix of the path gives the format.

    Args:
        figure: from one of the plotting functions.
        target: a path, whose folders are made, or an open binary file (written as PNG).
        dpi: pixels per inch.
    """
    figure.savefig(_ready(target), dpi=dpi, bbox_inches="tight")


def _is_path(target: Target) -> bool:
    return isinstance(target, str | os.PathLike)


def _ready(target: Target) -> Any:
    """The target itself, once the folders of a path exist."""
    if _is_path(target):
        Path(target).parent.mkdir(parents=True, exist_ok=True)  # type: ignore[arg-type]
    return target
