"""A folder of PNG, JPEG, WebP or BMP images, with or without one sub-folder per class.

Images are decoded when they are asked for, so a folder may be larger than memory. Without ``size``
all images must have one size, which is checked at once from the headers; damage that the headers
do not show is found on decoding and named.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from PIL import Image

from sdejax.data import pictures
from sdejax.data.base import Dataset, Lazy, check_split, hold_out
from sdejax.data.scaling import integers

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
SPLIT_NAMES = {"train": ("train",), "test": ("test", "val", "valid", "validation")}


def _images(path: Path) -> list[tuple[Path, tuple[str, ...]]]:
    """Every image under ``path`` with its path's parts, sorted; hidden files are passed over.

    Raises:
        ValueError: for a link that leads out of the folder, or nowhere.
    """
    root, found = path.resolve(), []
    for p in sorted(path.rglob("*")):
        parts = p.relative_to(path).parts
        if any(part.startswith(".") for part in parts):
            continue
        if p.is_symlink() and not (p.exists() and p.resolve().is_relative_to(root)):
            raise ValueError(
                f"{p}: a link to {p.readlink()}, which is not inside {path}; expected files of the "
                "folder itself: copy what it leads to, or remove it"
            )
        if p.suffix.lower() in SUFFIXES and p.is_file():
            found.append((p, parts))
    return found


def _choose_split(
    path: Path, split: str, images: list[tuple[Path, tuple[str, ...]]]
) -> tuple[str, set[str]]:
    """The folder of the split, and all split folders; ("", empty) if there are none."""
    tops = {parts[0] if len(parts) > 1 else "" for _, parts in images}
    if not tops <= {name for group in SPLIT_NAMES.values() for name in group}:
        return "", set()
    check_split(split, ("train", "test"))
    for name in SPLIT_NAMES[split]:
        if name in tops:
            return name, tops
    raise FileNotFoundError(
        f"path: {path} is divided into {sorted(tops)}, expected one of {SPLIT_NAMES[split]} for "
        f"split {split!r}; add it, or give the folder of one split as path"
    )


def _decode(files: list[Path], event: tuple[int, ...], size: int | None, index: int) -> np.ndarray:
    try:
        with Image.open(files[index], formats=pictures.FORMATS) as image:
            return pictures.expect(pictures.to_array(image, event[-1], size), event)
    except Exception as error:  # damaged data: OSError, SyntaxError, zlib.error, ...
        raise ValueError(
            f"{files[index]}: cannot be decoded: {error}; replace or remove the file"
        ) from error


def _same_size(files: list[Path]) -> tuple[int, int]:
    first: tuple[int, int] | None = None
    for file in files:
        try:
            with Image.open(file, formats=pictures.FORMATS) as image:
                found = pictures.header_size(image)
        except Exception as error:
            raise ValueError(
                f"{file}: not a readable image: {error}; replace or remove the file"
            ) from error
        first = first or found
        if found != first:
            raise ValueError(
                f"{file}: got height x width {found}, expected {first} as in {files[0]}; "
                "pass size=... to crop and resize all images"
            )
    assert first is not None  # the caller has refused an empty list
    return first


def folder(
    path: Path,
    split: str,
    *,
    size: int | None = None,
    channels: int = 3,
    classes: bool = True,
    held_out: float = 0.1,
) -> Dataset:
    """Images under a folder, [n, height, width, channels].

    If the sub-folders are called train, test, val, valid or validation they are the splits;
    otherwise they are classes, and a fixed random fraction of the images is held out.

    Args:
        path: the folder.
        split: "train", "test" or "all".
        size: take the centred square and resize it to this side; None keeps the images as they are.
        channels: 1 (grey), 3 (RGB, transparency over white) or 4 (RGBA).
        classes: whether sub-folders, in alphabetical order, are classes.
        held_out: fraction kept from training when there are no split folders.

    Returns:
        The split, decoded as it is read, with labels where sub-folders are classes.

    Raises:
        FileNotFoundError: if there are no images, or the split has no folder.
        ValueError: if sizes differ, a file is no image, images lie next to class folders, or a
            link leads out of the folder.
    """
    pictures.check_options(channels, size)
    found = _images(path)
    if not found:
        raise FileNotFoundError(
            f"path: {path} has no images, expected files ending in {sorted(SUFFIXES)}; "
            f"found {sorted(p.name for p in path.iterdir())[:12]}"
        )
    chosen, divided = _choose_split(path, split, found)
    depth = len(divided) > 0  # where class folders start: under the split folders, if any
    nested = [len(parts) > depth + 1 for _, parts in found]
    if classes and any(nested) and not all(nested):
        raise ValueError(
            f"path: {path} has images beside class folders ({found[nested.index(False)][0]}), "
            "expected either; move them into a class, or pass classes=False"
        )
    kept = [(p, parts) for p, parts in found if not divided or parts[0] == chosen]
    files = [p for p, _ in kept]
    height, width = _same_size(files) if size is None else (size, size)
    names: tuple[str, ...] = ()
    labels = None
    if classes and all(nested):
        names = tuple(sorted({parts[depth] for _, parts in found}))  # of all splits: same numbers
        places = {name: place for place, name in enumerate(names)}
        labels = np.array([places[parts[depth]] for _, parts in kept], np.int32)
    read = functools.partial(_decode, files, (height, width, channels), size)
    identity = repr([(p.relative_to(path).as_posix(), p.stat().st_size) for p in files])
    x = Lazy(len(files), (height, width, channels), np.dtype(np.uint8), read, identity)
    whole = Dataset(path.name, split, x, integers(256), labels, len(names), names)
    return whole if divided else hold_out(whole, split, round(held_out * len(files)))
