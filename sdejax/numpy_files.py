"""NumPy's files from anywhere: plain numbers and text, as large as the file says, and no pickles.

``numpy.load`` evaluates the header as a Python literal and allocates what it claims. Here the
header has to match a grammar that holds numbers, booleans and text only, its size has to be that of
the data, and an archive may not claim more than ``sdejax.untrusted.require_claim`` lets it.
Archives are never unpacked onto the disk.

Reference: NumPy, "NEP 1: a simple file format for NumPy arrays" (2007).
"""

from __future__ import annotations

import io
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sdejax.untrusted import FREE, require_claim

MAGIC = b"\x93NUMPY"
LONGEST = 10_000  # bytes of a header
CHUNK = 2**20
ENTRY = (
    r"'descr':\s*'(?P<dtype>[<>=|]?[biufcSU]\d{1,9})'",
    r"'fortran_order':\s*(?P<fortran>True|False)",
    r"'shape':\s*\((?P<shape>[\dL,\s]*)\)",
)
# What zipfile and zlib raise on damage, besides ValueError.
DAMAGE = (
    ValueError, OSError, EOFError, KeyError, RuntimeError, OverflowError, zipfile.BadZipFile,
    zlib.error, struct.error,
)  # fmt: skip


class Header(NamedTuple):
    """What an array file says about itself."""

    dtype: np.dtype
    shape: tuple[int, ...]
    fortran: bool
    offset: int  # bytes before the data

    @property
    def nbytes(self) -> int:
        """Bytes of data."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(stream: io.BufferedIOBase) -> Header:
    """Reads the header of an array, and no further.

    Args:
        stream: at the start of the ``.npy`` data.

    Returns:
        The header.

    Raises:
        ValueError: for anything but an array of plain numbers or text.
    """
    start = stream.read(8)
    if start[:6] != MAGIC or len(start) < 8:
        raise ValueError(f"got {start[:6]!r} for its first bytes, expected {MAGIC!r} (an array)")
    width = 2 if start[6] == 1 else 4
    length = int.from_bytes(stream.read(width), "little")
    if start[6] not in (1, 2, 3) or length > LONGEST:
        raise ValueError(f"header of version {start[6]} and {length} bytes; it is no array")
    text = stream.read(length).decode("latin1")
    found: dict[str, str] = {}
    for pattern in ENTRY:
        for match in re.finditer(pattern, text):
            found |= match.groupdict()
    rest = re.sub("|".join(re.sub(r"\?P<\w+>", "?:", entry) for entry in ENTRY), "", text)
    if len(found) != 3 or not re.fullmatch(r"\{[\s,]*\}\s*", rest):
        raise ValueError(
            f"header {text[:120].strip()!r}: expected plain numbers or text (no object arrays, "
            "no structured or void types), with fortran_order and a shape of whole numbers"
        )
    sizes = [size.strip().removesuffix("L") for size in found["shape"].split(",")]
    shape = tuple(int(size) for size in sizes if size) if all(map(len, sizes[:-1])) else (-1,)
    try:
        dtype = np.dtype(found["dtype"])
    except TypeError as error:
        raise ValueError(f"dtype {found['dtype']!r}: {error}") from None
    most = math.prod(max(1, size) for size in shape) * max(1, dtype.itemsize)
    if len(shape) > 32 or min(shape, default=0) < 0 or most >= 2**62 or dtype.itemsize < 1:
        raise ValueError(f"{dtype} of shape {str(shape)[:200]}: no such array exists")
    return Header(dtype, shape, found["fortran"] == "True", 8 + width + length)


def open_npy(path: str | os.PathLike[str]) -> np.ndarray:
    """A ``.npy`` file as a read-only memory map.

    Args:
        path: the file.

    Returns:
        The array, on disk.

    Raises:
        ValueError: for a file that is no array of plain numbers or text, or of another length
            than its header says.
        FileNotFoundError: where there is none.
    """
    size = os.stat(path).st_size
    try:
        with open(path, "rb") as file:
            head = read_header(file)
        if head.offset + head.nbytes != size:
            raise ValueError(
                f"{size} bytes, expected {head.offset + head.nbytes} for {head.dtype} of shape "
                f"{head.shape}; it is truncated, has been appended to, or lies about its shape"
            )
        if head.nbytes == 0:
            return np.empty(head.shape, head.dtype)
        order: Any = "F" if head.fortran else "C"
        return np.memmap(path, head.dtype, "r", head.offset, head.shape, order)
    except ValueError as error:
        raise ValueError(
            f"{path}: cannot be read: {error}; expected a complete .npy file of plain numbers (no "
            "object arrays), as numpy.save writes it"
        ) from None


def npz_names(path: str | os.PathLike[str]) -> list[str]:
    """Names of the arrays in an ``.npz`` file.

    Args:
        path: the file.

    Returns:
        The names, in order.

    Raises:
        ValueError: for what is no archive, or has names that repeat or lead out of a folder.
        FileNotFoundError: where there is none.
    """
    return list(_read(path, (), FREE)[0])


def read_npz(
    path: str | os.PathLike[str], names: Iterable[str] | None = None, *, free: int = FREE
) -> dict[str, np.ndarray]:
    """Arrays of an ``.npz`` file, in memory.

    Args:
        path: the file.
        names: which arrays; all by default.
        free: bytes that even a tiny file may unpack to.

    Returns:
        The arrays by name.

    Raises:
        ValueError: for a damaged file, a missing array, one that is not of plain numbers or text,
            or more data than the file can be believed to hold.
        FileNotFoundError: where there is none.
    """
    return _read(path, names, free)[1]


def _read(
    path: str | os.PathLike[str], names: Iterable[str] | None, free: int
) -> tuple[dict[str, zipfile.ZipInfo], dict[str, np.ndarray]]:
    size = os.stat(path).st_size
    name = None
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive)
            wanted = list(members if names is None else names)
            missing = [name for name in wanted if name not in members]
            if missing:
                raise ValueError(f"no member {missing[0]!r} among {sorted(members)[:20]}")
            require_claim("the archive", sum(members[n].file_size for n in wanted), size, free)
            arrays = {}
            for name in wanted:
                arrays[name] = _array(archive, members[name])
            return members, arrays
    except FileNotFoundError:
        raise
    except DAMAGE as error:
        what = "cannot be read" if name is None else f"member {name!r} cannot be read"
        raise ValueError(
            f"{path}: {what}: {str(error)[:500]}; expected a complete .npz file of plain numbers "
            "(no object arrays), as numpy.savez writes it with an explicit dtype"
        ) from None


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The members by name, without the suffix; they are never paths."""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        if name.startswith("/") or "\\" in name or ".." in Path(name).parts or name in members:
            raise ValueError(f"member name {info.filename!r} repeats or leads out of the archive")
        members[name] = info
    return members


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("it is encrypted, or packed otherwise than numpy.savez does")
    with archive.open(info) as opened:
        stream: Any = opened
        head = read_header(stream)
        if head.offset + head.nbytes != info.file_size:
            raise ValueError(
                f"{info.file_size} bytes, expected {head.offset + head.nbytes} for {head.dtype} of "
                f"shape {head.shape}"
            )
        raw = np.empty(head.nbytes, np.uint8)
        place = 0
        while chunk := stream.read(min(CHUNK, max(1, head.nbytes - place))):
            raw[place : place + len(chunk)] = np.frombuffer(chunk, np.uint8)
            place += len(chunk)
        if place != head.nbytes:
            raise ValueError(f"{place} bytes of data, expected {head.nbytes}")
    flat = raw.view(head.dtype)
    return flat.reshape(head.shape[::-1]).T if head.fortran else flat.reshape(head.shape)
