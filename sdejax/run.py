"""A whole training run: config in, workdir out.

    <workdir>/config.json              what was run
    <workdir>/checkpoints/             state, and beside it config, data position and scaling
    <workdir>/metrics.jsonl, tensorboard/
    <workdir>/samples/step_*.png       what the averaged parameters draw, now and then
    <workdir>/samples.png, report.txt, report.json   at the end

The same call goes on from the newest checkpoint that is good. With several processes each reads
its share of every batch, and process 0 alone writes logs and pictures.
"""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from sdejax.build import (
    Parts,
    build_data,
    build_loss,
    build_model,
    build_optimizer,
    build_schedule,
    completed,
    count_params,
    init_params,
)
from sdejax.data.base import Dataset
from sdejax.data.pipeline import batches, check_data_state, data_state
from sdejax.generate import Generator
from sdejax.results import finish, generator_of, rows_of, save_picture
from sdejax.saved_meta import checked_meta
from sdejax.train.catalog import read_meta
from sdejax.train.checkpoint import Checkpoints
from sdejax.train.hosts import check_agreement
from sdejax.train.integrity import check_config
from sdejax.train.logs import Logs
from sdejax.train.loop import Diverged, Task, host_params, restore_or_init, roll_back, run_loop
from sdejax.train.parallel import Parallel, parallel
from sdejax.train.preemption import Preemption, preemption_notice
from sdejax.train.state import TrainState, init_state
from sdejax.types import Key
from sdejax.untrusted import refuse_links

# What a run may be resumed with another value of: how long, how often, how many devices.
MAY_CHANGE = (
    "train.steps", "train.log_every", "train.eval_every", "train.sample_every",
    "train.checkpoint_every", "train.keep", "train.max_bad_steps", "train.max_rollbacks",
    "parallel", "fsdp",
    "sample", "data.path",
)  # fmt: skip

# What the first training on a converted checkpoint chooses besides: it has seen no data here.
FIRST_CHOOSES = (
    "data", "optimizer", "train", "seed", "weight", "times", "times_role", "objective",
    "network.dropout", "network.dtype", "network.remat",
)  # fmt: skip

# Files of the workdir that a run writes, never through a link. Folders may be links.
WRITTEN = (
    "config.json", "metrics.jsonl", "samples.png", "samples.npz", "report.json", "report.txt",
)  # fmt: skip


def train(
    config: Mapping[str, Any],
    workdir: Path,
    *,
    network: Any = None,
    sde: Any = None,
    data: tuple[Dataset, Dataset] | None = None,
) -> tuple[Parts, TrainState]:
    """Trains, or goes on training, until ``config.train.steps``.

    Args:
        config: nested, as ``default_config().to_dict()``.
        workdir: the folder of the run.
        network: a flax module instead of ``config.network``.
        sde: a process instead of ``config.sde``.
        data: training and held-out data instead of ``config.data``.

    Returns:
        The model's parts and the last state.

    Raises:
        ValueError: for a config that cannot be run, before anything is compiled.
        CheckpointError: where the workdir belongs to another config or is damaged.
        Preempted: after saving, on SIGTERM.
        Diverged: where the gradients stay not finite, ``config.train.max_rollbacks`` returns to the
            newest checkpoint notwithstanding.
    """
    with preemption_notice() as notice:
        return _train(config, workdir, network, sde, data, notice)


