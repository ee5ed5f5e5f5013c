"""What is in a checkpoint directory, and what the next run would make of it; nothing is changed.

A look takes no lock: a run may go on saving, so a step may be gone by the time it is checked, and
is then left out.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import NamedTuple

from etils import epath

from sdejax.train.catalog import COMMITTED, absolute, checked_payload, numbered
from sdejax.train.integrity import CheckpointError, manifest_problem
from sdejax.train.leftovers import DAMAGED, TRASH
from sdejax.train.lock import LOCK, Lock, lock_state

_SHARES = 16  # of the files of a step, after each of which the progress is told


class Checkpoint(NamedTuple):
    """One step on the disk.

    Attributes:
        step: its number.
        complete: whether its save was finished.
        problem: what is wrong with its files; None if they are as they were saved, or incomplete.
        size: bytes.
        saved_at: seconds since the epoch.
        score: by which the best step is kept; None where there is none that is finite.
    """

    step: int
    complete: bool
    problem: str | None
    size: int
    saved_at: float
    score: float | None

    @property
    def good(self) -> bool:
        """Whether it can be restored."""
        return self.complete and self.problem is None


class Leftover(NamedTuple):
    """Something else that takes room.

    Attributes:
        name: relative to the directory.
        size: bytes.
        meaning: what it is, and what becomes of it.
    """

    name: str
    size: int
    meaning: str


class Health(NamedTuple):
    """What ``examine`` found.

    Attributes:
        directory: of the checkpoints.
        checkpoints: the steps, increasing.
        leftovers: what else there is.
        lock: whether a run is writing here.
    """

    directory: epath.Path
    checkpoints: tuple[Checkpoint, ...]
    leftovers: tuple[Leftover, ...]
    lock: Lock

    @property
    def resumes_from(self) -> int | None:
        """The step that the next run starts from; None where no step is good."""
        return max((c.step for c in self.checkpoints if c.good), default=None)

    @property
    def passed_over(self) -> tuple[int, ...]:
        """Complete steps that the next run cannot use although they are newer."""
        start = -1 if self.resumes_from is None else self.resumes_from
        return tuple(c.step for c in self.checkpoints if c.complete and c.step > start)

    @property
    def best(self) -> int | None:
        """The good step with the lowest score; None where none has one."""
        scored = [(c.score, c.step) for c in self.checkpoints if c.good and c.score is not None]
        return min(scored)[1] if scored else None


def total_size(directory: str | os.PathLike[str]) -> int:
    """Bytes of all complete steps, which ``examine`` reads.

    Args:
        directory: of the checkpoints.
    """
    steps = numbered(directory).values()
    return sum(_size(path) for path in steps if (path / COMMITTED).exists())


def examine(
    directory: str | os.PathLike[str], advance: Callable[[int], object] = lambda size: None
) -> Health:
    """Look at everything in a checkpoint directory, and read every file of every complete step.

    Args:
        directory: of the checkpoints.
        advance: called with a number of bytes when so many more have been read.

    Raises:
        CheckpointError: there is no such directory.
    """
    root = absolute(directory)
    if not root.exists():
        raise CheckpointError(f"{directory} is missing: check --workdir, or train first")
    lock = lock_state(root)
    looked = [_look(path, step, advance) for step, path in numbered(root).items()]
    return Health(root, tuple(c for c in looked if c is not None), _leftovers(root, lock), lock)


def _look(path: epath.Path, step: int, advance: Callable[[int], object]) -> Checkpoint | None:
    """One step; None if it went away meanwhile."""
    try:
        complete, size = (path / COMMITTED).exists(), _size(path)
        saved_at = (path / COMMITTED if complete else path).stat().mtime
        problem, score = None, None
        if complete:
            problem = _problem(path, size, advance)
            score = None if problem else checked_payload(path, under="meta/")["score"]
    except (FileNotFoundError, CheckpointError):
        if path.exists():
            raise
        return None
    if not path.exists():
        return None
    finite = score is not None and math.isfinite(score)
    return Checkpoint(step, complete, problem, size, saved_at, score if finite else None)


def _problem(path: epath.Path, size: int, advance: Callable[[int], object]) -> str | None:
    told = 0
    for share in range(_SHARES):
        problem = manifest_problem(path, part=share, parts=_SHARES)
        advance((share + 1) * size // _SHARES - told)
        told = (share + 1) * size // _SHARES
        if problem is not None:
            advance(size - told)
            return problem
    return None


def _leftovers(root: epath.Path, lock: Lock) -> tuple[Leftover, ...]:
    meanings = {
        TRASH: "retired steps whose deletion was cut off; the next run removes them",
        DAMAGED: "steps set aside because they are damaged; yours to look at or remove",
    }
    if lock.held:
        meanings[TRASH] = "retired steps; the run that is writing removes them"
    known = {path.name for path in numbered(root).values()} | {LOCK}
    return tuple(
        Leftover(path.name, _size(path), meanings.get(path.name, "nothing that sdejax knows"))
        for path in sorted(root.iterdir())
        if path.name not in known
    )


def _size(path: epath.Path) -> int:
    """Bytes of a file, or of everything in a folder; what goes away meanwhile counts nothing."""
    try:
        if path.is_dir():
            return sum(_size(inner) for inner in path.iterdir())
        return int(path.stat().length)
    except FileNotFoundError:
        return 0
