"""The Python face of training and sampling: ``fit`` makes a ``Trained`` model, ``load`` finds one.

``fit`` does what ``sdejax train`` does, without a config file, and leaves the same workdir;
``load`` reads a workdir that either of them wrote. ``convert`` makes one of a published checkpoint.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from sdejax.build import change, default_config
from sdejax.data.base import Dataset, hold_out
from sdejax.data.scaling import apply, standardise
from sdejax.published.convert import convert
from sdejax.run import train
from sdejax.sde import SDE
from sdejax.tables import TABLES, component
from sdejax.train.loop import host_params
from sdejax.trained import Trained, load

__all__ = ["Trained", "convert", "fit", "load"]


def fit(
    network: Any,
    data: Dataset | np.ndarray,
    sde: SDE,
    *,
    workdir: str | Path | None = None,
    held_out: Dataset | np.ndarray | None = None,
    labels: Int[np.ndarray, " n"] | None = None,
    prediction: str = "edm",
    weight: str = "edm",
    times: str = "log_normal_sigma",
    steps: int = 5000,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    seed: int = 0,
    **changes: Any,
) -> Trained:
    """Trains a model on data, without a config file.

    Args:
        network: a flax module called as ``module(x, t, cond, train=...)``.
        data: a ``Dataset``, or an array [n, *event], which is standardised.
        sde: the process.
        workdir: where checkpoints, logs and pictures go; by default a temporary folder.
        held_out: data to watch the loss on; by default a tenth of ``data``, at most 1000.
        labels: integer classes [n] of an array, which make the model conditional.
        prediction, weight, times: rows of ``sdejax.tables``; where they take a ``sigma_data``, it
            is that of the data.
        steps: training steps.
        batch_size: over all devices.
        learning_rate: of Adam, after a hundredth of the steps as warm-up, with cosine decay.
        seed: of initialisation, order, noise.
        **changes: further keys of ``default_config()``, dots as double underscores:
            ``train__ema_decay=0.99``, ``parallel="jit"``.

    Returns:
        The trained model.

    Raises:
        ValueError: for unknown names, keys or shapes.
    """
    if not hasattr(network, "init") or not hasattr(network, "apply"):
        raise ValueError(
            f"network: got {network!r}; expected a flax.linen module. A plain function or an NNX "
            "model trains through make_model and make_loss, with an optimizer of your own"
        )
    train_data, unseen = _datasets(data, held_out, labels)
    config = default_config()
    config.sde = _spelled("sde", sde)
    config.network = _spelled("network", network)
    spread = _standard_deviation(train_data)
    for kind, name in (
        ("prediction", prediction),
        ("weight", weight),
        ("scaling", "unit_variance"),
    ):
        config[kind] = component(kind, name)
        if "sigma_data" in config[kind]:
            config[kind].sigma_data = spread
    config.times = component("times", times)
    config.conditional = labels is not None
    config.seed, config.data.source = seed, train_data.name
    config.data.batch_size = batch_size
    config.train.steps = steps
    every = max(1, steps // 5)
    config.train.eval_every = config.train.sample_every = config.train.checkpoint_every = every
    config.optimizer.learning_rate = learning_rate
    config.optimizer.schedule, config.optimizer.warmup_steps = "cosine", steps // 100
    # Karras steps are in sigma/alpha, which is infinite where a process ends in pure noise.
    config.sample.grid = "uniform" if float(sde.alpha(sde.t_max)) == 0 else "karras"
    change(config, {key.replace("__", "."): value for key, value in changes.items()})
    folder = Path(workdir) if workdir is not None else Path(tempfile.mkdtemp(prefix="sdejax-"))
    plain = config.to_dict()
    parts, state = train(plain, folder, network=network, sde=sde, data=(train_data, unseen))
    params = host_params(state.ema_params)
    return Trained(parts, params, train_data.scaling, plain, int(jax.device_get(state.step)))


def _datasets(
    data: Dataset | np.ndarray,
    held_out: Dataset | np.ndarray | None,
    labels: Int[np.ndarray, " n"] | None,
) -> tuple[Dataset, Dataset]:
    """Training and held-out data of one scaling."""
    if isinstance(data, Dataset):
        if labels is not None:
            raise ValueError("labels: a Dataset has its own; leave them out, with conditional=True")
    else:
        array = np.asarray(data, np.float32)
        classes = 0 if labels is None else int(np.max(labels)) + 1
        if array.ndim < 2 or (labels is not None and len(labels) != len(array)):
            raise ValueError(
                f"data: got shape {array.shape} and {None if labels is None else len(labels)} "
                "labels; expected [n, *event] and as many labels, or none"
            )
        tags = None if labels is None else np.asarray(labels, np.int32)
        data = Dataset("array", "all", array, standardise(array), tags, classes)
    if held_out is None:
        count = min(1000, max(1, len(data) // 10))
        return hold_out(data, "train", count), hold_out(data, "test", count)
    if not isinstance(held_out, Dataset):
        array = np.asarray(held_out, np.float32)
        # Its labels are not known, so a conditional model watches its loss without them.
        held_out = dataclasses.replace(data, split="test", x=array, labels=None)
    return data, held_out


def _standard_deviation(data: Dataset) -> float:
    """Root mean square of the data about their mean, in the network's range, from 10,000 rows."""
    rows = np.linspace(0, len(data) - 1, min(10_000, len(data))).astype(np.int64)
    x = apply(data.scaling, data.gather(rows)["x"])
    return float(np.sqrt(np.mean((x - x.mean(axis=0)) ** 2)))


def _spelled(kind: str, value: Any) -> dict[str, Any]:
    """A process or network as a config spells it out; "custom" for one that no table has."""
    made = {type(factory()): name for name, factory in TABLES[kind].items()}
    name = made.get(type(value))
    if name is None:
        return {"name": "custom", "repr": repr(value)}
    options = component(kind, name)
    return {key: name if key == "name" else _plain(getattr(value, key)) for key in options}


def _plain(value: Any) -> Any:
    """A field as JSON holds it: an array's number, a dtype's name."""
    if isinstance(value, (np.generic, np.ndarray, jax.Array)):
        return value.item()
    return jnp.dtype(value).name if isinstance(value, (type, np.dtype)) else value