def _train(
    config: Mapping[str, Any],
    workdir: Path,
    network: Any,
    sde: Any,
    data: tuple[Dataset, Dataset] | None,
    notice: Preemption,
) -> tuple[Parts, TrainState]:
    train_data, held_out = build_data(config) if data is None else data
    num_classes = train_data.num_classes or None
    parts = build_model(config, train_data.event_shape, num_classes, network=network, sde=sde)
    loss_fn, eval_loss_fn = (
        _labels_as_asked(
            build_loss(config, parts, training=training, scaling=train_data.scaling), parts
        )
        for training in (True, False)
    )
    tx, schedule = build_optimizer(config), build_schedule(config)
    generate = generator_of(config, parts, train_data.scaling)
    batch_size, seed, flip = config["data"]["batch_size"], config["seed"], config["data"]["flip"]
    layout = parallel(
        config["parallel"], loss_fn, tx, config["train"]["ema_decay"], batch_size,
        eval_loss_fn=eval_loss_fn, fsdp=config["fsdp"],
    )  # fmt: skip
    stream = data_state(train_data, batch_size, seed=seed, flip=flip)
    check_agreement({"config": _without_path(config), "data set": stream["contents"]})
    params_key, run_key, eval_key = jax.random.split(jax.random.key(seed), 3)

    def make_state() -> TrainState:
        return init_state(init_params(params_key, parts), tx, run_key)

    first = jax.process_index() == 0
    plan = config["train"]
    checkpoint_dir = workdir / "checkpoints"
    refuse_links(workdir, WRITTEN)
    with Checkpoints(checkpoint_dir, keep=plan["keep"], best="held_out_loss") as checkpoints:
        if (newest := checkpoints.latest_step()) is not None:
            saved = read_meta(checkpoint_dir, newest)
            checked_meta(saved, checkpoint_dir)
            check_config(completed(saved["config"]), completed(config), may_change(saved))
            check_data_state(saved["data"], stream)
        if first:
            (workdir / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        state, found = restore_or_init(layout, make_state, checkpoints)
        step = int(jax.device_get(state.step))
        if first:
            _announce(config, parts, train_data, state, step, workdir)
        evaluate = partial(_held_out_loss, layout, held_out, config, eval_key)

        def meta(step: int, rollbacks: int) -> dict[str, Any]:
            return {
                "config": config,
                "rollbacks": rollbacks,
                "data": {**stream, "next_step": step},
                "event_shape": list(parts.event_shape),
                "num_classes": num_classes,
            }

        def go_on(state: TrainState, step: int, rollbacks: int) -> TrainState:
            with (
                Logs(workdir, active=first, step=step) as logs,
                batches(train_data, batch_size, seed=seed, start_step=step, flip=flip) as rows,
            ):
                if rollbacks:
                    logs.scalars(step, {"rollbacks": rollbacks})
                pictures = _picture_tasks(config, generate, train_data, workdir, logs)
                tasks = (Task(plan["eval_every"], evaluate), *pictures)
                return run_loop(
                    layout, state, rows, checkpoints, logs, schedule,
                    partial(meta, rollbacks=rollbacks), tasks, batch_size, notice=notice,
                )  # fmt: skip

        for rollbacks in itertools.count(int(found.get("rollbacks", 0))):
            try:
                state = go_on(state, step, rollbacks)
                break
            except Diverged as error:
                if rollbacks >= plan["max_rollbacks"]:
                    before = f" (after going back {rollbacks} times)" * (rollbacks > 0)
                    raise Diverged(f"{error}{before}") from None
                state = roll_back(layout, make_state, checkpoints, rollbacks + 1)
                step = int(jax.device_get(state.step))
                if first:
                    warnings.warn(
                        f"{error}\nGoing back to step {step} with other random numbers, time "
                        f"{rollbacks + 1} of {plan['max_rollbacks']} (train.max_rollbacks)",
                        stacklevel=3,
                    )
    ema = host_params(state.ema_params)
    notice.done()
    if first:
        finish(config, generate, ema, train_data, held_out, workdir)
    return parts, state


def may_change(saved: Mapping[str, Any]) -> tuple[str, ...]:
    """Dotted keys of the config that going on from a checkpoint may change.

    Args:
        saved: its JSON part.

    Returns:
        The keys; of a converted checkpoint that was not yet trained on, all that does not change
        what the network means.
    """
    return MAY_CHANGE + FIRST_CHOOSES if "converted" in saved else MAY_CHANGE


def _without_path(config: Mapping[str, Any]) -> str:
    """What several processes have to agree on; each may keep the data elsewhere."""
    data = {key: value for key, value in config["data"].items() if key != "path"}
    return json.dumps({**config, "data": data}, sort_keys=True)


def _labels_as_asked(loss_fn, parts: Parts):
    """The loss of an unconditional model leaves out labels that the data happen to have."""
    if parts.num_classes is not None:
        return loss_fn

    def without_labels(params, key, batch):
        return loss_fn(params, key, {k: v for k, v in batch.items() if k != "label"})

    return without_labels


def _held_out_loss(
    layout: Parallel,
    held_out: Dataset,
    config: Mapping[str, Any],
    key: Key,
    step: int,
    state: TrainState,
) -> Iterator[dict[str, float]]:
    """The loss of the averaged parameters, over the same held-out batches and noise each time."""
    losses = []
    with batches(held_out, config["data"]["batch_size"], seed=0, prefetch=1) as rows:
        for index in range(config["train"]["eval_batches"]):
            metrics = layout.eval(
                state.ema_params, jax.random.fold_in(key, index), layout.place_batch(next(rows))
            )
            losses.append(metrics["loss"])
            yield {}
    yield {"held_out_loss": float(jnp.mean(jnp.stack(losses)))}


def _picture_tasks(
    config: Mapping[str, Any], generate: Generator, data: Dataset, workdir: Path, logs: Logs
) -> tuple[Task, ...]:
    """Samples of the averaged parameters every so often; none where it is 0."""
    every = config["train"]["sample_every"]
    if every == 0:
        return ()

    def run(step: int, state: TrainState) -> list[dict[str, float]]:
        params = host_params(state.ema_params)
        if jax.process_index() == 0:
            x, _ = generate(params, config["sample"]["num"], seed=config["seed"])
            path = workdir / "samples" / f"step_{step:07d}.png"
            picture = save_picture(path, x, data.scaling, rows_of(data, len(x))["x"])
            if picture is not None:
                logs.picture(step, "samples", picture)
        return [{}]

    return (Task(every, run, saved=True, doing="sampling"),)


def _announce(
    config: Mapping[str, Any],
    parts: Parts,
    data: Dataset,
    state: TrainState,
    step: int,
    workdir: Path,
) -> None:
    """One line on what is about to run."""
    print(
        f"{data.name}: {len(data)} examples {list(data.event_shape)}; "
        f"{count_params(state.params):,} parameters; {config['parallel']} on "
        f"{jax.device_count()} {jax.default_backend()} device(s); "
        f"{'resuming at' if step else 'starting at'} step {step} of {config['train']['steps']}; "
        f"workdir {workdir}", flush=True,
    )  # fmt: skip
