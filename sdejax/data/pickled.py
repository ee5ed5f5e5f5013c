"""A pickled dict of plain values and byte arrays, read without the pickle machine.

A pickle is a program, and Python's machine runs whatever it names. Here its instructions are read
one by one, as ``pickletools`` lists them, and only those that make containers, text, bytes and
numbers are followed. The six names that a NumPy array of bytes needs stand for small collectors;
any other name or instruction is refused before it is looked up. Numbers of instructions and bytes
are limited, and a key is text, since hashing nested tuples can take for ever.

Reference: Python, "pickletools: tools for pickle developers".
"""

from __future__ import annotations

import io
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

LARGEST = 2**28  # bytes of a file; a batch of CIFAR-10 has 31 million
LONGEST = 3 * 10**5  # instructions; a batch has about fifty thousand

NAMES = {
    "numpy.core.multiarray _reconstruct",
    "numpy._core.multiarray _reconstruct",
    "numpy._core.numeric _frombuffer",  # protocol 5
    "numpy ndarray",
    "numpy dtype",
    "_codecs encode",  # how Python 3 writes bytes in old protocols
}
PASSED_OVER = {"PROTO", "FRAME", "STOP"}
RAW = {"STRING", "BINSTRING", "SHORT_BINSTRING"}  # text of Python 2, which is bytes
PLAIN = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES",
}  # fmt: skip
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
FRESH = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Name(str):
    """An admitted name; it is never looked up."""


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


def _called(name: Any, arguments: Any) -> Any:
    """What a call makes, of the few that there are."""
    if not isinstance(name, _Name) or not isinstance(arguments, tuple):
        raise ValueError("it calls what is no name")
    if name.endswith(" _reconstruct"):
        return _Array()
    if name == "numpy dtype":
        return _Dtype(arguments[0])
    if name.endswith(" _frombuffer"):
        data, dtype, shape, order = arguments
        return _Array().fill(shape, dtype, order == "F", data)
    if name == "_codecs encode" and isinstance(arguments[0], str):
        return arguments[0].encode("latin1")
    raise ValueError(f"it calls {name.replace(' ', '.')}")


def _admitted(name: str) -> _Name:
    if name not in NAMES:
        raise ValueError(f"it asks for {name.replace(' ', '.')[:200]}")
    return _Name(name)


def _put(target: Any, pairs: list[Any]) -> None:
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        if not isinstance(target, dict) or not isinstance(key, str | bytes):
            raise ValueError("a key that is no text, or of what is no dict")
        target[key] = value


def _run(raw: bytes) -> Any:
    """The value that a pickle describes."""
    stack: list[Any] = []
    below: list[list[Any]] = []  # the stacks under the marks
    memo: dict[int, Any] = {}
    encoded = 0  # bytes that calls have made
    for count, (opcode, argument, _) in enumerate(pickletools.genops(io.BytesIO(raw))):
        arg: Any = argument
        name = opcode.name
        if count >= LONGEST:
            raise ValueError(f"more than {LONGEST} instructions")
        if name in PLAIN:
            stack.append(arg)
        elif name in RAW:
            stack.append(arg.encode("latin1"))
        elif name in ("BYTEARRAY8", "BINBYTES8"):
            stack.append(bytes(arg))
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in FRESH:
            stack.append(FRESH[name]())
        elif name in TUPLES:
            stack[-TUPLES[name] :] = [tuple(stack[-TUPLES[name] :])]
        elif name == "MARK":
            below.append(stack)
            stack = []
        elif name in ("APPENDS", "SETITEMS", "TUPLE", "LIST", "DICT"):
            items, stack = stack, below.pop()
            if name == "APPENDS":
                _extend(stack[-1], items)
            elif name == "SETITEMS":
                _put(stack[-1], items)
            elif name == "DICT":
                stack.append({})
                _put(stack[-1], items)
            else:
                stack.append(items if name == "LIST" else tuple(items))
        elif name == "APPEND":
            _extend(stack[-2], [stack.pop()])
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            _put(stack[-1], [key, value])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[arg] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[arg])
        elif name == "GLOBAL":
            stack.append(_admitted(arg))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(_admitted(f"{module:s} {attribute:s}"))
        elif name == "REDUCE":
            arguments = stack.pop()
            made = _called(stack.pop(), arguments)
            encoded += len(made) if isinstance(made, bytes) else 0
            if encoded > len(raw):  # one text, copied again and again
                raise ValueError("its calls make more bytes than it has")
            stack.append(made)
        elif name == "BUILD":
            state = stack.pop()
            if isinstance(stack[-1], _Array):
                stack[-1].fill(*state[1:])
            elif not isinstance(stack[-1], _Dtype):
                raise ValueError("it sets the state of what has none")
        elif name not in PASSED_OVER:
            raise ValueError(f"it has the instruction {name}")
    (value,) = stack
    return value


def _extend(target: Any, items: list[Any]) -> None:
    if not isinstance(target, list):
        raise ValueError("it appends to what is no list")
    target.extend(items)


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
        content = _run(file.read_bytes())
        text = {k.decode() if isinstance(k, bytes) else k: v for k, v in content.items()}
        return {k: v.value if isinstance(v, _Array) else v for k, v in text.items()}
    except Exception as error:  # a damaged pickle raises nearly anything
        raise ValueError(
            f"{file}: refused or damaged pickle: {str(error)[:300]}; expected a dict of lists, "
            "text and byte arrays. Use the files of https://www.cs.toronto.edu/~kriz/cifar.html, "
            "or their binary version"
        ) from None
