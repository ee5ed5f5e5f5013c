"""The config of a run: every key with its default, changed by name, and read back from old runs.

A config names rows of ``sdejax.tables`` and spells out their options. ``default_config`` gives
every key, so a config file only says what differs, and an unknown key is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from sdejax.tables import component, near

# Keys that configs of earlier versions lack, with what those versions did.
ADDED: Mapping[str, Any] = {"objective": component("objective", "denoising"), "energy": "none"}
ADDED_TO_DATA: Mapping[str, Any] = {"dequantise": False, "centered": True}


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
    config.data.centered = ADDED_TO_DATA["centered"]  # integers to [-1, 1]; False: to [0, 1]
    # Spread integers over their bins, anew at each step: what a likelihood in bits is of.
    config.data.dequantise = ADDED_TO_DATA["dequantise"]
    config.data.batch_size = 128  # over all devices and processes

    config.sde = component("sde", "edm")
    config.network = component("network", "unet")
    config.prediction = component("prediction", "edm")
    config.conditioning = component("conditioning", "log_noise")
    config.scaling = component("scaling", "unit_variance")
    config.conditional = False  # on class labels

    config.energy = ADDED["energy"]  # or "inner", "distance": the output is a gradient
    config.objective = dict(ADDED["objective"])
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
    config.train.max_rollbacks = 0  # then: back to the last checkpoint this often; 0: the run stops
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


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config of any version with the keys that it lacks, at the values it was run with.

    Args:
        config: nested, e.g. that of an old workdir.

    Returns:
        A config with all keys, that compares equal where it means the same.
    """
    return {**ADDED, **config, "data": {**ADDED_TO_DATA, **config["data"]}}


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
