"""Pickles of plain values, read without the pickle machine.

A pickle is a program, and Python's machine runs whatever it names. Here its instructions are read
one by one, as ``pickletools`` lists them, and only those that make containers, text, bytes and
numbers are followed. The caller admits names. Such a name is never looked up: it stands for a
collector, a function that notes down the arguments of a call, or for nothing but itself. Any other
name or instruction is refused.

Numbers of instructions and bytes are limited. Keys are text, bytes or numbers of 64 bits, since
hashing nested tuples can take for ever. What comes out may still contain itself, or one list a
thousand times over, so whoever walks through it counts.

Reference: Python, "pickletools: tools for pickle developers".
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

PLAIN = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES",
}  # fmt: skip
RAW = {"STRING", "BINSTRING", "SHORT_BINSTRING"}  # text of Python 2, which is bytes
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
FRESH = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Name:
    """An admitted name. No pickle can make another object of this class."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text.replace(" ", ".")


class Rules(NamedTuple):
    """What a pickle may do.

    ``names`` maps "module name" to a collector, or to None for a name that is never called.
    ``instructions`` limits their number, ``made`` the bytes and characters that calls return.
    ``persistent`` makes a value of a persistent id; ``build`` gives an object its state and raises
    ValueError for an object that has none. Without them these instructions are refused.
    """

    names: Mapping[str, Callable[..., Any] | None]
    instructions: int
    made: int
    persistent: Callable[[Any], Any] | None = None
    build: Callable[[Any, Any], None] | None = None


def run_pickle(stream: io.BytesIO, rules: Rules) -> Any:
    """The value that a pickle describes; nothing that it names is run.

    Args:
        stream: at the start of the pickle; afterwards just behind its end. It lies in memory, since
            a pickle may ask for 2^62 bytes of it.
        rules: what is admitted.

    Returns:
        Dicts, lists, tuples, numbers, text, bytes, None, `Name`, and what collectors returned.

    Raises:
        ValueError: naming what it asks for, or how it is damaged.
    """
    try:
        return _Machine(rules).run(stream)
    except ValueError:
        raise
    except Exception as error:  # a damaged pickle raises nearly anything
        kind = type(error).__name__
        raise ValueError(f"it is damaged ({kind}: {str(error)[:200]})") from None


def _key(value: Any) -> Any:
    """What can be hashed at once; larger integers can be chosen so that all hashes are the same."""
    if isinstance(value, str | bytes) or (isinstance(value, int) and abs(value) < 2**64):
        return value
    raise ValueError(f"a key of type {type(value).__name__}, expected text or a number of 64 bits")


class _Machine:
    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under the marks
        self.memo: dict[int, Any] = {}
        self.made = 0  # bytes and characters that calls have made

    def run(self, stream: io.BytesIO) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count >= self.rules.instructions:
                raise ValueError(f"more than {self.rules.instructions} instructions")
            if opcode.name in PLAIN:
                self.push(argument)
            elif opcode.name in STEPS:
                STEPS[opcode.name](self, argument)
            else:
                what = f" of {argument[:200]}" if isinstance(argument, str) else ""
                raise ValueError(f"it has the instruction {opcode.name}{what}")
        if self.below or len(self.stack) != 1:
            raise ValueError(f"it ends with {len(self.stack)} values and {len(self.below)} marks")
        return self.stack[0]

    def pass_over(self, _: Any) -> None:
        """For what frames the program."""

    def mark(self, _: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def marked(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def put(self, place: Any) -> None:
        self.memo[_key(len(self.memo) if place is None else place)] = self.stack[-1]

    def get(self, place: Any) -> None:
        self.push(self.memo[place])

    def push_tuple(self, size: int) -> None:
        if len(self.stack) < size:
            raise ValueError(f"a tuple of {size} from {len(self.stack)} values")
        self.stack[-size:] = [tuple(self.stack[-size:])]

    def push_name(self, text: str) -> None:
        if text not in self.rules.names:
            raise ValueError(f"it asks for {text[:200].replace(' ', '.')}")
        self.push(Name(text))

    def stack_global(self, _: Any) -> None:
        attribute, module = self.stack.pop(), self.stack.pop()
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise ValueError("it asks for a name that is no text")
        self.push_name(f"{module} {attribute}")

    def reduce(self, _: Any) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, Name) or not isinstance(arguments, tuple):
            raise ValueError("it calls what is no name")
        collector = self.rules.names[name.text]
        if collector is None:
            raise ValueError(f"it calls {name}")
        made = collector(*arguments)
        self.made += len(made) if isinstance(made, bytes | str) else 0
        if self.made > self.rules.made:  # one text, copied again and again
            raise ValueError("its calls make more bytes than it has")
        self.push(made)

    def build(self, _: Any) -> None:
        state = self.stack.pop()
        if self.rules.build is None:
            raise ValueError("it sets the state of what has none")
        self.rules.build(self.stack[-1], state)

    def persist(self, identifier: Any) -> None:
        if self.rules.persistent is None:
            raise ValueError("it has a persistent id")
        self.push(self.rules.persistent(identifier))

    def extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise ValueError("it appends to what is no list")
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise ValueError("it sets an item of what is no dict")
        if len(items) % 2:
            raise ValueError("a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if _key(key) in target:
                raise ValueError(f"a dict has the key {str(key)[:80]!r} twice")
            target[key] = value

    def last(self, count: int) -> list[Any]:
        if len(self.stack) <= count:
            raise ValueError("it takes more values than there are")
        items, self.stack[-count:] = self.stack[-count:], []
        return items

    def push_dict(self, _: Any) -> None:
        items = self.marked()
        self.push({})
        self.set_items(items)


# What each instruction does, besides those of PLAIN.
STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), _Machine.pass_over),
    **{name: lambda m, arg: m.push(arg.encode("latin1")) for name in RAW},
    **{name: lambda m, arg: m.push(bytes(arg)) for name in ("BYTEARRAY8", "BINBYTES8")},
    **{name: lambda m, _, v=value: m.push(v) for name, value in CONSTANTS.items()},
    **{name: lambda m, _, make=make: m.push(make()) for name, make in FRESH.items()},
    **{name: lambda m, _, size=size: m.push_tuple(size) for name, size in TUPLES.items()},
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    "MARK": _Machine.mark,
    "APPEND": lambda m, _: m.extend(m.last(1)),
    "APPENDS": lambda m, _: m.extend(m.marked()),
    "SETITEM": lambda m, _: m.set_items(m.last(2)),
    "SETITEMS": lambda m, _: m.set_items(m.marked()),
    "LIST": lambda m, _: m.push(m.marked()),
    "TUPLE": lambda m, _: m.push(tuple(m.marked())),
    "DICT": _Machine.push_dict,
    "GLOBAL": _Machine.push_name,
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    "PERSID": _Machine.persist,
    "BINPERSID": lambda m, _: m.persist(m.stack.pop()),
}
