"""CIFAR-10 in its two published layouts: binary batches and Python (pickle) batches.

A binary record is one label byte and 3072 pixel bytes, channel by channel. A Python batch is a
pickled dict, which ``sdejax.data.pickled`` reads without running it.

Reference: Krizhevsky, "Learning multiple layers of features from tiny images" (2009).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8

from sdejax.data.base import Dataset, check_split
from sdejax.data.pickled import read_pickle
from sdejax.data.scaling import integers

BATCHES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
RECORD = 1 + 3 * 32 * 32


def _python_batch(file: Path) -> tuple[UInt8[np.ndarray, "n d"], Int32[np.ndarray, " n"]]:
    content = read_pickle(file)
    data: Any = content.get("data")
    labels: Any = content.get("labels")
    plain = isinstance(data, np.ndarray) and isinstance(labels, list)
    if not plain or not all(type(label) is int and 0 <= label <= 9 for label in labels):
        raise ValueError(
            f"{file}: got keys {sorted(content)[:20]}, expected 'data' (a uint8 array) and "
            "'labels' (a list of integers, 0 to 9)"
        )
    if data.shape != (len(labels), RECORD - 1):
        raise ValueError(
            f"{file}: got data of shape {data.shape} and {len(labels)} labels, expected "
            f"({len(labels)}, {RECORD - 1}); the file is damaged"
        )
    return data, np.asarray(labels, np.int32)


def _binary_batch(file: Path) -> tuple[UInt8[np.ndarray, "n d"], Int32[np.ndarray, " n"]]:
    raw = np.fromfile(file, np.uint8)
    if len(raw) == 0 or len(raw) % RECORD:
        raise ValueError(
            f"{file}: got {len(raw)} bytes, expected a multiple of {RECORD} (label + 3 x 32 x 32); "
            "the file is truncated: fetch it again"
        )
    rows = raw.reshape(-1, RECORD)
    return rows[:, 1:], rows[:, 0].astype(np.int32)


def _names(folder: Path, python: bool) -> tuple[str, ...]:
    meta = folder / ("batches.meta" if python else "batches.meta.txt")
    if not meta.exists():
        return ()
    names = read_pickle(meta).get("label_names", []) if python else meta.read_text().split()
    if not isinstance(names, list) or not all(isinstance(name, str | bytes) for name in names):
        raise ValueError(f"{meta}: expected 'label_names', a list of text")
    return tuple(n.decode("utf-8", "replace") if isinstance(n, bytes) else n for n in names)


def cifar10(path: Path, split: str) -> Dataset:
    """CIFAR-10, [n, 32, 32, 3], from binary or Python batches.

    Args:
        path: the folder of the batches, or the folder above it.
        split: "train" or "test".

    Raises:
        FileNotFoundError: if neither layout is complete.
        ValueError: if a batch is damaged, or is a pickle that asks for code.
    """
    check_split(split, ("train", "test"))
    for suffix, read in ((".bin", _binary_batch), ("", _python_batch)):
        for folder in (path, path / "cifar-10-batches-bin", path / "cifar-10-batches-py"):
            files = [folder / (name + suffix) for name in BATCHES[split]]
            if all(file.is_file() for file in files):
                return _assemble(split, files, read, _names(folder, python=suffix == ""))
    raise FileNotFoundError(
        f"path: {path} holds {sorted(f.name for f in path.iterdir())[:12]}, expected "
        f"{', '.join(BATCHES[split])}, either all with or all without the suffix .bin; "
        "unpack cifar-10-binary.tar.gz or cifar-10-python.tar.gz there"
    )


def _assemble(
    split: str, files: list[Path], read: Callable[[Path], Any], names: tuple[str, ...]
) -> Dataset:
    parts = [read(file) for file in files]
    for file, (_, labels) in zip(files, parts, strict=True):
        if labels.size and not 0 <= labels.min() <= labels.max() <= 9:
            raise ValueError(f"{file}: got labels up to {labels.max()}, expected 0 to 9")
    pixels = np.concatenate([data for data, _ in parts])
    images = np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    labels = np.concatenate([labels for _, labels in parts])
    return Dataset("cifar10", split, images, integers(256), labels, 10, names)
