"""A config of a published run: its network, noise, training and sampling.

What a family of networks is told of the noise, and what its output means:

| family | process | the network is told | its output | data |
|---|---|---|---|---|
| vp, sub_vp | VP, sub-VP | 999 t | eps (the score is -eps/sigma) | [-1, 1] |
| ddpm | DDPM's chain | 999 t, a whole number at its levels | eps | [-1, 1] |
| ve | VE | sigma | the score | [0, 1] |
| smld, ncsn | VE at its levels | index of the nearest level, 0 the largest | the score | [0, 1] |
| ncsnv2 | VE at its levels | sigma of the nearest level | the score | [0, 1] |

All of it is data: names of rows in ``sdejax.tables`` and their options.

The library's loss is the mean over pixels of |eps_hat - eps|^2. Published losses are that, or half
the sum over D pixels, which is D/2 times as large (``loss_scale``). Adam does not see the factor,
but its epsilon and the clipping of gradients do, so both are divided by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from sdejax.config import default_config
from sdejax.published.runs import Run
from sdejax.tables import component

Spec = Mapping[str, Any]


def _variance_preserving(sde: str) -> Callable[[Run], Spec]:
    return lambda run: {
        "sde": component("sde", sde),
        "prediction": component("prediction", "eps"),
        "conditioning": component("conditioning", "scaled_time", factor=999.0),
        "weight": component("weight", "simple"),
        # Training reaches closer to the data than sampling (t_min = 1e-3).
        "times": component("times", "uniform", t_min=1e-5),
        "centered": True,
        "steps": run.levels,
    }


def _chain(run: Run) -> Spec:
    return {
        **_variance_preserving("vp")(run),
        "sde": component("sde", "ddpm", levels=run.levels),
        "conditioning": component("conditioning", "scaled_time", factor=run.levels - 1.0),
        "times": component("times", "levels", num=run.levels),
        "steps": run.levels - 1,  # from each level to the next
    }


def _variance_exploding(run: Run) -> Spec:
    return {
        "sde": component("sde", "ve", sigma_max=run.sigma_max),
        "prediction": component("prediction", "score"),
        "conditioning": component("conditioning", "noise_level"),
        "weight": component("weight", "sigma2"),
        "times": component("times", "uniform", t_min=1e-5),
        "centered": False,
        "steps": run.levels,
    }


def _at_levels(conditioning: str) -> Callable[[Run], Spec]:
    return lambda run: {
        **_variance_exploding(run),
        "sde": component("sde", "ve", sigma_max=run.sigma_max, t_min=0.0),
        "conditioning": component("conditioning", conditioning, levels=run.levels),
        "times": component("times", "levels", num=run.levels),
        "steps": run.levels - 1,
    }


FAMILIES: Mapping[str, Callable[[Run], Spec]] = {
    "vp": _variance_preserving("vp"),
    "sub_vp": _variance_preserving("sub_vp"),
    "ddpm": _chain,
    "ve": _variance_exploding,
    "smld": _at_levels("level_index"),
    "ncsn": _at_levels("level_index"),
    "ncsnv2": _at_levels("nearest_level"),
}


def loss_scale(run: Run, event_shape: tuple[int, ...]) -> float:
    """The published loss over the library's: 1 for a mean over pixels, D/2 for half their sum.

    Args:
        run: the run.
        event_shape: shape of one image, of D numbers.

    Returns:
        The factor, which gradients have as well.
    """
    return 1.0 if run.mean_loss else 0.5 * math.prod(event_shape)


def sized(run: Run, image_size: int | None = None, channels: int | None = None) -> Run:
    """The run on images of another size.

    Args:
        run: the run.
        image_size: side of the images; None: as published.
        channels: of the images; None: as published.

    Returns:
        The run, with the network's options changed as well.
    """
    size = run.image_size if image_size is None else image_size
    options = dict(run.options)
    if channels is not None:
        options["out_channels"] = channels
    if "image_size" in options:
        options["image_size"] = size
    return run._replace(image_size=size, options=options)


def event_shape(run: Run) -> tuple[int, int, int]:
    """Shape of one image of a run."""
    return (run.image_size, run.image_size, run.options["out_channels"])


def published_config(run: Run) -> ConfigDict:
    """The config of a published run, to train from scratch or to go on from a checkpoint.

    Args:
        run: a row of ``PUBLISHED``, perhaps ``sized``.

    Returns:
        The config. ``data.path`` is where the images are expected.
    """
    config, family = default_config(), FAMILIES[run.family](run)
    scale = loss_scale(run, event_shape(run))

    config.data.source = "cifar10" if run.data == "cifar10" else "folder"
    config.data.path = f"data/{run.data}"
    if run.data != "cifar10":
        config.data.options = {"size": run.image_size}
    config.data.batch_size = run.batch_size
    config.data.flip = True
    config.data.centered = family["centered"]
    config.data.dequantise = run.dequantise

    config.network = component("network", run.network, **run.options)
    config.scaling = component("scaling", "none")
    for kind in ("sde", "prediction", "conditioning", "weight", "times"):
        config[kind] = family[kind]

    config.optimizer.learning_rate = run.learning_rate
    config.optimizer.warmup_steps = run.warmup_steps
    config.optimizer.eps = run.adam_eps / scale
    config.optimizer.clip_norm = None if run.clip_norm is None else run.clip_norm / scale
    config.train.steps = run.steps
    config.train.ema_decay = run.ema_decay
    config.train.log_every = 100
    config.train.eval_every = 5000
    config.train.sample_every = 10_000
    config.train.checkpoint_every = 10_000

    config.sample.sampler = run.sampler
    config.sample.steps = family["steps"]
    config.sample.grid = "uniform"
    return config
