"""From a config to objects: everything that a run is made of.

``sdejax.config`` says what is in a config; its names are here as well, where configs find them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import optax

from sdejax.config import change, completed, default_config, keys_of
from sdejax.data.base import Dataset
from sdejax.data.scaling import Scaling, uncentred
from sdejax.data.sources import load as load_data
from sdejax.denoiser import Model, in_evaluation, init_linen, linen_functions, make_model
from sdejax.likelihood.quantisation import bin_width, quantisation
from sdejax.losses import LossFn, dequantised
from sdejax.sde import SDE
from sdejax.tables import ENERGIES, look_up, make
from sdejax.times import importance, objective, uniform
from sdejax.train.loop import Schedule
from sdejax.train.optimizer import make_optimizer
from sdejax.types import Key, Params

__all__ = [
    "Parts",
    "build_data",
    "build_loss",
    "build_model",
    "build_optimizer",
    "build_schedule",
    "change",
    "completed",
    "count_params",
    "default_config",
    "init_params",
    "keys_of",
]


class Parts(NamedTuple):
    """What a model is made of, apart from its data."""

    sde: SDE
    model: Model
    network: Any  # the flax module, or whatever makes parameters
    event_shape: tuple[int, ...]
    num_classes: int | None  # of a conditional model


def build_model(
    config: Mapping[str, Any],
    event_shape: tuple[int, ...],
    num_classes: int | None,
    *,
    network: Any = None,
    sde: SDE | None = None,
) -> Parts:
    """The process, network and prediction type of a config.

    Args:
        config: as ``default_config``.
        event_shape: shape of one example.
        num_classes: classes of the data set, used if ``config.conditional``.
        network: a flax module to use instead of ``config.network``.
        sde: a process to use instead of ``config.sde``.

    Returns:
        The parts.

    Raises:
        ValueError: for unknown names or options, a conditional model of data without labels, or
            the place-holder "custom" without the object it stands for.
    """
    config = completed(config)
    conditional = config["conditional"]
    if conditional and not num_classes:
        raise ValueError("conditional: got True, but the data have no labels; set it to False")
    sde = make("sde", _given("sde", config, sde)) if sde is None else sde
    if network is None:
        spec = dict(_given("network", config, network))
        if conditional:
            spec["num_classes"] = num_classes
        network = make("network", spec)
    wrap = look_up("energy", ENERGIES, config["energy"])
    apply_fn, train_apply_fn = map(wrap, linen_functions(network))
    model = make_model(
        apply_fn,
        make("prediction", config["prediction"]),
        batched=True,
        train_apply_fn=train_apply_fn,
        conditioning=make("conditioning", config["conditioning"]),
        scaling=make("scaling", config["scaling"]),
    )
    return Parts(sde, model, network, event_shape, num_classes if conditional else None)


def init_params(key: Key, parts: Parts) -> Params:
    """Fresh parameters of a model.

    Args:
        key: key of the initialisation.
        parts: from ``build_model``.

    Returns:
        The parameter tree.
    """
    cond = None if parts.num_classes is None else 0
    return init_linen(key, parts.network, parts.event_shape, cond)


def build_loss(
    config: Mapping[str, Any],
    parts: Parts,
    *,
    training: bool = True,
    scaling: Scaling | None = None,
) -> LossFn:
    """The loss of a config.

    Args:
        config: as ``default_config``.
        parts: from ``build_model``.
        training: with dropout and dropped labels; False for the loss on held-out data.
        scaling: of the data, which ``config.data.dequantise`` needs: it is about stored integers.

    Returns:
        ``loss_fn(params, key, batch)``.

    Raises:
        ValueError: for unknown names or options, or dequantisation of what are no integers.
    """
    config = completed(config)
    density = make("times", config["times"], parts.sde)
    roles = {
        "objective": lambda: objective(density),
        "importance": lambda: importance(density, uniform(parts.sde)),
    }
    if config["times_role"] not in roles:
        raise ValueError(f"times_role: got {config['times_role']!r}; expected one of {list(roles)}")
    drops_labels = training and parts.num_classes is not None
    make_loss = make("objective", config["objective"])
    loss_fn = make_loss(
        parts.model if training else in_evaluation(parts.model),
        parts.sde,
        config["data"]["batch_size"],
        times=roles[config["times_role"]](),
        weight=make("weight", config["weight"]),
        label_drop=config["label_drop"] if drops_labels else 0.0,
        null_label=parts.num_classes,
    )
    if not config["data"]["dequantise"]:
        return loss_fn
    if scaling is None or scaling.levels is None:
        raise ValueError(
            "data.dequantise: got True for real-valued data; expected stored integers, whose bins "
            "noise can fill; set it to False"
        )
    return dequantised(loss_fn, bin_width(quantisation(*scaling)))


def build_optimizer(config: Mapping[str, Any]) -> optax.GradientTransformation:
    """The optax transform of a config.

    Args:
        config: as ``default_config``.

    Returns:
        The transform.

    Raises:
        ValueError: for a warm-up that leaves no steps for the decay.
    """
    options, steps = config["optimizer"], config["train"]["steps"]
    if options["schedule"] != "constant" and options["warmup_steps"] >= steps:
        raise ValueError(
            f"optimizer.warmup_steps: got {options['warmup_steps']} with train.steps={steps}; the "
            f"{options['schedule']} decay needs fewer, e.g. --config.optimizer.warmup_steps="
            f"{steps // 10}"
        )
    return make_optimizer(**options, total_steps=steps)


def build_schedule(config: Mapping[str, Any]) -> Schedule:
    """When the run of a config looks, saves and gives up.

    Raises:
        ValueError: for a number of steps or batches below 1.
    """
    plan = config["train"]
    for name in sorted(set(plan) - {"ema_decay"}):
        least = 0 if name in ("sample_every", "max_rollbacks") else 1
        if plan[name] < least:
            raise ValueError(f"train.{name}: got {plan[name]}; expected at least {least}")
    return Schedule(
        plan["steps"], plan["log_every"], plan["checkpoint_every"], plan["max_bad_steps"]
    )


def build_data(config: Mapping[str, Any]) -> tuple[Dataset, Dataset]:
    """The training data of a config and what is held out.

    Args:
        config: as ``default_config``.

    Returns:
        The splits "train" and "test".

    Raises:
        ValueError: for real-valued data that shall lie in [0, 1].
    """
    data = config["data"]
    train, held_out = (
        load_data(data["source"], data["path"] or None, split, **data["options"])
        for split in ("train", "test")
    )
    if completed(config)["data"]["centered"]:
        return train, held_out
    scaling = uncentred(train.scaling)
    return replace(train, scaling=scaling), replace(held_out, scaling=scaling)


def _given(kind: str, config: Mapping[str, Any], value: Any) -> Mapping[str, Any]:
    if value is None and config[kind]["name"] == "custom":
        raise ValueError(
            f"{kind}: this run was trained with a {kind} of your own, which the workdir does not "
            f"hold; pass it as {kind}=..."
        )
    return config[kind]


def count_params(params: Params) -> int:
    """The number of parameters.

    Args:
        params: a parameter tree.

    Returns:
        The sum of the sizes of its leaves.
    """
    return sum(leaf.size for leaf in jax.tree.leaves(params))
