"""Files of ``flax.serialization``: nested dictionaries of arrays, in msgpack.

msgpack itself knows no arrays. An extension value of type 1 is one, and holds msgpack again:
[shape, name of the dtype, bytes]. Type 3 is a scalar written the same way, type 2 a complex number.
An array above 2^30 bytes lies in pieces, in a dictionary that says so.

Such a file may come from anywhere, so what it claims is compared with what it holds: an array has
exactly prod(shape) times itemsize bytes. Extension values are read only once their place in the
tree is known, so that a complaint can name it. There is no checksum in the format: changed weights
go unnoticed.

Reference: flax, ``flax/serialization.py``; github.com/msgpack/msgpack/blob/master/spec.md.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import numpy as np

ARRAY, COMPLEX, SCALAR = 1, 2, 3
CHUNKED = "__msgpack_chunked_array__"
DTYPES = {
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64", "bfloat16",
}  # fmt: skip
DEPTH = 64  # dictionaries inside dictionaries
ENTRIES = 2**14  # of one dictionary or list; room for so many is made before they are read
RANK = 32  # dimensions of an array
BLOCK = 2**20  # bytes read at a time
# Files that are often given instead. None of them begins as a dictionary with text for its keys.
FOREIGN = (
    (b"PK\x03\x04", "a zip archive, as torch.save and numpy.savez write them"),
    *((bytes([0x80, n]), "a pickle, as torch.save wrote them until 2020") for n in (2, 3, 4, 5)),
    (b"version https://git-lfs", "a pointer of git-lfs; fetch the file itself: git lfs pull"),
    (b"<", "a web page; download the file itself"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a single array of numpy.save"),
    (b"\x1f\x8b", "packed with gzip; unpack it first"),
)


class Packed(NamedTuple):
    """An extension value as it lies in the file."""

    code: int
    data: bytes


def read_flax(path: Path) -> dict[str, Any]:
    """The tree in a file that ``flax.serialization.to_bytes`` or ``msgpack_serialize`` made.

    Args:
        path: the file.

    Returns:
        Nested dictionaries, and lists where the writer had them. Leaves are read-only NumPy arrays,
        NumPy scalars, numbers, text and None. bfloat16 is widened to float32, which is exact.

    Raises:
        ValueError: naming the file, the leaf where one is at fault, what was found and what was
            expected.
        OSError: where it cannot be opened.

    Reference: flax, ``flax/serialization.py``.
    """
    if path.exists() and not path.is_file():
        raise ValueError(
            f"{path}: a folder or device, expected a file of flax.serialization; newer checkpoints "
            "of Flax are folders that orbax reads"
        )
    try:
        return _settled(_unpacked(path), ())
    except (ValueError, msgpack.UnpackException, RecursionError, OverflowError) as error:
        raise ValueError(
            f"{path}: {str(error)[:500] or type(error).__name__}; expected a complete file as "
            "flax.serialization writes it (msgpack)"
        ) from None


def _unpacked(path: Path) -> dict[str, Any]:
    """The tree with its extension values as they lie."""
    size = path.stat().st_size
    if size == 0:
        raise ValueError("the file is empty")
    with path.open("rb") as file:
        head = file.read(512).removeprefix(b"\xef\xbb\xbf").lstrip()
        for start, kind in FOREIGN:
            if head.startswith(start):
                raise ValueError(f"it begins with {start!r}: it is {kind}")
        file.seek(0)
        unpacker = msgpack.Unpacker(
            file,
            read_size=min(BLOCK, size),
            max_buffer_size=size,
            max_array_len=ENTRIES,
            max_map_len=ENTRIES,
            object_pairs_hook=_mapping,
            ext_hook=Packed,
        )
        try:
            tree = unpacker.unpack()
        except msgpack.OutOfData:
            raise ValueError(f"truncated: after {size} bytes it ends inside a value") from None
        if not isinstance(tree, dict) or CHUNKED in tree:
            raise ValueError("the top level is no dictionary of names")
        if unpacker.tell() != size:
            raise ValueError(
                f"{size - unpacker.tell()} bytes follow the tree, which ends after "
                f"{unpacker.tell()} bytes; it has been appended to, or is of another format"
            )
        return tree


def _mapping(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    names = [key for key, _ in pairs]
    other = [key for key in names if not isinstance(key, str)]
    if other:
        raise ValueError(f"a dictionary has the key {str(other[0])[:80]!r}, expected text")
    found = dict(pairs)
    if len(found) != len(names):
        twice = next(key for key in names if names.count(key) > 1)
        raise ValueError(f"a dictionary has the key {twice[:80]!r} twice")
    return found


def _settled(node: Any, at: tuple[str, ...]) -> Any:
    """The tree with its leaves read, in place: the file is never in memory twice."""
    if len(at) > DEPTH:
        raise ValueError(f"{_name(at)}: nested deeper than {DEPTH}; no such tree is written")
    if isinstance(node, dict):
        for key in node:
            node[key] = _settled(node[key], (*at, key))
    elif isinstance(node, list):
        for i, child in enumerate(node):
            node[i] = _settled(child, (*at, str(i)))
    try:
        if isinstance(node, dict):
            return _joined(node) if CHUNKED in node else node
        return _leaf(node)
    except (ValueError, msgpack.UnpackException) as error:
        raise ValueError(f"{_name(at)}: {error}") from None


def _name(at: tuple[str, ...]) -> str:
    text = "/".join(at)
    text = text if len(text) <= 200 else f"{text[:100]}...{text[-100:]}"
    return "".join(c if c.isprintable() else "?" for c in text)


def _leaf(node: Any) -> Any:
    if isinstance(node, Packed):
        if node.code == ARRAY:
            return _array(node.data)
        if node.code == SCALAR:
            array = _array(node.data)
            if array.shape != ():
                raise ValueError(f"a scalar of shape {array.shape}, expected ()")
            return array[()]
        if node.code == COMPLEX:
            return _complex(node.data)
        raise ValueError(
            f"extension type {node.code}, expected {ARRAY} (array), {COMPLEX} (complex number) or "
            f"{SCALAR} (scalar)"
        )
    if node is None or isinstance(node, bool | int | float | str | list):
        return node
    raise ValueError(f"{type(node).__name__}, expected an array, a number, text or None")


def _inner(data: bytes) -> list[Any]:
    """What an extension value holds: a list."""
    try:
        found = msgpack.unpackb(data, raw=True, max_array_len=RANK, max_map_len=0)
    except (ValueError, msgpack.UnpackException) as error:
        raise ValueError(f"{len(data)} bytes that cannot be unpacked ({error})") from None
    return found if isinstance(found, list) else [found]


def _complex(data: bytes) -> complex:
    match _inner(data):
        case [int() | float() as real, int() | float() as imaginary]:
            return complex(real, imaginary)
    raise ValueError("a complex number that is no pair of numbers")


def _array(data: bytes) -> np.ndarray:
    match _inner(data):
        case [list() as sizes, bytes() as text, bytes() as raw]:
            name = text[:40].decode("ascii", "replace")
        case _:
            raise ValueError("an array that is not [shape, name of the dtype, bytes]")
    if name not in DTYPES:
        raise ValueError(f"dtype {name!r}, expected one of {', '.join(sorted(DTYPES))}")
    stored = np.dtype(np.uint16 if name == "bfloat16" else name)
    shape = _shape(sizes, stored.itemsize)
    want = math.prod(shape) * stored.itemsize
    if len(raw) != want:
        raise ValueError(f"{len(raw)} bytes, expected {want} for {name} of shape {shape}")
    flat = np.frombuffer(raw, stored)
    if name == "bool" and flat.view(np.uint8).max(initial=0) > 1:
        raise ValueError("booleans with bytes other than 0 and 1")
    if name == "bfloat16":
        flat = (flat.astype(np.uint32) << 16).view(np.float32)
        flat.flags.writeable = False
    return flat.reshape(shape)


def _shape(sizes: Any, itemsize: int) -> tuple[int, ...]:
    """A shape that an array can have."""
    if not all(type(n) is int and n >= 0 for n in sizes) or len(sizes) > RANK:
        raise ValueError(f"shape {str(sizes)[:100]}, expected at most {RANK} whole numbers")
    if math.prod(max(1, n) for n in sizes) * itemsize >= 2**62:
        raise ValueError(f"shape {str(sizes)[:100]}: no such array exists")
    return tuple(sizes)


def _joined(node: dict[str, Any]) -> np.ndarray:
    """An array from its pieces: {marker, "shape": {"0": n, ...}, "chunks": {"0": array, ...}}."""
    if set(node) != {CHUNKED, "shape", "chunks"}:
        raise ValueError(
            f"an array in pieces has {str(sorted(node))[:200]}, expected {CHUNKED}, shape, chunks"
        )
    pieces = _listed(node["chunks"], "chunks")
    if not pieces or not all(isinstance(p, np.ndarray) and p.ndim == 1 for p in pieces):
        raise ValueError("an array in pieces, expected one or more flat arrays in 'chunks'")
    kinds = sorted({str(piece.dtype) for piece in pieces})
    if len(kinds) > 1:
        raise ValueError(f"pieces of {', '.join(kinds)}, expected one dtype")
    shape = _shape(_listed(node["shape"], "shape"), pieces[0].itemsize)
    count = sum(piece.size for piece in pieces)
    if count != math.prod(shape):
        raise ValueError(
            f"{count} numbers in {len(pieces)} pieces, expected {math.prod(shape)} for shape "
            f"{shape}"
        )
    node.clear()
    whole = np.concatenate(pieces).reshape(shape)
    whole.flags.writeable = False
    return whole


def _listed(node: Any, what: str) -> list[Any]:
    """A list that may have been written as a dictionary {"0": ..., "1": ...}."""
    if isinstance(node, list):
        return node
    if isinstance(node, dict) and set(node) == {str(i) for i in range(len(node))}:
        return [node[str(i)] for i in range(len(node))]
    raise ValueError(f"{what} of an array in pieces: expected the entries 0, 1, 2 ... in full")
