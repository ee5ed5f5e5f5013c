"""Which preset a checkpoint is of, as far as its tensors and its table of noise levels tell.

Names and shapes tell the network. The table of levels tells VE runs of one network apart. What is
left (VE or VP, how the data are scaled, discrete or continuous levels) is no property of the
weights, so the presets that are left are named, and one has to be given.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from sdejax.nets.unet import geometric_levels
from sdejax.published.contents import Contents
from sdejax.published.placement import Slots, fits, may_fit, tensor_slots


def choose(
    contents: Contents, configs: Mapping[str, dict[str, Any]], preset: str | None
) -> tuple[str, Slots]:
    """The one preset of those given that a checkpoint fits, and its table of tensors.

    A single one is taken at its word but for its noise levels; ``place`` names what does not fit.

    Args:
        contents: of the checkpoint.
        configs: nested config by preset, at least one.
        preset: what was asked for, for the messages; None for nothing.

    Returns:
        The name of the preset, and ``tensor_slots`` of its network.

    Raises:
        ValueError: where none fits or several do, or a table of noise levels is another.
    """
    if len(configs) == 1:
        ((name, config),) = configs.items()
        if problem := levels_problem(contents, config):
            raise ValueError(f"preset {name}: {problem}")
        return name, tensor_slots(config["network"])
    known: dict[str, Slots] = {}  # by network, which several presets share
    fitting: list[tuple[str, Slots]] = []
    for name, config in configs.items():
        network = config["network"]
        if not may_fit(contents, network):
            continue
        key = json.dumps(network, sort_keys=True)
        try:
            slots = known[key] = known.get(key) or tensor_slots(network)
        except ValueError:  # too deep for images of the size that was given
            continue
        if fits(contents, network, slots):
            fitting.append((name, slots))
    problems = {name: levels_problem(contents, configs[name]) for name, _ in fitting}
    told = [(name, slots) for name, slots in fitting if problems[name] is None]
    asked = "no preset was given" if preset is None else f"preset: got {preset!r}"
    if not fitting:
        first = ", ".join(list(contents.params)[:3])
        which = "any published network" if preset is None else " or ".join(configs)
        raise ValueError(
            f"{asked}, and the {len(contents.params)} tensors ({first} ...) have not the names and "
            f"shapes of {which}; for a network of another size give --preset and its options "
            "(--config.network.nf=..., --image-size, --channels)"
        )
    if not told:
        said = "; ".join(f"{name}: {problem}" for name, problem in problems.items())
        raise ValueError(f"{asked}, and the noise levels are those of none: {said}")
    if len(told) > 1:
        raise ValueError(
            f"{asked}, and the file may be any of {', '.join(n for n, _ in told)}: their tensors "
            "have the same names and shapes. VE, VP or sub-VP, discrete or continuous levels, and "
            "the data cannot be read off weights: give the one it was trained as with --preset"
        )
    return told[0]


def levels_problem(contents: Contents, config: Mapping[str, Any]) -> str | None:
    """How a checkpoint's table of noise levels differs from that of a config.

    Args:
        contents: of the checkpoint.
        config: nested.

    Returns:
        The difference in words; None where there is none, or no table, or the process is not VE
        (the files of VP models have the table as well, unused).
    """
    sde, sigmas = config["sde"], contents.sigmas
    if sigmas is None or sde["name"] != "ve":
        return None
    # A continuous model has no number of levels; its table only shows where they begin and end.
    levels = config["conditioning"].get("levels") or sigmas.size
    want = geometric_levels(sde["sigma_min"], sde["sigma_max"], levels)
    if sigmas.shape == want.shape and np.allclose(sigmas, want, rtol=1e-5, atol=0.0):
        return None
    ends = f"{sigmas.ravel()[0]:g} to {sigmas.ravel()[-1]:g}" if sigmas.size else "nothing"
    return (
        f"sigmas has {sigmas.size} levels from {ends}, expected {want.size} from {want[0]:g} to "
        f"{want[-1]:g}"
    )
