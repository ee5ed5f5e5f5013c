"""From a config to objects: the default config, and everything that a run is made of.

A config names rows of ``sdejax.tables`` and spells out their options. ``default_config`` gives
every key, so a config file only says what differs, and an unknown key is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import optax
from ml_collections import ConfigDict

from sdejax.data.base import Dataset
from sdejax.data.sources import load as load_data
from sdejax.denoiser import Model, in_evaluation, init_linen, linen_functions, make_model
from sdejax.losses import LossFn, make_loss
from sdejax.sde import SDE
from sdejax.tables import component, make, near
from sdejax.times import importance, objective, uniform
from sdejax.train.loop import Schedule
from sdejax.train.optimizer import make_optimizer
from sdejax.types import Key, Params


class Parts(NamedTuple):
    """What a model is made of, apart from its data."""

    sde: SDE
    model: Model
    network: Any  # the flax module, or whatever makes parameters
    event_shape: tuple[int, ...]
    num_classes: int | None  # of a conditional model


def default_config() -> ConfigDict:
    """Every key of a config, with its default.

    Returns:
        The config of a small conditional-free EDM-style model on the embedded digits.
    """
    config = ConfigDict()
    config.seed = 0
    config.parallel = "pmap"  # or "jit": a mesh with sharded state
    config.fsdp = 1  # devices that share one copy of the state, with parallel = "jit"

    config.data = ConfigDict()
    config.data.source = "digits"  # a row of sdejax.data.sources.SOURCES
    config.data.path = ""
    config.data.options = ConfigDict()  # keyword arguments of the source
    config.data.flip = False
    config.data.batch_size = 128  # over all devices and processes

    config.sde = component("sde", "edm")
    config.network = component("network", "unet")
    config.prediction = component("prediction", "edm")
    config.conditioning = component("conditioning", "log_noise")
    config.scaling = component("scaling", "unit_variance")
    config.conditional = False  # on class labels

    config.weight = component("weight", "edm")
    config.times = component("times", "log_normal_sigma")
    # "objective": the density of times is part of what is minimised; "importance": it only lowers
    # the variance, and the objective is that of uniform times.
    config.times_role = "objective"
    config.label_drop = 0.1  # of a conditional model

    config.optimizer = {
        "name": "adam",
        "learning_rate": 2e-4,
        "schedule": "constant",  # after the warm-up; or "linear", "cosine" over the whole run
        "warmup_steps": 0,
        "end_factor": 0.0,
        "clip_norm": 1.0,
        "b1": 0.9,
        "b2": 0.999,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "momentum": 0.0,
    }

    config.train = ConfigDict()
    config.train.steps = 10_000
    config.train.ema_decay = 0.999
    config.train.max_bad_steps = 10  # gradients in a row that may be not finite
    config.train.log_every = 50
    config.train.eval_every = 1000
    config.train.eval_batches = 4
    config.train.sample_every = 1000
    config.train.checkpoint_every = 1000
    config.train.keep = 2  # latest checkpoints; the best by held-out loss stays as well

    config.sample = ConfigDict()
    config.sample.sampler = "ddim"
    config.sample.steps = 50  # 0: the sampler's own, adaptive where it can
    config.sample.grid = "karras"
    config.sample.clip = False  # keep x0 in the range of the data at each step
    config.sample.threshold = 0.0  # the same by dynamic thresholding at this quantile; 0: off
    config.sample.num = 64
    config.sample.report_num = 0  # samples for the report at the end, 0 for none
    return config


def change(config: ConfigDict, values: Mapping[str, Any]) -> None:
    """Sets keys of a config in place.

    Args:
        config: as ``default_config``.
        values: value by key, the parts of a key divided by dots.

    Raises:
        ValueError: for an unknown key, with the nearest known one, or a value of another type.
    """
    known = keys_of(config)
    for key in values:
        if key not in known:
            raise ValueError(f"{key}: the config has no such key{near(key, known)}")
    try:
        config.update_from_flattened_dict(values)
    except TypeError as error:
        raise ValueError(str(error)) from error


def keys_of(config: ConfigDict, prefix: str = "") -> list[str]:
    """All keys of a config that have a value, the parts of a key divided by dots."""
    found = []
    for key, value in config.items():
        nested = isinstance(value, ConfigDict)
        found += keys_of(value, f"{prefix}{key}.") if nested else [f"{prefix}{key}"]
    return found


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
    conditional = config["conditional"]
    if conditional and not num_classes:
        raise ValueError("conditional: got True, but the data have no labels; set it to False")
    sde = make("sde", _given("sde", config, sde)) if sde is None else sde
    if network is None:
        spec = dict(_given("network", config, network))
        if conditional:
            spec["num_classes"] = num_classes
        network = make("network", spec)
    apply_fn, train_apply_fn = linen_functions(network)
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


def build_loss(config: Mapping[str, Any], parts: Parts, *, training: bool = True) -> LossFn:
    """The loss of a config.

    Args:
        config: as ``default_config``.
        parts: from ``build_model``.
        training: with dropout and dropped labels; False for the loss on held-out data.

    Returns:
        ``loss_fn(params, key, batch)``.

    Raises:
        ValueError: for unknown names or options.
    """
    density = make("times", config["times"], parts.sde)
    roles = {
        "objective": lambda: objective(density),
        "importance": lambda: importance(density, uniform(parts.sde)),
    }
    if config["times_role"] not in roles:
        raise ValueError(f"times_role: got {config['times_role']!r}; expected one of {list(roles)}")
    drops_labels = training and parts.num_classes is not None
    return make_loss(
        parts.model if training else in_evaluation(parts.model),
        parts.sde,
        config["data"]["batch_size"],
        times=roles[config["times_role"]](),
        weight=make("weight", config["weight"]),
        label_drop=config["label_drop"] if drops_labels else 0.0,
        null_label=parts.num_classes,
    )


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
        least = 0 if name == "sample_every" else 1
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
    """
    data = config["data"]
    train, held_out = (
        load_data(data["source"], data["path"] or None, split, **data["options"])
        for split in ("train", "test")
    )
    return train, held_out


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
