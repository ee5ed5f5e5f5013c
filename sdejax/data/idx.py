"""IDX files, the format of MNIST, Fashion-MNIST, KMNIST and EMNIST, plain or gzipped.

A file is: two zero bytes, a type code (8 is unsigned byte), the number of axes, the length of each
axis as a big-endian 32-bit integer, then the values in C order.

Reference: LeCun, Cortes, Burges, "The MNIST database of handwritten digits" (1998).
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from sdejax.data.base import Dataset, check_split
from sdejax.data.scaling import integers
from sdejax.untrusted import require_claim

WORDS = {"train": ("train",), "test": ("t10k", "test")}


def read_idx(file: Path, axes: int) -> UInt8[np.ndarray, "..."]:
    """Read one IDX file of unsigned bytes.

    Args:
        file: the file; gzip is recognised by its first two bytes, not by its name.
        axes: expected number of axes: 3 for images, 1 for labels.

    Raises:
        ValueError: if the magic number, the length or the compression is wrong.
    """
    stored = file.stat().st_size
    with file.open("rb") as plain:
        packed = plain.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(file) if packed else file.open("rb") as stream:
            head = stream.read(4 + 4 * axes)
            expected, magic = 0x0800 + axes, int.from_bytes(head[:4], "big")
            if len(head) < 4 + 4 * axes or magic != expected:
                raise ValueError(
                    f"{file}: got magic number 0x{magic:08x} in {stored} bytes, expected "
                    f"0x{expected:08x} (IDX bytes, {axes} axes); check that this is the right file"
                )
            shape = struct.unpack(f">{axes}I", head[4:])
            count = math.prod(shape)
            # Before any memory is asked for: what is unpacked costs as much as the file says.
            if packed:
                require_claim(file, count, stored)
            got = None if packed else stored - len(head)
            values = np.frombuffer(stream.read(count + 1) if packed or got == count else b"", "u1")
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{file}: broken gzip data ({error}); fetch the file again") from error
    got = len(values) if got is None else got
    if got != count:
        raise ValueError(
            f"{file}: got {got} values{' or more' * packed}, expected {count} for shape {shape}; "
            "the file is truncated or has been appended to: fetch it again"
        )
    return values.reshape(shape)


def _find(folder: Path, split: str, kind: str) -> Path:
    names = [
        f"*{word}-{kind}{dot}idx{axes}-ubyte{gz}"
        for word in WORDS[split]
        for dot in "-."
        for axes in "13"
        for gz in ("", ".gz")
    ]
    found = {f.name.removesuffix(".gz"): f for name in reversed(names) for f in folder.glob(name)}
    if len(found) != 1:
        listing = sorted(f.name for f in folder.iterdir())[:12]
        raise FileNotFoundError(
            f"path: {folder} has {len(found)} IDX files of {split} {kind}, expected exactly one, "
            f"named like {WORDS[split][0]}-{kind}-idx{3 if kind == 'images' else 1}-ubyte[.gz]; "
            f"found {listing}"
        )
    return next(iter(found.values()))


def idx(path: Path, split: str, *, num_classes: int | None = None) -> Dataset:
    """Images [n, h, w, 1] and labels from a folder of IDX files.

    Args:
        path: the folder that holds ``train-images-idx3-ubyte[.gz]`` and its companions.
        split: "train" or "test".
        num_classes: number of classes; by default the largest label of the split plus one.

    Raises:
        FileNotFoundError: if a file is missing or there are several candidates.
        ValueError: if a file is not what its name says, or the counts differ.
    """
    check_split(split, ("train", "test"))
    images_file, labels_file = _find(path, split, "images"), _find(path, split, "labels")
    images, labels = read_idx(images_file, 3), read_idx(labels_file, 1)
    if len(images) != len(labels) or len(images) == 0:
        raise ValueError(
            f"{images_file} has {len(images)} images and {labels_file} {len(labels)} labels, "
            "expected the same number, at least one; the files belong to different data sets"
        )
    classes = int(labels.max()) + 1 if num_classes is None else num_classes
    if labels.max() >= classes:
        raise ValueError(f"num_classes: got {classes}, but {labels_file} has label {labels.max()}")
    return Dataset("idx", split, images[..., None], integers(256), labels.astype(np.int32), classes)
