"""Published checkpoints of the small networks of tests/nets/fixtures, as the four codes wrote them.

The average of each is the stored network, whose outputs are known; the weights lie beside it, since
sampling uses the average. NCSN has no average: its weights are the stored ones.
"""

from __future__ import annotations

import functools
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "nets"))

import parity
import test_flax_names

from sdejax.nets.unet import geometric_levels
from sdejax.published.run_config import published_config
from sdejax.published.runs import PUBLISHED

NAMES = (*parity.SMALL, "ncsn", "ncsnv2_64")
FULL = "full32_ncsnpp_vesde"
NCSN_RUNS = {  # the run that each is cut down from, and what differs
    "ncsn": ("ncsn/cifar10", {"num_levels": 14, "nf": 16}),
    "ncsnv2_64": ("ncsnv2/celeba", {"nf": 24}),
}
FROZEN = "all_modules.0.W"
STEP = 7  # of training
UPDATES = 9  # of Adam


def run(name):
    """The published run with the options of the small network."""
    published = parity.stored(name)[0]
    if name in NCSN_RUNS:
        row, changes = NCSN_RUNS[name]
        options = {**PUBLISHED[row].options, **changes}
    else:
        row, options = published["derived_from"], parity.unet_kwargs(published)
    return PUBLISHED[row]._replace(
        options=options,
        image_size=published["image_size"],
        sigma_max=float(published["sigma_max"]),
        levels=published["num_scales"],
    )


def config(name):
    """The config of ``run``."""
    return published_config(run(name)).to_dict()


@functools.cache
def tensors(name):
    """Weights, average and both moments by published names, in the order of the network."""
    stored = {key: array for key, array in parity.stored(name)[1].items() if key != "sigmas"}
    rng = np.random.default_rng(0)

    def drawn(array):
        return rng.standard_normal(array.shape, np.float32)

    weights = {key: array + np.float32(0.5) for key, array in stored.items()}
    if FROZEN in stored:
        weights[FROZEN] = stored[FROZEN]
    first = {key: drawn(array) for key, array in stored.items() if key != FROZEN}
    second = {key: drawn(array) ** 2 for key, array in stored.items() if key != FROZEN}
    return (stored if name == "ncsn" else weights), stored, first, second


def levels(name):
    """The buffer ``sigmas``; None for NCSN, which has none."""
    if name == "ncsn":
        return None
    published, weights, _ = parity.stored(name)
    if "sigmas" in weights:
        return weights["sigmas"]
    ends = float(published["sigma_min"]), float(published["sigma_max"])
    return geometric_levels(*ends, published["num_scales"])


def torch_tree(name):
    """What a published ``.pth`` holds."""
    weights, average, first, second = tensors(name)
    model = {f"module.{key}": array for key, array in weights.items()}
    if name == "ncsnv2_64":
        model["module.sigmas"] = levels(name)
    elif name != "ncsn":
        model = {"module.sigmas": levels(name), **model}
    optimizer = {
        "state": {
            i: {"step": UPDATES, "exp_avg": first[key], "exp_avg_sq": second[key]}
            for i, key in enumerate(weights)
            if key in first
        },
        "param_groups": [{"lr": 2e-4, "params": list(range(len(weights)))}],
    }
    if name == "ncsn":
        return [OrderedDict(model), optimizer]
    if name == "ncsnv2_64":
        return [OrderedDict(model), optimizer, 3, STEP, dict(average)]
    shadow = [array for key, array in average.items() if key != FROZEN]
    return {
        "optimizer": optimizer,
        "model": OrderedDict(model),
        "ema": {"decay": 0.999, "num_updates": STEP, "shadow_params": shadow},
        "step": STEP,
    }


def flax_tree(name, wide_norm=False):
    """What ``checkpoint_N`` of the original JAX code holds.

    Args:
        name: of the DDPM and NCSN++ fixtures.
        wide_norm: norms of shape (1, 1, 1, C), as Flax had them in 2021.
    """
    published, _, _ = parity.stored(name)
    weights, average, *moments = tensors(name)
    zeros = {key: np.zeros_like(array) for key, array in weights.items()}  # of what is frozen
    named = (weights, average, *({**zeros, **moment} for moment in moments))
    target, average, first, second = (
        test_flax_names.flax_tree(published, each, wide_norm) for each in named
    )
    state = {"step": np.int32(UPDATES), "param_states": _joined(first, second)}
    return {
        "step": STEP,
        "optimizer": {"target": target, "state": state},
        "lr": 2e-4,
        "model_state": {},
        "ema_rate": 0.999,
        "params_ema": average,
        "rng": np.array([3, 5], np.uint32),
    }


def _joined(first, second):
    """The two moments at every leaf."""
    if isinstance(first, np.ndarray):
        return {"grad_ema": first, "grad_sq_ema": second}
    return {key: _joined(first[key], second[key]) for key in first}
