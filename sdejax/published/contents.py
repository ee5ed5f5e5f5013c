"""What a published checkpoint holds: weights, their average, Adam's moments and the step.

Four codes wrote four layouts, which are told apart by their outermost entries:

| code | layout |
|---|---|
| score_sde_pytorch | {optimizer, model, ema, step}; ``ema.shadow_params`` is a list without names |
| ncsnv2 | [model, optimizer, epoch, step, ema], or without ema; ``ema`` maps names to tensors |
| ncsn | [model, optimizer] |
| score_sde (Flax) | {optimizer: {target, state}, params_ema, step, ...} |

A bare state_dict is taken as weights alone. The lists without names, the average of
score_sde_pytorch and Adam's state of all three, follow ``model.parameters()``: the order of
``model`` without its buffer ``sigmas``. The average has only what takes a gradient, which the
frequencies of Fourier features (``all_modules.0.W``) do not; Adam's state counts them but has no
entry for them.

Reference: the ``utils``/``models.ema``/``runners`` of github.com/yang-song/score_sde_pytorch,
github.com/yang-song/score_sde, github.com/ermongroup/ncsn and github.com/ermongroup/ncsnv2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Tensors = Mapping[str, Any]  # arrays by their published names; Flax: nested
PREFIX = "module."  # of the names in a DataParallel network
FROZEN = "all_modules.0.W"
LEVELS = "sigmas"


class Moments(NamedTuple):
    """Adam's state: means of the gradient and of its square, and how many updates made them."""

    first: Tensors
    second: Tensors
    updates: int


