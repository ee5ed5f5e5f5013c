"""What a file of ``torch.save`` says about its tensors: the names in its pickle, noted down.

A tensor is a call of ``torch._utils._rebuild_tensor_v2`` on a storage, an offset, a size and
strides; a storage is a persistent id, ("storage", class, key, device, count). Both become records
that nobody has checked yet, except that the key of a storage has one length. They are checked once
their place in the tree is known, so that a complaint can name it.

Reference: PyTorch, ``torch/serialization.py``, ``torch/_utils.py``.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdejax.pickle_machine import Name, Rules, run_pickle

PICKLE = 2**24  # bytes of the objects; a checkpoint of 2500 tensors takes half a million
INSTRUCTIONS = 10**6  # about forty for a tensor
# Class of a storage -> dtype of its numbers.
STORAGES = {
    "torch FloatStorage": "float32", "torch DoubleStorage": "float64",
    "torch HalfStorage": "float16", "torch BFloat16Storage": "bfloat16",
    "torch LongStorage": "int64", "torch IntStorage": "int32", "torch ShortStorage": "int16",
    "torch CharStorage": "int8", "torch ByteStorage": "uint8", "torch BoolStorage": "bool",
    "torch.storage UntypedStorage": "uint8",
}  # fmt: skip
# The dtypes that have no class of storage, and those that have one; both occur as values.
DTYPES = {f"torch {name}" for name in ("uint16", "uint32", "uint64", *STORAGES.values())}


@dataclass(frozen=True)
class Storage:
    """Where numbers lie: the dtype, the key and how many."""

    dtype: str
    key: str
    count: int

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return self.count * itemsize(self.dtype)


class Tensor:
    """A tensor as the file describes it; anything may stand for anything."""

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any, dtype: Any) -> None:
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride
        self.dtype = dtype  # None for that of the storage


def itemsize(dtype: str) -> int:
    """Bytes of a number, as stored.

    Args:
        dtype: its name.
    """
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *more: Any) -> Tensor:
    if len(more) > 2 and more[2]:  # after requires_grad and the hooks
        raise ValueError("a tensor with flags (a conjugate or negative view); save its clone")
    return Tensor(storage, offset, size, stride, None)


def _typed_tensor(
    storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *more: Any
) -> Tensor:
    if not isinstance(dtype, Name) or dtype.text not in DTYPES:
        raise ValueError("a tensor whose dtype is none")
    tensor = _tensor(storage, offset, size, stride, grad, hooks, *more)
    tensor.dtype = dtype.text.removeprefix("torch ")
    return tensor


def _parameter(tensor: Any, *_: Any) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise ValueError("a parameter of what is no tensor")
    return tensor


def _empty_dict(*of: Any) -> dict[Any, Any]:
    if of and not (len(of) == 1 and isinstance(of[0], Name)):
        raise ValueError("a dict of other classes is made with contents; save it with Python 3")
    return {}


def _size(sizes: Any) -> Any:
    return sizes


def _device(*parts: Any) -> str:
    if not all(isinstance(part, str | int) for part in parts):
        raise ValueError("a device that is no text and number")
    return ":".join(map(str, parts))


NAMES = {
    "torch._utils _rebuild_tensor": _tensor,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_tensor_v3": _typed_tensor,
    "torch._utils _rebuild_parameter": _parameter,
    "torch._utils _rebuild_parameter_with_state": _parameter,
    "torch Size": _size,
    "torch device": _device,
    "collections OrderedDict": _empty_dict,
    "collections defaultdict": _empty_dict,
    "builtins dict": _empty_dict,
    "__builtin__ dict": _empty_dict,
    **dict.fromkeys(STORAGES),
    **dict.fromkeys(DTYPES),
}


def _set_state(target: Any, state: Any) -> None:
    """A state_dict is an OrderedDict with attributes (``_metadata``), which are left out."""
    if not isinstance(target, dict) or not isinstance(state, dict):
        raise ValueError("it sets the state of what is no dict")


def read_objects(stream: io.BytesIO) -> tuple[Any, dict[str, Storage]]:
    """The objects in a pickle of ``torch.save``, and the storages that they name.

    Args:
        stream: at the start of the pickle.

    Returns:
        The tree, in which tensors are `Tensor`, and the storages by their keys.

    Raises:
        ValueError: naming what it asks for, or how it is damaged.
    """
    storages: dict[str, Storage] = {}

    def storage(identifier: Any) -> Storage:
        match identifier:
            case (str() as what, Name() as kind, str() as key, str(), int() as count, *more) if (
                what == "storage" and kind.text in STORAGES and 0 <= count < 2**58
            ):
                found = Storage(STORAGES[kind.text], key, int(count))
            case _:
                raise ValueError("a persistent id that is no (storage, class, key, device, count)")
        if more not in ([], [None]):
            raise ValueError(f"storage {key[:80]!r} is a view of another, as before PyTorch 0.4")
        if storages.setdefault(key, found).nbytes != found.nbytes:
            raise ValueError(f"storage {key[:80]!r} has {found.nbytes} bytes, and another number")
        return found

    rules = Rules(NAMES, INSTRUCTIONS, PICKLE, persistent=storage, build=_set_state)
    return run_pickle(stream, rules), storages


def read_plain(stream: io.BytesIO) -> Any:
    """A value without tensors.

    Args:
        stream: at the start of its pickle.

    Returns:
        The value.

    Raises:
        ValueError: as `read_objects`.
    """
    return run_pickle(stream, Rules({}, INSTRUCTIONS, made=0))
