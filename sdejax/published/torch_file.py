"""Files of ``torch.save``, read without PyTorch: dicts, lists, numbers, text and tensors.

Such a file may come from anywhere, and it holds a pickle, which is a program. It is not run: see
`sdejax.pickle_machine`. What it claims is compared with what it holds: the bytes of a storage, the
largest index of a tensor, and the bytes of all tensors, since a tensor whose strides are zero can
claim any size.

Reference: PyTorch, ``torch/serialization.py``.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sdejax.pickle_machine import Name
from sdejax.published.torch_objects import DTYPES, Storage, Tensor, itemsize
from sdejax.published.torch_storages import Archive, Sequence
from sdejax.untrusted import require_claim

DEPTH = 64  # containers inside containers
NODES = 2**16  # of the whole tree; a list can be in it a thousand times over
RANK = 32  # dimensions of an array
# Files that are often given instead.
FOREIGN = (
    (b"version https://git-lfs", "a pointer of git-lfs; fetch the file itself: git lfs pull"),
    (b"<", "a web page; download the file itself"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a single array of numpy.save"),
    (b"\x1f\x8b", "packed with gzip; unpack it first"),
    *((bytes([n]), "msgpack, as flax.serialization writes it") for n in range(0x81, 0x90)),
    *((bytes([n]), "msgpack, as flax.serialization writes it") for n in (0xDE, 0xDF)),
)


def read_torch(path: Path) -> Any:
    """The objects in a file that ``torch.save`` made, of any version.

    Args:
        path: the file.

    Returns:
        Dicts (for OrderedDict and defaultdict as well), lists, tuples, numbers, text and None.
        Tensors and parameters are read-only NumPy arrays, on whatever device they were; views of
        one storage share memory. bfloat16 is widened to float32, which is exact.

    Raises:
        ValueError: naming the file, the tensor where one is at fault, what was found and what was
            expected.
        OSError: where it cannot be opened.

    Reference: PyTorch, ``torch/serialization.py``.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: a folder or device; expected a file of torch.save")
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            container = _container(file, size)
            return _Walk(container, size).settled(container.tree, ())
        except ValueError as error:
            text = "".join(c if c.isprintable() else "?" for c in str(error)[:500])
    if text.startswith("it asks for "):
        expected = "only tensors and plain containers are read, and no code is run: a state_dict"
    else:
        expected = "a complete file as torch.save writes it"
    raise ValueError(f"{path}: {text}; expected {expected}")


def _container(file: BinaryIO, size: int) -> Archive | Sequence:
    head = file.read(512)
    file.seek(0)
    if not head:
        raise ValueError("the file is empty")
    if head.startswith(b"PK\x03\x04"):
        return Archive(file, size)
    if head[0] == 0x80 and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return Sequence(file, size)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size:
        raise ValueError("a file of safetensors")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for start, kind in FOREIGN:
        if text.startswith(start):
            raise ValueError(f"it begins with {start!r}: it is {kind}")
    raise ValueError(f"it begins with {head[:8]!r}: neither a zip archive nor a pickle")


class _Walk:
    """Makes the tree anew, with arrays for tensors; counts what it makes."""

    def __init__(self, container: Archive | Sequence, size: int) -> None:
        self.container, self.size = container, size
        self.nodes = self.claimed = 0

    def settled(self, node: Any, at: tuple[str, ...]) -> Any:
        self.nodes += 1
        if len(at) > DEPTH:
            raise ValueError(f"{_place(at)}: nested deeper than {DEPTH}, or inside itself")
        if self.nodes > NODES:
            raise ValueError(f"{_place(at)}: more than {NODES} values, or one list many times over")
        if isinstance(node, dict):
            return {_key(key, at): self.settled(node[key], (*at, str(key))) for key in node}
        if isinstance(node, list | tuple):
            found = [self.settled(child, (*at, str(i))) for i, child in enumerate(node)]
            return found if isinstance(node, list) else tuple(found)
        try:
            return self.leaf(node)
        except ValueError as error:
            raise ValueError(f"{_place(at)}: {error}") from None

    def leaf(self, node: Any) -> Any:
        if isinstance(node, Tensor):
            return self.array(node)
        if isinstance(node, Name) and node.text in DTYPES:
            return str(node)
        if node is None or isinstance(node, bool | int | float | str):
            return node
        what = f"the name {node}" if isinstance(node, Name) else type(node).__name__
        raise ValueError(f"{what}, expected a tensor, a number, text or None")

    def array(self, tensor: Tensor) -> np.ndarray:
        storage = tensor.storage
        if not isinstance(storage, Storage):
            raise ValueError("a tensor without a storage")
        name = tensor.dtype or storage.dtype
        width = itemsize(name)
        shape, strides = _whole(tensor.size, "size"), _whole(tensor.stride, "stride")
        (offset,) = _whole((tensor.offset,), "offset")
        if len(strides) != len(shape):
            raise ValueError(f"{len(strides)} strides for {len(shape)} dimensions")
        count, held = math.prod(shape), storage.nbytes // width
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        if count and last >= held:
            raise ValueError(
                f"its last number is number {last} of a storage of {held}; size {shape}, strides "
                f"{strides}, offset {offset}"
            )
        self.claimed += count * (4 if name == "bfloat16" else width)
        require_claim("this tensor, with those before it,", self.claimed, self.size)
        memory = self.container.memory(storage)
        if not count:
            return _frozen(np.empty(shape, np.float32 if name == "bfloat16" else name))
        dtype = np.dtype("uint16" if name == "bfloat16" else name)
        steps = tuple(s * width if n > 1 else 0 for n, s in zip(shape, strides, strict=True))
        stored = dtype.newbyteorder(self.container.order)
        found = np.ndarray(shape, stored, memory, offset * width, steps)
        if name == "bool" and found.view(np.uint8).max() > 1:
            raise ValueError("booleans with bytes other than 0 and 1")
        return _frozen(_widened(found) if name == "bfloat16" else found.astype(dtype, copy=False))


def _widened(bits: np.ndarray) -> np.ndarray:
    """float32 from the bits of bfloat16, which are its upper half."""
    wide = bits.astype(np.uint32)
    wide <<= 16  # in place, or an array without dimensions becomes a scalar
    return wide.view(np.float32)


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def _whole(sizes: Any, what: str) -> tuple[int, ...]:
    """Sizes or strides that an array can have."""
    if not isinstance(sizes, tuple | list) or len(sizes) > RANK:
        raise ValueError(f"its {what} is no list of at most {RANK} whole numbers")
    if not all(type(n) is int and 0 <= n < 2**48 for n in sizes):
        raise ValueError(f"its {what} is no list of whole numbers from 0 to 2^48")
    if what == "size" and math.prod(max(1, n) for n in sizes) >= 2**58:
        raise ValueError(f"size {tuple(sizes)}: no such array exists")
    return tuple(sizes)


def _key(key: Any, at: tuple[str, ...]) -> str | int:
    if not isinstance(key, str | int):
        raise ValueError(f"{_place(at)}: a dict has a key of {type(key).__name__}, expected text")
    return key


def _place(at: tuple[str, ...]) -> str:
    text = "/".join(name[:200] for name in at) or "the object"
    return text if len(text) <= 200 else f"{text[:100]}...{text[-100:]}"
