"""A pickled dict of plain values and byte arrays, read without the pickle machine.

`sdejax.pickle_machine` follows the instructions that make plain values. The six names that a NumPy
array of bytes needs stand for small collectors here; any other name is refused.

Reference: Python, "pickletools: tools for pickle developers".
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from sdejax.pickle_machine import Rules, run_pickle

LARGEST = 2**28  # bytes of a file; a batch of CIFAR-10 has 31 million
LONGEST = 3 * 10**5  # instructions; a batch has about fifty thousand


class _Dtype:
    """Stands for ``numpy.dtype``: the type code; of single bytes the order is nothing."""

    def __init__(self, code: Any) -> None:
        self.code = code.decode("ascii") if isinstance(code, bytes) else code


class _Array:
    """Stands for an array until its state is known."""

    value: np.ndarray = np.zeros(0, np.uint8)

    def fill(self, shape: Any, dtype: Any, fortran: Any, data: Any) -> _Array:
        """Sets the value from checked state."""
        if not isinstance(dtype, _Dtype) or dtype.code != "u1":
            raise ValueError(f"array of type {getattr(dtype, 'code', dtype)!r}, expected 'u1'")
        raw = data.encode("latin1") if isinstance(data, str) else data
        if not isinstance(raw, bytes) or not isinstance(shape, tuple):
            raise ValueError("array without a shape or bytes")
        self.value = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")
        return self


def _reconstructed(*_: Any) -> _Array:
    return _Array()


def _dtype(code: Any, *_: Any) -> _Dtype:
    return _Dtype(code)


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    return _Array().fill(shape, dtype, order == "F", data)


def _encoded(text: str, *_: Any) -> bytes:
    return text.encode("latin1")


def _set_state(target: Any, state: Any) -> None:
    if isinstance(target, _Array):
        target.fill(*state[1:])
    elif not isinstance(target, _Dtype):
        raise ValueError("it sets the state of what has none")


NAMES = {
    "numpy.core.multiarray _reconstruct": _reconstructed,
    "numpy._core.multiarray _reconstruct": _reconstructed,
    "numpy._core.numeric _frombuffer": _from_buffer,  # protocol 5
    "numpy ndarray": None,
    "numpy dtype": _dtype,
    "_codecs encode": _encoded,  # how Python 3 writes bytes in old protocols
}


def _text(key: Any) -> str:
    if not isinstance(key, str | bytes):
        raise ValueError("a key that is no text")
    return key if isinstance(key, str) else key.decode()


def read_pickle(file: Path) -> dict[str, Any]:
    """Read a pickled dict of plain values and byte arrays, running none of its code.

    Args:
        file: the pickle, of Python 2 or 3.

    Returns:
        The dict, its keys as text and its arrays as ``uint8``. Values below are not checked.

    Raises:
        ValueError: if the file is damaged, or asks for anything but plain values and byte arrays.
    """
    try:
        if file.stat().st_size > LARGEST:
            raise ValueError(f"more than {LARGEST} bytes")
        raw = file.read_bytes()
        rules = Rules(NAMES, LONGEST, made=len(raw), build=_set_state)
        text = {_text(k): v for k, v in run_pickle(io.BytesIO(raw), rules).items()}
        return {k: v.value if isinstance(v, _Array) else v for k, v in text.items()}
    except Exception as error:  # a damaged pickle raises nearly anything
        raise ValueError(
            f"{file}: refused or damaged pickle: {str(error)[:300]}; expected a dict of lists, "
            "text and byte arrays. Use the files of https://www.cs.toronto.edu/~kriz/cifar.html, "
            "or their binary version"
        ) from None
