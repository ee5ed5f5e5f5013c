"""From a Pillow image to ``uint8 [height, width, channels]``, the same for every source of images.

Transparent images are laid over white before the alpha channel is dropped: what lies under full
transparency is arbitrary. ``size`` takes the largest centred square and resizes it.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# Parsers that a picture may reach; one of the others would start Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
MOST_PIXELS = 2**26  # of one picture, before it is decoded: 8192 x 8192
EIGHT_BIT = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}


def check_options(channels: int, size: int | None) -> None:
    """Raise ValueError unless ``channels`` is 1, 3 or 4 and ``size`` is None or fits a picture."""
    if channels not in MODES:
        raise ValueError(f"channels: got {channels}, expected 1 (grey), 3 (RGB) or 4 (RGBA)")
    if size is not None and not 1 <= size <= MOST_PIXELS**0.5:
        raise ValueError(f"size: got {size}, expected None or a number of pixels, at most 8192")


def to_array(image: Image.Image, channels: int, size: int | None) -> UInt8[np.ndarray, "h w c"]:
    """Decode, orient, convert, and, if ``size`` is given, crop and resize.

    Args:
        image: an open Pillow image of eight bits per channel.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA).
        size: side of the square result, or None for the image as it is.

    Returns:
        The picture, [height, width, channels].

    Raises:
        ValueError: if the image has more than eight bits per channel (Pillow would clip it), or
            too many pixels to be unpacked.
        Exception: whatever Pillow raises on damaged data.
    """
    if image.mode not in EIGHT_BIT:
        raise ValueError(
            f"got pixel mode {image.mode!r}, expected eight bits per channel; "
            "convert the image to 8-bit first"
        )
    check_pixels(image)
    image = ImageOps.exif_transpose(image)
    if channels < 4 and image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert(MODES[channels])
    if size is not None:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side))
        image = square.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(image, np.uint8).reshape(image.height, image.width, channels)


def check_pixels(image: Image.Image) -> None:
    """Raise ValueError for an image that claims more than ``MOST_PIXELS``; nothing is decoded."""
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(
            f"claims {image.width} x {image.height} pixels, expected at most {MOST_PIXELS}; a few "
            "kilobytes can claim terabytes, so make it smaller first"
        )


def expect(picture: np.ndarray, event: tuple[int, ...]) -> np.ndarray:
    """Return ``picture`` if its shape is ``event``, else raise ValueError naming ``size``."""
    if picture.shape != event:
        raise ValueError(
            f"got shape {picture.shape}, expected {event}; pass size=... to crop and resize"
        )
    return picture


def header_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) from the header alone, as the camera meant it (JPEG orientation).

    Raises:
        ValueError: for too many pixels.
    """
    check_pixels(image)
    sideways = image.format == "JPEG" and image.getexif().get(0x0112, 1) >= 5
    return (image.width, image.height) if sideways else (image.height, image.width)
