"""What the forked workers of the checkpoint scenarios do: save states of ``states.content``."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from experiments.reliability import states
from experiments.reliability.forks import say
from sdejax.train.checkpoint import Checkpoints
from sdejax.train.preemption import EXIT_CODE, preemption_notice


def save_forever(directory: str, score: str, waits: bool) -> None:
    """Restore the newest step, check it, and save as fast as it goes.

    It says "restored n", "saving n", "committed n" and, around each deletion, "deleting PATH" and
    "deleted PATH".

    Args:
        directory: of the checkpoints.
        score: name of the function of ``states`` that ranks a step.
        waits: whether each save is waited for, or goes on while the next state is made.
    """
    sys.addaudithook(_announce_deletions(directory))
    with Checkpoints(directory, keep=2, best="loss") as checkpoints:
        newest = checkpoints.latest_step() or 0
        if newest:
            _check_newest(checkpoints, newest)
        for step in itertools.count(newest + 1):
            state = states.content(step)
            say(f"saving {step}")
            checkpoints.save(
                step, state, states.meta_of(step), {"loss": getattr(states, score)(step)}
            )
            if waits:
                checkpoints.wait()
                say(f"committed {step}")
            elif step > newest + 1:
                say(f"committed {step - 1}")  # a save waits for the one before


def _check_newest(checkpoints: Checkpoints, newest: int) -> None:
    state, meta = checkpoints.restore(states.abstract())
    wrong = states.differing(state, newest)
    if wrong or meta != states.meta_of(newest):
        say(f"wrong {newest}: {wrong} {meta}")
    else:
        say(f"restored {newest}")


def _announce_deletions(directory: str):
    deleting: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "shutil.rmtree" and str(arguments[0]).startswith(directory) and not deleting:
            deleting.append(str(arguments[0]))
            say(f"deleting {deleting[0]}")
        elif event == "os.rmdir" and deleting and str(arguments[0]) == deleting[0]:
            say(f"deleted {deleting.pop()}")

    return hook


def save_and_leave(directory: str, way: str) -> None:
    """Save one more step and leave at once, in one of the ways of ``WAYS``.

    Args:
        directory: of the checkpoints.
        way: how to leave.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
    with preemption_notice() as notice, Checkpoints(directory) as checkpoints:
        notice.unsaved(True)
        step = (checkpoints.latest_step() or 0) + 1
        checkpoints.save(step, states.content(step), states.meta_of(step))
        say(f"saved {step}")
        WAYS[way](notice.requested)


def _raise(requested: Callable[[], bool]) -> None:
    raise KeyError("on purpose")


def _wait(requested: Callable[[], bool]) -> None:
    while not requested():
        time.sleep(0.001)
    sys.exit(EXIT_CODE)


def _nested(requested: Callable[[], bool]) -> None:
    try:
        _raise(requested)
    finally:
        sys.exit(4)


WAYS: dict[str, Callable[[Callable[[], bool]], None]] = {
    "end": lambda requested: None,
    "exception": _raise,
    "sys.exit": lambda requested: sys.exit(3),
    "sys.exit during an exception": _nested,
    "SIGINT": _wait,
    "SIGTERM": _wait,
    "os._exit": lambda requested: os._exit(5),
    "SIGINT twice": _wait,
}