class Contents(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        layout: which code wrote it, a name of the table above, or "state_dict".
        params: the weights.
        average: their moving average; None where the file has none.
        moments: Adam's state; None where the file has none.
        step: of training.
        sigmas: the table of noise levels [levels]; None where the file has none.
    """

    layout: str
    params: Tensors
    average: Tensors | None
    moments: Moments | None
    step: int
    sigmas: np.ndarray | None


def torch_weights(tree: Any) -> Contents:
    """The weights of a PyTorch checkpoint, without the lists that are in their order.

    Where a tensor is missing, the network that was meant can name it; the lists cannot.

    Args:
        tree: of ``read_torch``.

    Returns:
        The contents, with neither average nor moments nor step.

    Raises:
        ValueError: for another layout, or naming what is no tensor.
    """
    match tree:
        case {"model": Mapping() as model}:
            layout, where = "score_sde_pytorch", "model"
        case [Mapping() as model, Mapping()]:
            layout, where = "ncsn", "[0]"
        case [Mapping() as model, Mapping(), _, _] | [Mapping() as model, Mapping(), _, _, _]:
            layout, where = "ncsnv2", "[0]"
        case Mapping() as model if model and all(isinstance(v, np.ndarray) for v in model.values()):
            layout, where = "state_dict", "the file"
        case _:
            raise ValueError(
                f"{_outline(tree)}: no layout of score_sde_pytorch ({{model, ema, optimizer, "
                "step}), ncsnv2 ([model, optimizer, epoch, step, ema]), ncsn ([model, optimizer]) "
                "or a state_dict"
            )
    params, sigmas = _weights(model, where)
    return Contents(layout, params, None, None, 0, sigmas)


def torch_contents(tree: Any) -> Contents:
    """What a PyTorch checkpoint holds.

    Args:
        tree: of ``read_torch``.

    Returns:
        The contents, tensors by their names without ``module.``.

    Raises:
        ValueError: for another layout, or naming the tensor that is missing, surplus or misshapen.
    """
    found = torch_weights(tree)
    params = found.params
    if found.layout == "score_sde_pytorch":
        return found._replace(
            average=_listed_average(tree.get("ema"), params),
            moments=_adam(tree.get("optimizer"), params),
            step=_whole("step", tree.get("step", 0)),
        )
    if found.layout == "state_dict":
        return found
    moments = _adam(tree[1], params)
    if found.layout == "ncsn":
        return found._replace(moments=moments, step=0 if moments is None else moments.updates)
    average = _named_average(tree[4], params) if len(tree) > 4 else None
    return found._replace(average=average, moments=moments, step=_whole("[3]", tree[3]))


def flax_contents(tree: Mapping[str, Any]) -> Contents:
    """What a Flax checkpoint of score_sde holds.

    Args:
        tree: of ``read_flax``.

    Returns:
        The contents, tensors nested as in the file.

    Raises:
        ValueError: for another layout.
    """
    match tree:
        case {"optimizer": {"target": Mapping() as params, "state": state}} if params:
            average = tree.get("params_ema")
            if average is not None and not isinstance(average, Mapping):
                raise ValueError(f"params_ema: {_outline(average)}, expected nested tensors")
            step = _whole("step", tree.get("step", 0))
            return Contents("score_sde", params, average or None, _flax_adam(state), step, None)
    raise ValueError(
        f"{_outline(tree)}: no layout of score_sde, expected optimizer: {{target, state}}, "
        "params_ema, step"
    )


def _weights(model: Mapping[Any, Any], where: str) -> tuple[dict[str, np.ndarray], Any]:
    """Tensors of a network without the prefix of its names, and its table of levels."""
    found = {}
    for name, value in model.items():
        if not isinstance(name, str) or not isinstance(value, np.ndarray):
            raise ValueError(f"{where}: {name!s:.200} is {type(value).__name__}, expected a tensor")
        found[name.removeprefix(PREFIX)] = value
    if len(found) != len(model):
        raise ValueError(f"{where}: a tensor is there twice, with and without {PREFIX!r}")
    if not found:
        raise ValueError(f"{where}: no tensors; expected the weights of a network")
    sigmas = found.pop(LEVELS, None)
    if sigmas is not None and sigmas.dtype.kind != "f":
        raise ValueError(f"{where}: {LEVELS} is {sigmas.dtype}, expected floating-point numbers")
    if not found:
        raise ValueError(f"{where}: {LEVELS} alone; expected the weights of a network")
    return found, sigmas


def _listed_average(ema: Any, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """The average in the order of the parameters that take a gradient."""
    if ema is None:
        return None
    match ema:
        case {"shadow_params": list() | tuple() as listed}:
            names = [name for name in params if name != FROZEN]
            if len(listed) != len(names):
                raise ValueError(
                    f"ema.shadow_params: {len(listed)} tensors, expected {len(names)}, one for "
                    f"each of model that takes a gradient, {' to '.join(names[:1] + names[-1:])}"
                )
            found = dict(zip(names, listed, strict=True))
            for i, (name, tensor) in enumerate(found.items()):
                _agree(f"ema.shadow_params[{i}]", name, tensor, params)
            return found
    raise ValueError(f"ema: {_outline(ema)}, expected decay, num_updates and shadow_params")


def _named_average(ema: Any, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    if not isinstance(ema, Mapping):
        raise ValueError(f"[4]: {_outline(ema)}, expected the average of each tensor by its name")
    found, _ = _weights(ema, "[4]")
    for name in params:
        if name not in found:
            raise ValueError(f"[4]: the average of {name} is missing among {len(found)}")
    for name, tensor in found.items():
        _agree("[4]", name, tensor, params)
    return found


def _adam(optimizer: Any, params: Mapping[str, np.ndarray]) -> Moments | None:
    """Adam's moments by name; a parameter that had no gradient has none."""
    match optimizer:
        case None:
            return None
        case {"state": Mapping() as state, "param_groups": list() as groups}:
            numbers = [n for group in groups for n in _numbers(group)]
        case _:
            raise ValueError(f"optimizer: {_outline(optimizer)}, expected state and param_groups")
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
                _agree(f"{where}.exp_avg", name, m, params)
                _agree(f"{where}.exp_avg_sq", name, v, params)
                first[name], second[name] = m, v
                count = max(count, _whole(f"{where}.step", steps))
            case _:
                raise ValueError(
                    f"{where} (for {name}): {_outline(entry)}, expected Adam's step, exp_avg and "
                    "exp_avg_sq"
                )
    return Moments(first, second, count)


def _numbers(group: Any) -> Sequence[Any]:
    match group:
        case {"params": list() as numbers} if all(type(n) is int for n in numbers):
            return numbers
    raise ValueError(f"optimizer.param_groups: {_outline(group)}, expected numbers in params")


def _flax_adam(state: Any) -> Moments | None:
    match state:
        case {"step": step, "param_states": Mapping() as leaves} if leaves:
            first, second = (_picked(leaves, leaf) for leaf in ("grad_ema", "grad_sq_ema"))
            return Moments(first, second, _whole("optimizer/state/step", step))
        case {"param_states": Mapping() as leaves} if not leaves:
            return None
        case Mapping() | None if not state:
            return None
    raise ValueError(f"optimizer/state: {_outline(state)}, expected step and param_states")


def _picked(node: Any, leaf: str, at: str = "optimizer/state/param_states") -> dict[str, Any]:
    """One leaf of every parameter's state: {"kernel": {leaf: a, ...}} becomes {"kernel": a}."""
    found = {}
    for key, child in node.items():
        if not isinstance(child, Mapping):
            raise ValueError(f"{at}/{key}: {type(child).__name__}, expected Adam's {leaf}")
        found[key] = child[leaf] if leaf in child else _picked(child, leaf, f"{at}/{key}")
    return found


def _agree(where: str, name: str, tensor: Any, params: Mapping[str, np.ndarray]) -> None:
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


def _whole(name: str, value: Any) -> int:
    """A step, which newer versions of PyTorch store as a tensor of one float."""
    number = (
        value.item() if isinstance(value, np.ndarray | np.generic) and value.size == 1 else value
    )
    if type(number) not in (int, float) or not 0 <= number < 2**31 or number != int(number):
        raise ValueError(f"{name}: got {str(value)[:100]!r}, expected a whole number below 2^31")
    return int(number)


def _outline(tree: Any) -> str:
    """What something holds, for a message."""
    match tree:
        case Mapping():
            names = [str(name)[:60] for name in tree]
            return f"a dictionary of {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}"
        case list() | tuple():
            kinds = [type(item).__name__ for item in tree[:8]]
            return f"a list of {len(tree)} ({', '.join(kinds)})"
    return type(tree).__name__
