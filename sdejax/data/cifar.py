"""CIFAR-10 in its two published layouts: binary batches and Python (pickle) batches.

A binary record is one label byte and 3072 pixel bytes, channel by channel. A Python batch is a
pickled dict. Unpickling can run any code, so ``read_pickle`` builds no object but plain containers,
bytes, text and numbers; the NumPy names a batch needs stand for small collectors of array state,
and any other name is refused before it is looked up.

Reference: Krizhevsky, "Learning multiple layers of features from tiny images" (2009).
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8

from sdejax.data.base import Dataset, check_split
from sdejax.data.scaling import integers

BATCHES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
RECORD = 1 + 3 * 32 * 32


class _Dtype:
    """Stands for ``numpy.dtype`` while unpickling: keeps the type code, ignores the rest."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = code.decode("ascii") if isinstance(code, bytes) else code

    def __setstate__(self, state: Any) -> None:
        """Ignore the byte order: only single bytes are accepted."""


class _Array:
    """Stands for an array while unpickling; ``value`` is made from checked state."""

    def __init__(self, *_: Any) -> None:
        self.value = np.zeros(0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if dtype.code != "u1" or not isinstance(data, bytes | bytearray | str):
            raise pickle.UnpicklingError(f"array of type {dtype.code!r}, expected 'u1'")
        raw = data.encode("latin1") if isinstance(data, str) else bytes(data)
        self.value = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", data))
    return array


def _encode(text: str, encoding: str) -> bytes:
    return str(text).encode(str(encoding))


ADMITTED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,  # protocol 5
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,  # how Python 3 writes bytes in old protocols
}


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Look names up in ``ADMITTED`` only; nothing is ever imported."""
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return ADMITTED[module, name]


def read_pickle(file: Path) -> dict[str, Any]:
    """Read a pickled dict of plain values and byte arrays, running none of its code.

    Args:
        file: the pickle, of Python 2 or 3.

    Returns:
        The dict, its keys as text and its arrays as ``uint8``.

    Raises:
        ValueError: if the file is damaged, or asks for anything but plain values and byte arrays.
    """
    try:
        content = _Restricted(io.BytesIO(file.read_bytes()), encoding="bytes").load()
        text = {k.decode() if isinstance(k, bytes) else k: v for k, v in content.items()}
        return {k: v.value if isinstance(v, _Array) else v for k, v in text.items()}
    except Exception as error:  # a damaged pickle raises nearly anything
        raise ValueError(
            f"{file}: refused or damaged pickle: {error}; expected a dict of lists, text and byte "
            "arrays. Use the files of https://www.cs.toronto.edu/~kriz/cifar.html, or their "
            "binary version"
        ) from error


def _python_batch(file: Path) -> tuple[UInt8[np.ndarray, "n d"], Int32[np.ndarray, " n"]]:
    content = read_pickle(file)
    data: Any = content.get("data")
    labels: Any = content.get("labels")
    plain = isinstance(data, np.ndarray) and isinstance(labels, list)
    if not plain or not all(isinstance(label, int) for label in labels):
        raise ValueError(
            f"{file}: got keys {sorted(map(str, content))}, expected 'data' (a uint8 array) and "
            "'labels' (a list of integers)"
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
    return tuple(n.decode() if isinstance(n, bytes) else str(n) for n in names)


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
