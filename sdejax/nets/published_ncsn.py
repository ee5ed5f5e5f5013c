"""NCSN and NCSNv2 as published: the networks by name, and weights of the authors' checkpoints.

A published name is a path through modules, and so is ours; each part has one translation. Stages
and refine blocks are numbered from 1 there, refine blocks from the smallest image; the stage that
"deepest" has over "deeper" is ``res31``, whose features ``refine31`` joins. Convolutions are [out,
in, height, width], and the table of a conditional normalisation is stored as here: gamma, alpha and
beta side by side.

Reference: Song and Ermon 2019, arXiv:1907.05600; Song and Ermon 2020, arXiv:2006.09011;
github.com/ermongroup/ncsn, github.com/ermongroup/ncsnv2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sdejax.nets.ncsn import NCSN
from sdejax.nets.ncsnv2 import NCSNv2
from sdejax.nets.published import Path, Slot, placed

_PUBLISHED: dict[str, Any] = {"out_channels": 3, "nf": 128, "centered": False}

# Data lie in [0, 1]. The levels that go with each are geometric, sigma_1 to sigma_L = 0.01.
NCSN_PRESETS: dict[str, dict[str, Any]] = {
    "cifar10": {**_PUBLISHED, "num_levels": 10},  # from 1
    "celeba": {**_PUBLISHED, "num_levels": 10},  # 32 pixels, from 1
}
NCSNV2_PRESETS: dict[str, dict[str, Any]] = {
    "cifar10": _PUBLISHED,  # 232 levels from 50
    "celeba": _PUBLISHED,  # 64 pixels, 500 levels from 90
    "lsun": {  # 128 pixels, 1086 levels from 190: "deeper"
        **_PUBLISHED,
        "ch_mult": (1, 2, 2, 4, 4),
        "dilations": (1, 1, 1, 2, 4),
    },
    "ffhq": {  # 256 pixels, 2311 levels from 348: "deepest"
        **_PUBLISHED,
        "ch_mult": (1, 2, 2, 2, 4, 4),
        "dilations": (1, 1, 1, 1, 2, 4),
    },
}

# Numbers of the stages and of the refine blocks, in the order in which they run, by their count.
_STAGES = {4: "1 2 3 4", 5: "1 2 3 4 5", 6: "1 2 3 31 4 5"}
_REFINES = {4: "1 2 3 4", 5: "1 2 3 4 5", 6: "1 2 31 3 4 5"}
_PARTS = {
    "conv_in": "begin_conv",
    "norm_out": "normalizer",
    "conv_out": "end_conv",
    "norm1": "normalize1",
    "norm2": "normalize2",
    "fuse": "msf",
    "pool": "crp",
    "output": "output_convs",
    "kernel": "weight",
    "embedding": "embed.weight",
}


def _part(part: str, stages: int) -> str:
    """A part of a path that holds numbers, in the published words."""
    if found := re.fullmatch(r"stage_(\d+)_(\d)", part):
        return f"res{_STAGES[stages].split()[int(found[1])]}.{found[2]}"
    if found := re.fullmatch(r"refine_(\d+)", part):
        return f"refine{_REFINES[stages].split()[stages - 1 - int(found[1])]}"
    if found := re.fullmatch(r"(conv|norm)_(\d)_(\d)", part):
        return f"{int(found[2]) + 1}_{int(found[3]) + 1}_{found[1]}"
    if found := re.fullmatch(r"(conv|norm)_(\d)", part):
        return f"{found[1]}s.{found[2]}"
    if found := re.fullmatch(r"adapt_(\d)", part):
        return f"adapt_convs.{found[1]}"
    return part


def _published_name(path: Path, stages: int, halves: bool) -> str:
    """The published name of a parameter; in a block that halves, two convolutions are wrapped."""
    parts = [_PARTS.get(part, _part(part, stages)) for part in path[1:]]
    if halves and path[2] in ("conv2", "shortcut"):
        parts.insert(2, "conv")
    return ".".join(parts)


def parameter_slots(net: NCSN | NCSNv2) -> dict[str, Slot]:
    """Where each published parameter goes, by its published name.

    Args:
        net: the network, with ``out_channels``.

    Returns:
        The table.

    Raises:
        ValueError: without ``out_channels``, or for a number of stages that was not published.
    """
    stages = len(net.ch_mult)
    if net.out_channels is None or stages not in _STAGES:
        raise ValueError(
            f"net: got out_channels={net.out_channels} and {stages} stages; expected a number of "
            f"channels and one of {list(_STAGES)} stages, as published"
        )
    side = 2**stages
    x = jax.ShapeDtypeStruct((1, side, side, net.out_channels), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.float32)
    tree = jax.eval_shape(net.init, jax.random.key(0), x, t)["params"]
    halving = {f"stage_{i}_0" for i, d in enumerate(net.dilations) if i > 0 and d == 1}
    table = {}
    for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        path = tuple(key.key for key in keys)
        axes = (2, 3, 1, 0) if leaf.ndim == 4 else tuple(range(leaf.ndim))
        shape = tuple(leaf.shape[axes.index(i)] for i in range(leaf.ndim))
        table[_published_name(path, stages, path[1] in halving)] = Slot(path, axes, shape)
    return table


def from_state_dict(net: NCSN | NCSNv2, state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Parameters of a published NCSN or NCSNv2, for ``net``.

    Args:
        net: the network, such as ``NCSNv2(**NCSNV2_PRESETS["cifar10"])``.
        state_dict: published arrays by their names (``begin_conv.weight`` ...), without a prefix
            ``module.``. The buffer ``sigmas`` is left out: the levels belong to the process.

    Returns:
        The tree to give to ``net.apply`` as {"params": tree}; dtypes are those of the arrays.

    Raises:
        ValueError: naming a tensor that is missing, not expected, or of another shape.
    """
    given = {name: np.asarray(a) for name, a in state_dict.items() if name != "sigmas"}
    return placed(parameter_slots(net), given)
