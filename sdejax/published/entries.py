"""What entries of a checkpoint have to be: tensors shaped as the weights, whole numbers, rates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Tensors = Mapping[str, Any]  # arrays by their published names; Flax: nested


def agree(where: str, name: str, tensor: Any, params: Mapping[str, np.ndarray]) -> None:
    """A tensor of the shape of the weights that it goes with."""
    if not isinstance(tensor, np.ndarray):
        raise ValueError(f"{where} (for {name}): {type(tensor).__name__}, expected a tensor")
    if name not in params:
        raise ValueError(f"{where}: {name} is not among the weights")
    if tensor.shape != params[name].shape:
        raise ValueError(
            f"{where} (for {name}): shape {tensor.shape}, expected {params[name].shape}, that of "
            "the weights"
        )


def whole(name: str, value: Any) -> int:
    """A step, which newer versions of PyTorch store as a tensor of one float."""
    number = _number(value)
    if type(number) not in (int, float) or not 0 <= number < 2**31 or number != int(number):
        raise ValueError(f"{name}: got {str(value)[:100]!r}, expected a whole number below 2^31")
    return int(number)


def rate(name: str, value: Any) -> float:
    """The weight of the old in a moving average, in [0, 1)."""
    number = _number(value)
    if type(number) not in (int, float) or not 0 <= number < 1:
        raise ValueError(f"{name}: got {str(value)[:100]!r}, expected a number in [0, 1)")
    return float(number)


def outline(tree: Any) -> str:
    """What something holds, for a message."""
    match tree:
        case Mapping():
            names = [str(name)[:60] for name in tree]
            return f"a dictionary of {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}"
        case list() | tuple():
            kinds = [type(item).__name__ for item in tree[:8]]
            return f"a list of {len(tree)} ({', '.join(kinds)})"
    return type(tree).__name__


def _number(value: Any) -> Any:
    single = isinstance(value, np.ndarray | np.generic) and value.size == 1
    return value.item() if single else value
