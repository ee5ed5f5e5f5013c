"""A second writer is refused within a second; the lock of a killed writer is free at once."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tqdm import tqdm

from experiments.reliability import states
from experiments.reliability.base import Outcome
from experiments.reliability.forks import Forks
from sdejax.train.checkpoint import Checkpoints
from sdejax.train.integrity import CheckpointError

LIMIT = 1.0  # seconds


def scenario(tries: int, folder: Path, limit: float = LIMIT) -> Outcome:
    """A second writer beside one that saves, then one after it was killed.

    Args:
        tries: how often.
        folder: where to work.
        limit: seconds until the second writer is refused; on an idle machine.
    """
    directory = folder / "checkpoints"
    lost = wrong = 0
    refused: list[float] = []
    recovered: list[float] = []
    with Forks(folder / "cache", folder / "stderr") as forks:
        for _ in tqdm(range(tries), desc="lock", unit="try", leave=False):
            life = forks.start("save_forever", str(directory), "falling", True)
            newest = int(life.until("committed").split()[1])
            began = time.monotonic()
            wrong += not _is_refused(directory, life.pid)
            refused.append(time.monotonic() - began)
            life.signal(signal.SIGKILL)
            life.end()
            newest = max([newest, *(int(x.split()[1]) for x in life.said if x[:9] == "committed")])
            began = time.monotonic()
            with Checkpoints(directory) as checkpoints:
                state, meta = checkpoints.restore(states.abstract())
                recovered.append(time.monotonic() - began)
            lost += meta["next"] < newest
            wrong += bool(states.differing(state, meta["next"]))
    wrong += sum(seconds > limit for seconds in refused)
    return Outcome(
        "a second writer, and a dead one", tries, lost, 0, wrong, max(refused),
        f"refused after at most {max(refused):.2f} s, by a message that names the process; after "
        f"its SIGKILL the next one had restored after at most {max(recovered):.2f} s; longest: "
        "until refused",
    )  # fmt: skip


def _is_refused(directory: Path, holder: int) -> bool:
    """Whether opening raises the one error type, naming who holds the lock."""
    assert holder != os.getpid()
    try:
        with Checkpoints(directory):
            return False
    except CheckpointError as error:
        return "being written by another run" in str(error) and str(holder) in str(error)
