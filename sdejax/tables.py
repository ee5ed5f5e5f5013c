"""Names for everything a config can choose: literal tables, name -> factory.

A new process, prediction type, weighting, sampler or network is one new row here. ``component``
spells a row out with all its options, so that a config shows what it runs and every option can be
overridden by name; ``make`` calls it and refuses what it does not know.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sdejax import (
    conditioning,
    denoiser,
    discrete,
    energy,
    grids,
    losses,
    prediction,
    processes,
    times,
    weights,
)
from sdejax.likelihood.training import maximum_likelihood
from sdejax.nets.mlp import MLP
from sdejax.nets.ncsn import NCSN
from sdejax.nets.ncsnv2 import NCSNv2
from sdejax.nets.unet import UNet

Table = Mapping[str, Callable[..., Any]]

SDES: Table = {
    "vp": processes.vp,
    "sub_vp": processes.sub_vp,
    "ve": processes.ve,
    "cosine": processes.cosine,
    "edm": processes.edm,
    "rectified_flow": processes.rectified_flow,
    "ddpm": discrete.ddpm,
}

PREDICTIONS: Table = {
    "x0": lambda: prediction.x0,
    "eps": lambda: prediction.eps,
    "score": lambda: prediction.score,
    "v": lambda: prediction.v,
    "velocity": lambda: prediction.velocity,
    "edm": prediction.edm,
}

WEIGHTS: Table = {
    "simple": lambda: weights.simple,
    "sigma2": lambda: weights.simple,  # sigma^2 on the score's error is the same
    "likelihood": lambda: weights.likelihood,
    "flow": lambda: weights.flow,
    "edm": weights.edm,
    "min_snr": weights.min_snr,
    "sigmoid": weights.sigmoid,
}

DENSITIES: Table = {  # of a process
    "uniform": times.uniform,
    "log_normal_sigma": times.log_normal_sigma,
    "logit_normal": times.logit_normal,
    "uniform_log_snr": times.uniform_log_snr,
    "information": times.information,
    "levels": times.levels,
}

CONDITIONINGS: Table = {
    "log_noise": lambda: conditioning.log_noise,
    "raw_time": lambda: conditioning.raw_time,
    "scaled_time": conditioning.scaled_time,
    "noise_level": lambda: conditioning.noise_level,
    "level_index": conditioning.level_index,
    "nearest_level": conditioning.nearest_level,
}

SCALINGS: Table = {
    "unit_variance": denoiser.unit_variance,
    "none": lambda: denoiser.no_scaling,
}

NETWORKS: Table = {"mlp": MLP, "unet": UNet, "ncsn": NCSN, "ncsnv2": NCSNv2}

OBJECTIVES: Table = {  # -> what makes the loss of a batch, with the arguments of ``make_loss``
    "denoising": lambda: losses.make_loss,
    "implicit": losses.implicit,
    "sliced": losses.sliced,
    "sliced_vr": losses.sliced_vr,
    "finite_difference": losses.finite_difference,
    "second_order": losses.second_order,
    "likelihood": maximum_likelihood,
}

# What a config chooses by name and options.
TABLES: Mapping[str, Table] = {
    "sde": SDES,
    "network": NETWORKS,
    "prediction": PREDICTIONS,
    "conditioning": CONDITIONINGS,
    "scaling": SCALINGS,
    "weight": WEIGHTS,
    "times": DENSITIES,
    "objective": OBJECTIVES,
}

# What a network's output is made into: itself, or the gradient of an energy.
ENERGIES: Mapping[str, Callable[..., Any]] = {
    "none": lambda apply_fn: apply_fn,
    "inner": lambda apply_fn: energy.conservative(energy.inner(apply_fn)),
    "distance": lambda apply_fn: energy.conservative(energy.distance(apply_fn)),
}

GRIDS: Mapping[str, grids.Grid] = {
    "uniform": grids.uniform,
    "quadratic": grids.quadratic,
    "log_snr": grids.uniform_log_snr,
    "karras": grids.karras,
    "discrete": grids.discrete(),
    "trailing": grids.discrete_trailing(),
    "leading": grids.discrete_leading(),
    "shifted": grids.shifted(grids.uniform, 3.0),
}


def look_up(kind: str, table: Mapping[str, Any], name: str) -> Any:
    """A row of a table.

    Args:
        kind: what the table holds, for the message.
        table: name -> anything.
        name: the row.

    Returns:
        The row.

    Raises:
        ValueError: for an unknown name, with the nearest known one.
    """
    if name not in table:
        raise ValueError(f"{kind}: got {name!r}; expected one of {list(table)}{near(name, table)}")
    return table[name]


def component(kind: str, name: str, **changes: Any) -> dict[str, Any]:
    """A row spelled out: its name and every option with its default or the value given.

    Args:
        kind: a key of ``TABLES``.
        name: the row.
        **changes: options that differ from their defaults.

    Returns:
        {"name": name, option: value, ...}.

    Raises:
        ValueError: for an unknown name or option.
    """
    defaults = _options(look_up(kind, TABLES[kind], name))
    _refuse_unknown(f"{kind} {name!r}", changes, defaults)
    return {"name": name, **defaults, **changes}


def make(kind: str, spec: Mapping[str, Any], *args: Any) -> Any:
    """What a spelled-out row stands for.

    Args:
        kind: a key of ``TABLES``.
        spec: {"name": name, option: value, ...}; lists count as tuples.
        *args: positional arguments of the factory.

    Returns:
        The factory's result.

    Raises:
        ValueError: for an unknown name or option.
    """
    options = {key: _frozen(value) for key, value in spec.items() if key != "name"}
    factory = look_up(kind, TABLES[kind], spec["name"])
    _refuse_unknown(f"{kind} {spec['name']!r}", options, _options(factory))
    return factory(*args, **options)


def near(name: str, known: Iterable[str]) -> str:
    """A hint at the nearest known name, or nothing.

    Args:
        name: what was asked for.
        known: what there is.

    Returns:
        "; did you mean '...'?" or "".
    """
    found = difflib.get_close_matches(name, list(known), 1, 0.5)
    return f"; did you mean {found[0]!r}?" if found else ""


def _options(factory: Callable[..., Any]) -> dict[str, Any]:
    """The arguments of a factory that have defaults, but for the two that flax adds."""
    parameters = inspect.signature(factory).parameters.values()
    skip = ("parent", "name")
    return {
        p.name: p.default for p in parameters if p.default is not p.empty and p.name not in skip
    }


def _refuse_unknown(what: str, got: Iterable[str], known: Iterable[str]) -> None:
    for option in got:
        if option not in known:
            raise ValueError(
                f"{what} has no option {option!r}; its options are {list(known)}"
                f"{near(option, known)}"
            )


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value
