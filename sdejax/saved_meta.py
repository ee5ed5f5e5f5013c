"""What a checkpoint says about its model, checked before a network is built from it.

The JSON beside the arrays is data, whoever wrote it: names are looked up in ``sdejax.tables`` and
nothing is executed. Still a width of 10^12 or a million blocks would exhaust memory or patience, so
kinds and sizes of values are compared with those of ``default_config`` and of the rows' options.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from sdejax.config import completed, default_config
from sdejax.data.scaling import Scaling
from sdejax.tables import TABLES, component

LARGEST = 2**16  # of an integer option of a network, a process, ...
MOST = {"num_res_blocks": 64, "steps": 10**6, "num": 10**9}  # of single keys
LONGEST = 4096  # entries of a list
WHOLE = ("data", "sample")  # sections of which every key is needed
FREE = ("optimizer", "train")  # sections that matter for training only


class Meta(NamedTuple):
    """What a model is made from, apart from its parameters."""

    config: dict[str, Any]
    event_shape: tuple[int, ...]
    num_classes: int | None
    scaling: Scaling
    step: int


def checked_meta(meta: Mapping[str, Any], where: Any) -> Meta:
    """The JSON part of a checkpoint, each value of the kind and size that it may have.

    Args:
        meta: of ``sdejax.train.catalog.read_meta``.
        where: the checkpoint directory, for the message.

    Returns:
        The parts.

    Raises:
        ValueError: naming the entry, what was got and what was expected.
    """
    try:
        data = dict(meta["data"])
        shape = _sizes("event_shape", meta["event_shape"])
        classes = meta["num_classes"]
        if classes is not None:
            (classes,) = _sizes("num_classes", [classes])
        step = data["next_step"]
        if type(step) is not int or not 0 <= step < 2**53:
            raise ValueError(f"data.next_step: got {step!r:.100}, expected a step")
        config = completed(meta["config"])
        check_values(config)
        return Meta(dict(meta["config"]), shape, classes, _scaling(data["scaling"], shape), step)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        said = f"{type(error).__name__} {error}" if not isinstance(error, ValueError) else error
        raise ValueError(
            f"{where}: what it says about its model cannot be used: {said!s:.500}; "
            "take another checkpoint"
        ) from error


def check_values(config: Mapping[str, Any]) -> None:
    """Compares kinds and sizes with those of ``default_config``.

    Args:
        config: with all keys, see ``sdejax.config.completed``.

    Raises:
        ValueError: naming the key.
    """
    for key, default in default_config().to_dict().items():
        value = config[key]
        if key in FREE:
            continue
        if key in TABLES:
            _component(key, value)
        elif isinstance(default, dict):
            for name in default:
                if name in value or key in WHOLE:
                    _agree(f"config.{key}.{name}", name, default[name], value[name])
        else:
            _agree(f"config.{key}", key, default, value)


def _component(kind: str, spec: Mapping[str, Any]) -> None:
    options = {key: value for key, value in spec.items() if key != "name"}
    if spec["name"] == "custom":  # given by the caller
        return
    if not isinstance(spec["name"], str):
        raise ValueError(f"config.{kind}.name: got {spec['name']!r:.100}, expected a name")
    defaults = component(kind, spec["name"])
    for key, value in options.items():
        if key not in defaults:
            raise ValueError(f"config.{kind}: no option {key!r:.100} among {sorted(defaults)}")
        _agree(f"config.{kind}.{key}", key, defaults[key], value)
        _limit(f"config.{kind}.{key}", MOST.get(key, LARGEST), value)


def _agree(where: str, key: str, default: Any, value: Any) -> None:
    """A value is of the kind of the default, and finite."""
    if isinstance(default, float):
        fits = type(value) in (int, float)
    elif isinstance(default, tuple | list):
        fits = isinstance(value, tuple | list)
    elif default is None or isinstance(default, dict):
        fits = True
    else:
        fits = type(value) is type(default)
    if not fits:
        raise ValueError(f"{where}: got {value!r:.100}, expected {type(default).__name__}")
    _limit(where, MOST.get(key, 2**53), value)


def _limit(where: str, most: int, value: Any, depth: int = 0) -> None:
    if isinstance(value, float | int):
        if not abs(value) <= most:  # true of what is not a number, too
            raise ValueError(f"{where}: got {value!r:.100}, expected at most {most}, and finite")
    elif isinstance(value, tuple | list | dict):
        inside = list(value.values()) if isinstance(value, dict) else value
        if len(inside) > LONGEST or depth > 3:
            raise ValueError(f"{where}: got {len(inside)} values in {depth} lists, expected fewer")
        for item in inside:
            _limit(where, most, item, depth + 1)
    elif not (value is None or isinstance(value, str)) or len(value or "") > LONGEST:
        raise ValueError(f"{where}: got {value!r:.100}, expected numbers or short text")


def _sizes(name: str, sizes: Any) -> tuple[int, ...]:
    if (
        not isinstance(sizes, list)
        or not all(type(size) is int and 1 <= size <= 2**24 for size in sizes)
        or len(sizes) > 8
        or math.prod(sizes) > 2**32
    ):
        raise ValueError(f"{name}: got {sizes!r:.100}, expected positive sizes")
    return tuple(sizes)


def _scaling(saved: Mapping[str, Any], shape: tuple[int, ...]) -> Scaling:
    scaling = Scaling.from_json(saved)
    for name in ("offset", "scale"):
        values = getattr(scaling, name)
        numbers = all(type(v) in (int, float) and abs(v) < 1e30 for v in values)
        if not numbers or len(values) not in (1, shape[-1] if shape else 1):
            raise ValueError(f"data.scaling.{name}: got {values!r:.100}, expected finite numbers")
    if not all(scaling.scale):
        raise ValueError("data.scaling.scale: got 0, expected other numbers")
    levels = scaling.levels
    if levels is not None and not (type(levels) is int and 2 <= levels <= LARGEST):
        raise ValueError(f"data.scaling.levels: got {levels!r:.100}, expected 2 to {LARGEST}")
    return scaling
