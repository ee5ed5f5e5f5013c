"""Two processes train together and one of them is killed, or freezes; the rerun goes on.

The other one has to end by itself, with a code other than 0, within the heartbeat and five seconds.
No step that was committed is lost, each can be read, and the rerun starts from the newest. In the
end the run has the bits of one that was never interrupted.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from experiments.reliability.base import LIMIT, Outcome
from experiments.reliability.forks import Life
from experiments.reliability.pair import Pair, started_at
from sdejax.train.catalog import all_steps
from sdejax.train.integrity import CheckpointError
from sdejax.train.reader import restore_params

HEARTBEAT, GRACE, KEEP = 10, 5.0, 2
ENDLESS = "--config.train.steps=1000000"


class Way(NamedTuple):
    """How one of the two is interrupted.

    Attributes:
        overrides: of the config.
        ready: ``(pair, workdir, newest)``: waits for the moment.
        signal: sent to one of the two.
        judge: ``(codes, workdir, pair, victim) -> bool``: whether they ended as they should.
        limit: seconds until both have ended, on a machine that does nothing else.
    """

    overrides: tuple[str, ...]
    ready: Callable[[Pair, Path, int], None]
    signal: int
    judge: Callable[[Sequence[int], Path, Pair, int], bool]
    limit: float


def scenario(tries: int, folder: Path) -> Outcome:
    """Kill process 0 and process 1 in turn, and every third pair of tries freeze them."""
    ways = [(FREEZE if index // 2 % 3 == 2 else KILL, index % 2) for index in range(tries)]
    found = interruptions("one of two processes killed or frozen", ways, folder)
    return found._replace(notes=f"heartbeat {HEARTBEAT} s; {found.notes}")


def interruptions(
    name: str, ways: Sequence[tuple[Way, int]], folder: Path, *, patience: float = 1.0
) -> Outcome:
    """Interrupt a run in one way after the other, and let it finish.

    Args:
        name: of the outcome.
        ways: each with the number of the process that gets the signal.
        folder: where to work.
        patience: multiplies the time limits, for machines that are busy.
    """
    workdir, checkpoints = folder / "run", folder / "run" / "checkpoints"
    rng, found, codes = np.random.default_rng(len(ways)), Counter[str](), Counter[str]()
    faults: list[str] = []
    worst, newest = 0.0, 0
    with Pair(folder) as pair:
        for way, victim in tqdm(ways, desc="two processes", unit="signal", leave=False):
            lives = pair.start(workdir, HEARTBEAT, ENDLESS, *way.overrides)
            if (start := started_at(lives[0])) != newest:
                faults.append(f"started at {start} instead of {newest}")
            way.ready(pair, workdir, newest)
            time.sleep(rng.uniform(0.0, 0.3))
            known = all_steps(checkpoints)
            began = time.monotonic()
            ended = _end(lives, way, victim)
            seconds = time.monotonic() - began
            worst = max(worst, seconds if way.limit < LIMIT else 0.0)
            codes[f"{ended[0]} {ended[1]}"] += 1
            if not way.judge(ended, workdir, pair, victim):
                faults.append(f"not as it should be: {ended}")
            if seconds > patience * way.limit:
                faults.append(f"{seconds:.1f} s")
            offered = all_steps(checkpoints)
            found["lost"] += len(set(sorted({*known, *offered})[-KEEP:]) - set(offered))
            found["unreadable"] += sum(not _readable(checkpoints, step) for step in offered)
            newest = max(offered, default=0)
        if _differs_from_one_go(pair, folder, newest + 5):
            faults.append("other bits than those of a run in one go")
    kinds = ", ".join(f"({code}) {count} times" for code, count in sorted(codes.items()))
    return Outcome(
        name, len(ways), found["lost"], found["unreadable"], len(faults), worst,
        f"exit codes of both: {kinds}; longest: from the signal to the end; {newest + 5} steps, "
        f"compared with a run in one go; {'; '.join(faults) or 'the same bits'}",
    )  # fmt: skip


def _end(lives: Sequence[Life], way: Way, victim: int) -> list[int]:
    """Send the signal, wait for the other one, and for the victim, which may be frozen."""
    lives[victim].signal(way.signal)
    lives[1 - victim].end()
    if way.signal == signal.SIGSTOP:
        lives[victim].signal(signal.SIGKILL)
    return [life.end() for life in lives]


def _after_a_save(pair: Pair, workdir: Path, newest: int) -> None:
    pair.wait_for(lambda: max(all_steps(workdir / "checkpoints"), default=0) > newest)


def _other_failed(codes: Sequence[int], workdir: Path, pair: Pair, victim: int) -> bool:
    return codes[1 - victim] != 0 and codes[victim] == -signal.SIGKILL


SAVING = ("--config.train.checkpoint_every=10", f"--config.train.keep={KEEP}")
KILL = Way(SAVING, _after_a_save, signal.SIGKILL, _other_failed, HEARTBEAT + GRACE)
FREEZE = KILL._replace(signal=signal.SIGSTOP)


def _readable(checkpoints: Path, step: int) -> bool:
    try:
        restore_params(checkpoints, step)
    except CheckpointError:
        return False
    return True


def _differs_from_one_go(pair: Pair, folder: Path, steps: int) -> bool:
    """Finish the interrupted run, train another one in one go, and compare the bits."""
    last = f"--config.train.steps={steps}"
    for name in ("run", "straight"):
        if [life.end() for life in pair.start(folder / name, HEARTBEAT, last)] != [0, 0]:
            return True
    return any(
        not np.array_equal(one, other)
        for which in ("params", "ema_params", "opt_state")
        for one, other in zip(
            *(
                jax.tree.leaves(restore_params(folder / name / "checkpoints", steps, which=which))
                for name in ("run", "straight")
            ),
            strict=True,
        )
    )
