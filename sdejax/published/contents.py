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

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from sdejax.published.adam_state import Moments, flax_moments, torch_moments
from sdejax.published.entries import Tensors, agree, outline, rate, whole

PREFIX = "module."  # of the names in a DataParallel network
FROZEN = "all_modules.0.W"
LEVELS = "sigmas"


class Contents(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        layout: which code wrote it, a name of the table above, or "state_dict".
        params: the weights.
        average: their moving average; None where the file has none.
        decay: of that average; None where the file does not tell.
        moments: Adam's state; None where the file has none.
        step: of training.
        sigmas: the table of noise levels [levels]; None where the file has none.
    """

    layout: str
    params: Tensors
    average: Tensors | None = None
    decay: float | None = None
    moments: Moments | None = None
    step: int = 0
    sigmas: np.ndarray | None = None


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
                f"{outline(tree)}: no layout of score_sde_pytorch ({{model, ema, optimizer, "
                "step}), ncsnv2 ([model, optimizer, epoch, step, ema]), ncsn ([model, optimizer]) "
                "or a state_dict"
            )
    params, sigmas = _weights(model, where)
    return Contents(layout, params, sigmas=sigmas)


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
        average, decay = _listed_average(tree.get("ema"), params)
        return found._replace(
            average=average,
            decay=decay,
            moments=torch_moments(tree.get("optimizer"), params),
            step=whole("step", tree.get("step", 0)),
        )
    if found.layout == "state_dict":
        return found
    moments = torch_moments(tree[1], params)
    if found.layout == "ncsn":
        return found._replace(moments=moments, step=0 if moments is None else moments.updates)
    average = _named_average(tree[4], params) if len(tree) > 4 else None
    return found._replace(average=average, moments=moments, step=whole("[3]", tree[3]))


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
                raise ValueError(f"params_ema: {outline(average)}, expected nested tensors")
            step = whole("step", tree.get("step", 0))
            moments = flax_moments(state)
            return Contents("score_sde", params, average or None, moments=moments, step=step)
    raise ValueError(
        f"{outline(tree)}: no layout of score_sde, expected optimizer: {{target, state}}, "
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


def _listed_average(
    ema: Any, params: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray] | None, float | None]:
    """The average in the order of the parameters that take a gradient, and its decay."""
    if ema is None:
        return None, None
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
                agree(f"ema.shadow_params[{i}]", name, tensor, params)
            return found, rate("ema.decay", ema["decay"]) if "decay" in ema else None
    raise ValueError(f"ema: {outline(ema)}, expected decay, num_updates and shadow_params")


def _named_average(ema: Any, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    if not isinstance(ema, Mapping):
        raise ValueError(f"[4]: {outline(ema)}, expected the average of each tensor by its name")
    found, _ = _weights(ema, "[4]")
    for name in params:
        if name not in found:
            raise ValueError(f"[4]: the average of {name} is missing among {len(found)}")
    for name, tensor in found.items():
        agree("[4]", name, tensor, params)
    return found
