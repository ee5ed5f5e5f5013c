"""Adam's state in a published checkpoint: by number in PyTorch's, by name in Flax's.

PyTorch numbers the parameters in the order of ``model.parameters()``; one that had no gradient, as
the frequencies of Fourier features, has a number but no entry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sdejax.published.entries import Tensors, agree, outline, whole


class Moments(NamedTuple):
    """Adam's state: means of the gradient and of its square, and how many updates made them."""

    first: Tensors
    second: Tensors
    updates: int


def torch_moments(optimizer: Any, params: Mapping[str, np.ndarray]) -> Moments | None:
    """Adam's moments by name; a parameter that had no gradient has none.

    Args:
        optimizer: the ``state_dict`` of PyTorch's Adam, or None.
        params: the weights by their names, in the order of the optimizer's numbers.

    Returns:
        The moments; None where there are none.

    Raises:
        ValueError: for another layout, naming the entry.
    """
    match optimizer:
        case None:
            return None
        case {"state": Mapping() as state, "param_groups": list() as groups}:
            numbers = [n for group in groups for n in _numbers(group)]
        case _:
            raise ValueError(f"optimizer: {outline(optimizer)}, expected state and param_groups")
    if not state:
        return None
    if len(numbers) != len(params):
        raise ValueError(
            f"optimizer.param_groups: {len(numbers)} parameters, expected {len(params)}, those of "
            "model in their order"
        )
    names = dict(zip(numbers, params, strict=True))
    if len(names) != len(numbers):
        raise ValueError("optimizer.param_groups: a parameter is there twice")
    if surplus := [n for n in state if n not in names]:
        raise ValueError(f"optimizer.state: {surplus[0]!s:.100} is no number of param_groups")
    first, second, count = {}, {}, 0
    for number, entry in state.items():
        name, where = names[number], f"optimizer.state[{number}]"
        match entry:
            case {"step": steps, "exp_avg": m, "exp_avg_sq": v}:
                agree(f"{where}.exp_avg", name, m, params)
                agree(f"{where}.exp_avg_sq", name, v, params)
                first[name], second[name] = m, v
                count = max(count, whole(f"{where}.step", steps))
            case _:
                raise ValueError(
                    f"{where} (for {name}): {outline(entry)}, expected Adam's step, exp_avg and "
                    "exp_avg_sq"
                )
    return Moments(first, second, count)


def _numbers(group: Any) -> Sequence[Any]:
    match group:
        case {"params": list() as numbers} if all(type(n) is int for n in numbers):
            return numbers
    raise ValueError(f"optimizer.param_groups: {outline(group)}, expected numbers in params")


def flax_moments(state: Any) -> Moments | None:
    """Adam's moments, nested as the weights are.

    Args:
        state: ``optimizer/state`` of a Flax checkpoint, or None.

    Returns:
        The moments; None where there are none.

    Raises:
        ValueError: for another layout, naming the entry.
    """
    match state:
        case {"step": step, "param_states": Mapping() as leaves} if leaves:
            first, second = (_picked(leaves, leaf) for leaf in ("grad_ema", "grad_sq_ema"))
            return Moments(first, second, whole("optimizer/state/step", step))
        case {"param_states": Mapping() as leaves} if not leaves:
            return None
        case Mapping() | None if not state:
            return None
    raise ValueError(f"optimizer/state: {outline(state)}, expected step and param_states")


def _picked(node: Any, leaf: str, at: str = "optimizer/state/param_states") -> dict[str, Any]:
    """One leaf of every parameter's state: {"kernel": {leaf: a, ...}} becomes {"kernel": a}."""
    found = {}
    for key, child in node.items():
        if not isinstance(child, Mapping):
            raise ValueError(f"{at}/{key}: {type(child).__name__}, expected Adam's {leaf}")
        found[key] = child[leaf] if leaf in child else _picked(child, leaf, f"{at}/{key}")
    return found
