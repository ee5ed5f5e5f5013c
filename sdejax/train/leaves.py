"""The leaves of a pytree by name, so that a checkpoint does not depend on Python types.

A state is stored as a flat dict ``name -> array`` with names like ``params/dense/kernel``: fields
of NamedTuples, dict keys and list indices alike. Any part of it can be read alone, and two states
are compared by name, shape and dtype before an array is read. A typed key is stored as its data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
from jaxtyping import PyTree

from sdejax.train.integrity import CheckpointError, limited_lines


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _raw(leaf: Any) -> Any:
    """A leaf as it is stored: a typed key as its data, with the same sharding."""
    if not _is_key(leaf):
        return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        data = jax.eval_shape(jax.random.key_data, leaf)
        return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=leaf.sharding)
    return jax.random.key_data(leaf)


def _typed(stored: Any, like: Any) -> Any:
    if not _is_key(like):
        return stored
    impl: list[Any] = []  # of a bare shape, only a trace can tell
    jax.eval_shape(lambda key: impl.append(jax.random.key_impl(key)), like)
    return jax.random.wrap_key_data(stored, impl=impl[0])


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """The leaves of a pytree by path, as they are stored.

    Args:
        tree: pytree of arrays or ``jax.ShapeDtypeStruct``; typed keys become their data.

    Returns:
        ``name -> leaf`` in the order of the tree.

    Raises:
        ValueError: two leaves have one path, or a dict key holds a "/".
    """
    named: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        parts = [jax.tree_util.keystr((part,), simple=True) for part in path]
        name = "/".join(parts)
        if name in named or any("/" in part for part in parts):
            raise ValueError(f"leaf {name!r}: two leaves have this path, or a key holds a '/'")
        named[name] = _raw(leaf)
    return named


def leaf_table(named: Mapping[str, Any]) -> dict[str, Any]:
    """``name -> [shape, dtype]`` of named leaves, as JSON holds it."""
    return {name: [list(leaf.shape), str(leaf.dtype)] for name, leaf in named.items()}


def fill_leaves(tree: PyTree, named: Mapping[str, Any]) -> Any:
    """The tree with stored leaves in place of its own; inverse of ``named_leaves``.

    Args:
        tree: pytree that gives structure and the kind of keys.
        named: ``name -> leaf``, at least the names of the tree.
    """
    leaves, structure = jax.tree.flatten(tree)
    stored = (named[name] for name in named_leaves(tree))
    typed = [_typed(data, leaf) for data, leaf in zip(stored, leaves, strict=True)]
    return jax.tree.unflatten(structure, typed)


def nest_leaves(named: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts out of named leaves, split at "/"."""
    tree: dict[str, Any] = {}
    for name, leaf in named.items():
        *parents, last = name.split("/")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = leaf
    return tree


def check_leaves(saved: Mapping[str, Any], expected: Mapping[str, Any], where: str) -> None:
    """Refuse to restore leaves into a tree of another structure, shape or dtype.

    Args:
        saved: ``name -> [shape, dtype]`` of the checkpoint.
        expected: the same of the tree to restore into.
        where: the step directory, for the message.

    Raises:
        CheckpointError: naming at most eighteen differing leaves.
    """

    def show(leaf: Any) -> str:
        return f"{leaf[1]}{list(leaf[0])}"

    lines = [
        f"{name}: saved {show(saved[name])}, expected {show(expected[name])}"
        if name in saved and name in expected
        else f"{name}: saved {show(saved[name])}, not expected"
        if name in saved
        else f"{name}: not saved, expected {show(expected[name])}"
        for name in sorted({*saved, *expected})
        if name not in saved or name not in expected or show(saved[name]) != show(expected[name])
    ]
    if lines:
        raise CheckpointError(
            f"{where} does not fit the model and optimizer of this run; they differ in "
            f"{len(lines)} leaves:{limited_lines(lines)}\n"
            "Use the config it was saved with, or another --workdir."
        )


def require_payload(payload: Any) -> None:
    """Refuses what is not the JSON part of a checkpoint.

    Args:
        payload: {"leaves": ``leaf_table``, "score": a finite number or None, "meta": a dict}.

    Raises:
        ValueError: naming the entry that does not fit.
    """
    score = payload["score"]
    if score is not None and not (type(score) in (int, float) and math.isfinite(score)):
        raise ValueError(f"score: got {score!r}, expected a finite number or null")
    if not isinstance(payload["meta"], dict):
        raise ValueError(f"meta: got {type(payload['meta']).__name__}, expected an object")
    for name, leaf in payload["leaves"].items():
        shape, dtype = leaf
        if not isinstance(shape, list) or not all(type(n) is int and 0 < n < 2**48 for n in shape):
            raise ValueError(f"leaf {name[:200]!r}: got shape {shape!s:.200}, expected sizes")
        if not isinstance(dtype, str) or len(shape) > 32 or name.count("/") > 64:
            raise ValueError(f"leaf {name[:200]!r}: got {dtype!s:.200}, expected a type of numbers")
