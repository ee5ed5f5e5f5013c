"""The training loop: restore, step, look, save, and stop in good order.

The loop owns no mathematics and no policy: the step comes from ``parallel``, the batches from an
iterator that starts at any step, and what is done now and then comes as a list of ``Task``. A run
that is interrupted and started again goes through the same states as one that is not.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array
from tqdm import tqdm

from sdejax.train.catalog import all_steps
from sdejax.train.checkpoint import Checkpoints
from sdejax.train.logs import Logs
from sdejax.train.parallel import Parallel, throttle
from sdejax.train.preemption import Preemption
from sdejax.train.state import TrainState
from sdejax.types import Key, Params


class Preempted(Exception):
    """The run was asked to stop; it has saved, and the same command goes on from there."""

    def __init__(self, step: int) -> None:
        super().__init__(
            f"stopped by SIGTERM after step {step}, which is saved; run the same command to go on"
        )


class Diverged(FloatingPointError):
    """Too many gradients in a row were not finite."""


class Task(NamedTuple):
    """Something done every ``every`` steps and after the last one.

    ``run(step, state)`` is called on every process and gives metrics to be logged, piece by piece
    (a generator, or a list of one). Between the pieces, which must be equally many on every
    process, the run may be stopped. ``saved`` asks for the state to be saved before: for work that
    takes long in one piece. ``doing`` is what the progress bar says meanwhile.
    """

    every: int
    run: Callable[[int, TrainState], Iterable[Mapping[str, float]]]
    saved: bool = False
    doing: str = "evaluating"


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


def roll_back(
    layout: Parallel, make_state: Callable[[], TrainState], checkpoints: Checkpoints, attempt: int
) -> TrainState:
    """The newest checkpoint's state, to go on from with other random numbers after a divergence.

    The batches are the same again; the key is ``fold_in(key, 2^32 - attempt)``, which no step uses.

    Args:
        layout: the step on its devices.
        make_state: makes the state at step 0, which is gone back to where nothing is saved yet.
        checkpoints: of this run.
        attempt: 1, 2, ...

    Returns:
        The state on its devices, with no bad steps behind it.
    """
    checkpoints.wait()  # for the one that may be on its way
    state, _ = restore_or_init(layout, make_state, checkpoints)

    def afresh(key: Key, bad_streak: Array) -> tuple[Key, Array]:
        return jax.random.fold_in(key, np.uint32(2**32 - attempt)), jnp.zeros_like(bad_streak)

    places = state.key.sharding, state.bad_streak.sharding
    key, bad_streak = jax.jit(afresh, out_shardings=places)(state.key, state.bad_streak)
    return state._replace(key=key, bad_streak=bad_streak)


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
    *,
    notice: Preemption,
) -> TrainState:
    """Trains from ``state.step`` to ``schedule.steps``.

    Amid steps whose gradients are not finite nothing is saved or drawn, unless the run has to end.

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
        notice: whether the machine is about to be taken away.

    Returns:
        The last state, which is saved.

    Raises:
        Preempted: after saving, when the machine is about to be taken away.
        Diverged: after ``max_bad_steps`` gradients in a row that are not finite.
    """
    start = int(jax.device_get(state.step))
    wait = throttle()
    unchecked: deque[tuple[int, Any]] = deque()  # steps that may still be running
    scores: dict[str, float] = {}
    clock, counted, owed = time.monotonic(), start, False

    def carry_out(task: Task, step: int, state: TrainState) -> tuple[dict[str, float], bool]:
        """Metrics, and whether to stop."""
        metrics: dict[str, float] = {}
        bar.set_description(task.doing)
        for piece in task.run(step, state):
            if found := {name: float(value) for name, value in piece.items()}:
                metrics |= found
                logs.scalars(step, found)
            if notice.requested():
                return metrics, True
        bar.set_description("training")
        return metrics, False

    def check(upto: int) -> None:
        while unchecked and unchecked[0][0] <= upto:
            _check_streak(unchecked.popleft(), schedule.max_bad_steps)

    bar = tqdm(
        total=schedule.steps, initial=start, unit="step", desc="compiling", disable=not logs.active
    )
    with bar:
        for step in range(start + 1, schedule.steps + 1):
            state, metrics = layout.step(state, layout.place_batch(next(batches)))
            notice.unsaved(True)
            last = step == schedule.steps
            unchecked.append((step, metrics))
            if (finished := wait((step, metrics))) is not None:
                check(finished[0])
            if step == start + 1:
                bar.set_description("training")
            bar.update()
            if step % schedule.log_every == 0 or last:
                numbers = {name: float(value) for name, value in jax.device_get(metrics).items()}
                check(step)
                rate = (step - counted) * examples_per_step / (time.monotonic() - clock)
                logs.scalars(step, {**numbers, "examples_per_second": rate})
                if logs.active:
                    saved = max(all_steps(checkpoints.directory), default=0)
                    bar.set_postfix(_shown(numbers, rate, scores, saved))
            due = [task for task in tasks if step % task.every == 0 or last]
            drawings = [task for task in due if task.saved]
            stop = notice.requested()
            fresh: dict[str, float] = {}
            for task in due:
                if not (task.saved or stop):
                    found, stop = carry_out(task, step, state)
                    fresh |= found
            scores |= fresh
            owed = owed or step % schedule.save_every == 0
            if owed or last or stop or drawings:
                # Saving waits for the step anyway. A step is ranked by a score of its own.
                check(step)
                if last or stop or not int(metrics["bad_streak"]):
                    checkpoints.save(step, layout.portable(state), meta(step), fresh)
                    owed = False
                else:
                    drawings = []
                if drawings or last or stop:
                    checkpoints.wait()
                    notice.unsaved(False)
                    if last:
                        bar.set_postfix(_shown(numbers, rate, scores, step))
                    if stop or notice.requested():
                        raise Preempted(step)
            for task in drawings:
                logs.flush()
                if carry_out(task, step, state)[1]:
                    raise Preempted(step)
            if due or step % schedule.log_every == 0:  # the throughput is that of training alone
                clock, counted = time.monotonic(), step
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
    numbers: Mapping[str, float], rate: float, scores: Mapping[str, float], saved: int
) -> dict[str, str]:
    """What the progress bar says behind the time left."""
    shown = {"loss": f"{numbers['loss']:.4f}", "examples/s": f"{rate:.0f}"}
    if "held_out_loss" in scores:
        shown["held-out"] = f"{scores['held_out_loss']:.4f}"
    if numbers["skipped"]:
        shown["skipped"] = f"{numbers['skipped']:.0f}"
    return shown | {"saved": str(saved or "none")}


def _check_streak(finished: tuple[int, Mapping[str, Any]], limit: int) -> None:
    """Stops a run whose gradients have not been finite for ``limit`` steps."""
    step, metrics = finished
    streak = int(metrics["bad_streak"])
    if streak >= limit:
        raise Diverged(
            f"the gradients of {streak} steps in a row, the last at step {step}, were not finite "
            f"(loss {float(metrics['loss'])}); the parameters are those of step {step - streak}. "
            "Lower the learning rate, clip gradients (optimizer.clip_norm), or look at the data"
        )
