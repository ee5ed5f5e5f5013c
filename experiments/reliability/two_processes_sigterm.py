"""One of two processes gets SIGTERM: both save the same step and end with 143; the rerun resumes.

In turn process 0 and process 1, while they train, compile the first step, or evaluate.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from experiments.reliability.base import LIMIT, Outcome
from experiments.reliability.pair import Pair
from experiments.reliability.two_processes import GRACE, Way, interruptions
from sdejax.train.catalog import all_steps
from sdejax.train.preemption import EXIT_CODE

EVALUATING = ("--config.train.eval_every=5",)


def scenario(tries: int, folder: Path) -> Outcome:
    """Signal each process in each phase; ``tries`` signals in all."""
    phases = (TRAINING, COMPILING, EVALUATION)
    ways = [(phases[index // 2 % len(phases)], index % 2) for index in range(tries)]
    found = interruptions("SIGTERM to one of two processes", ways, folder)
    return found._replace(
        notes=f"while training, compiling (its time aside), evaluating; {found.notes}"
    )


def _shows_step(ahead: int, pair: Pair, workdir: Path, newest: int) -> None:
    """Wait until the progress bar stands there, or beyond."""
    pair.wait_for(lambda: step_shown(pair.errors[0]) >= newest + ahead)


def step_shown(errors: Path) -> int:
    """Where the progress bar of a process with this stderr stands; -1 while there is none."""
    words = re.split("[\r\n]", errors.read_text().rstrip("\r\n"))[-1]
    found = re.match(r"training: .*\| (\d+)/", words)
    return int(found[1]) if found else -1


def _both_saved(codes: Sequence[int], workdir: Path, pair: Pair, victim: int) -> bool:
    """Both ended with 143, and the newest step is the one that each said it saved."""
    pattern = r"stopped by SIGTERM after step (\d+), which is saved"
    said = [re.findall(pattern, errors.read_text())[-1:] for errors in pair.errors]
    newest = max(all_steps(workdir / "checkpoints"), default=-1)
    return list(codes) == [EXIT_CODE] * 2 and said == [[str(newest)]] * 2


TRAINING = Way((), partial(_shows_step, 5), signal.SIGTERM, _both_saved, GRACE)
EVALUATION = Way(EVALUATING, partial(_shows_step, 5), signal.SIGTERM, _both_saved, GRACE)
# The signal comes when process 0 is about to take the first step; that step is waited for.
COMPILING = Way((), lambda pair, workdir, newest: None, signal.SIGTERM, _both_saved, LIMIT)
