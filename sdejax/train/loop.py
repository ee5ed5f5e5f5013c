"""The training loop: restore, step, look, save, and stop in good order.

The loop owns no mathematics and no policy: the step comes from ``parallel``, the batches from an
iterator that starts at any step, and what is done now and then comes as a list of ``Task``. A run
that is interrupted and started again goes through the same states as one that is not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from sdejax.train.checkpoint import Checkpoints
from sdejax.train.logs import Logs
from sdejax.train.parallel import Parallel, throttle
from sdejax.train.preemption import preemption_notice
from sdejax.train.state import TrainState
from sdejax.types import Params


class Preempted(Exception):
    """The run was asked to stop; it has saved, and the same command goes on from there."""

    def __init__(self, step: int) -> None:
        super().__init__(
            f"stopped by SIGTERM after step {step}, which is saved; run the same command to go on"
        )


class Diverged(FloatingPointError):
    """Too many gradients in a row were not finite."""


class Task(NamedTuple):
    """Something done every ``every`` steps and after the last one: ``run(step, state) -> metrics``.

    It is called on every process; the metrics it returns are logged.
    """

    every: int
    run: Callable[[int, TrainState], Mapping[str, float]]


class Schedule(NamedTuple):
    """When the loop does what, in steps."""

    steps: int
    log_every: int = 50
    save_every: int = 1000
    max_bad_steps: int = 10


def restore_or_init(
    layout: Parallel, make_state: Callable[[], TrainState], checkpoints: Checkpoints
) -> tuple[TrainState, dict[str, Any]]:
    """The state to go on from: the newest checkpoint's, or a fresh one.

    Args:
        layout: the step on its devices.
        make_state: makes the state at step 0; traceable.
        checkpoints: of this run.

    Returns:
        The state on its devices, and the ``meta`` it was saved with ({} for a fresh one).

    Raises:
        CheckpointError: for a damaged checkpoint, or one of another model.
    """
    if checkpoints.latest_step() is None:
        return layout.init(make_state), {}
    state, meta = checkpoints.restore(layout.abstract(make_state))
    return layout.place(state), meta


def run_loop(
    layout: Parallel,
    state: TrainState,
    batches: Iterator[dict[str, np.ndarray]],
    checkpoints: Checkpoints,
    logs: Logs,
    schedule: Schedule,
    meta: Callable[[int], Mapping[str, Any]],
    tasks: tuple[Task, ...] = (),
    examples_per_step: int = 1,
) -> TrainState:
    """Trains from ``state.step`` to ``schedule.steps``.

    Args:
        layout: the step on its devices.
        state: where to start; its buffers are donated.
        batches: this process's batches, the first being that of ``state.step``.
        checkpoints: where to save.
        logs: where to write numbers.
        schedule: when to do what.
        meta: ``step -> JSON`` to save beside the state.
        tasks: what else to do now and then.
        examples_per_step: global batch size, for the throughput shown.

    Returns:
        The last state.

    Raises:
        Preempted: after saving, when the machine is about to be taken away.
        Diverged: after ``max_bad_steps`` gradients in a row that are not finite.
    """
    start = int(jax.device_get(state.step))
    wait = throttle()
    scores: dict[str, float] = {}
    clock, counted = time.monotonic(), start
    bar = tqdm(
        total=schedule.steps, initial=start, unit="step", desc="compiling", disable=not logs.active
    )
    with bar, preemption_notice() as requested:
        for step in range(start + 1, schedule.steps + 1):
            state, metrics = layout.step(state, layout.place_batch(next(batches)))
            last = step == schedule.steps
            _check_streak(wait((step, metrics)), schedule.max_bad_steps)
            if step == start + 1:
                bar.set_description("training")
            bar.update()
            if step % schedule.log_every == 0 or last:
                numbers = {name: float(value) for name, value in jax.device_get(metrics).items()}
                _check_streak((step, metrics), schedule.max_bad_steps)
                rate = (step - counted) * examples_per_step / (time.monotonic() - clock)
                logs.scalars(step, {**numbers, "examples_per_second": rate})
                bar.set_postfix(_shown(numbers, rate, scores))
            due = [task for task in tasks if step % task.every == 0 or last]
            for task in due:
                found = {name: float(value) for name, value in task.run(step, state).items()}
                scores |= found
                if found:
                    logs.scalars(step, found)
            if due or step % schedule.log_every == 0:  # the throughput is that of training alone
                clock, counted = time.monotonic(), step
            stop = requested(step) and not last
            if step % schedule.save_every == 0 or last or stop:
                _check_streak((step, metrics), schedule.max_bad_steps)  # saving waits for it anyway
                checkpoints.save(step, layout.portable(state), meta(step), scores)
            if stop:
                checkpoints.wait()
                raise Preempted(step)
    return state


def host_params(params: Params) -> Params:
    """Parameters as host arrays, whole on every process; every process has to call it.

    Args:
        params: arrays of any layout.

    Returns:
        NumPy arrays.
    """

    def whole(leaf: Any) -> np.ndarray:
        if leaf.is_fully_addressable:
            return np.asarray(leaf)
        if leaf.is_fully_replicated:
            return np.asarray(leaf.addressable_data(0))
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))

    return jax.tree.map(whole, params)


def _shown(
    numbers: Mapping[str, float], rate: float, scores: Mapping[str, float]
) -> dict[str, str]:
    """What the progress bar says behind the time left."""
    shown = {"loss": f"{numbers['loss']:.4f}", "examples/s": f"{rate:.0f}"}
    if "held_out_loss" in scores:
        shown["held-out"] = f"{scores['held_out_loss']:.4f}"
    if numbers["skipped"]:
        shown["skipped"] = f"{numbers['skipped']:.0f}"
    return shown


def _check_streak(finished: tuple[int, Mapping[str, Any]] | None, limit: int) -> None:
    """Stops a run whose gradients have not been finite for ``limit`` steps."""
    if finished is None:
        return
    step, metrics = finished
    streak = int(metrics["bad_streak"])
    if streak >= limit:
        raise Diverged(
            f"the gradients of {streak} steps in a row, the last at step {step}, were not finite "
            f"(loss {float(metrics['loss'])}); the parameters are those of step {step - streak}. "
            "Lower the learning rate, clip gradients (optimizer.clip_norm), or look at the data"
        )
