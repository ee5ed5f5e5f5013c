"""The worker of ``disk``: it saves while the disk is full, and looks at what is left.

python -m experiments.reliability.full tmpfs|limit DIRECTORY TRIES
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from experiments.reliability import states
from sdejax.train.catalog import all_steps
from sdejax.train.checkpoint import Checkpoints
from sdejax.train.integrity import CheckpointError


@contextmanager
def full_tmpfs(disk: Path, share: float, size: int) -> Iterator[None]:
    """Fill the disk but for a share of what a step takes.

    Args:
        disk: where.
        share: of a step, in [0, 1).
        size: of a step, bytes.
    """
    filler = disk / "filler"
    room = shutil.disk_usage(disk).free - int(share * size)
    filler.write_bytes(b"\0" * room)
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def limited_files(disk: Path, share: float, size: int) -> Iterator[None]:
    """Let files be no larger than a share of what a step takes.

    Args:
        disk: where.
        share: of a step, in [0, 1).
        size: of a step, bytes.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * size / 4), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def once(full: Callable[..., Any], disk: Path, share: float) -> dict[str, Any]:
    """One try in an empty directory.

    Args:
        full: ``full_tmpfs`` or ``limited_files``.
        disk: where.
        share: of the room that a step takes which is there when it is saved.

    Returns:
        What was lost, unreadable or wrong, by complaint.
    """
    directory, complaints, seconds = disk / "checkpoints", [], 0.0
    with Checkpoints(directory) as checkpoints:
        for step in (1, 2):
            _save(checkpoints, step)
            checkpoints.wait()
        size = _size(directory / "2")
        with full(disk, share, size):
            _save(checkpoints, 3)
            began = time.monotonic()
            try:
                checkpoints.wait()
                failed = False
            except CheckpointError as error:
                failed, seconds = True, time.monotonic() - began
                if "step 3" not in str(error) or len(str(error).splitlines()) > 20:
                    complaints.append(f"wrong: message {str(error)[:200]!r}")
            # A disk may be full after the commit as well, where old steps are retired: step 3 is
            # then complete, which the reading back below holds it to.
            newest = all_steps(directory)[-1]
            if newest not in ((2, 3) if failed else (3,)):
                complaints.append(f"lost: steps {all_steps(directory)}, expected 2 or 3")
            if failed and (left := _left(directory, newest)):
                complaints.append(f"wrong: left behind {left}")
            complaints += _read_back(checkpoints, newest)
        _save(checkpoints, 4)
    with Checkpoints(directory) as checkpoints:
        complaints += _read_back(checkpoints, 4)
        with full(disk, 0.0, size):
            complaints += _opens(directory, checkpoints)
    shutil.rmtree(directory)
    late = failed and newest == 3
    return {"failed": failed, "late": late, "seconds": seconds, "complaints": complaints}


def _save(checkpoints: Checkpoints, step: int) -> None:
    checkpoints.save(step, states.content(step), states.meta_of(step))


def _opens(directory: Path, checkpoints: Checkpoints) -> list[str]:
    """A run that starts on a full disk restores all the same."""
    checkpoints.close()
    try:
        with Checkpoints(directory) as again:
            return _read_back(again, 4)
    except Exception as error:
        return [f"lost: opening on a full disk: {type(error).__name__}: {error}"]


def _read_back(checkpoints: Checkpoints, step: int) -> list[str]:
    try:
        state, meta = checkpoints.restore(states.abstract())
    except CheckpointError as error:
        return [f"unreadable: {error}"]
    if meta != states.meta_of(step) or states.differing(state, step):
        return [f"wrong: restored {meta}, expected step {step}"]
    return []


def _left(directory: Path, newest: int) -> list[str]:
    known = {"1", "2", str(newest), "lock"}
    return sorted(path.name for path in directory.iterdir() if path.name not in known)


def _size(directory: Path) -> int:
    """Bytes of a directory, in the pages of a tmpfs."""
    page = os.sysconf("SC_PAGE_SIZE")
    sizes = [path.stat().st_size for path in directory.rglob("*") if path.is_file()]
    return sum(-(-size // page) * page for size in sizes)


def main(kind: str, disk: str, tries: str) -> None:
    """Try, and print one line of JSON.

    Args:
        kind: "tmpfs" or "limit".
        disk: the folder.
        tries: how often.
    """
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    full = {"tmpfs": full_tmpfs, "limit": limited_files}[kind]
    shares = np.linspace(0.0, 1.0, int(tries), endpoint=False)
    found = [once(full, Path(disk), float(share)) for share in shares]
    complaints = [line for each in found for line in each["complaints"]]
    counts = {
        word: sum(line.startswith(word) for line in complaints)
        for word in ("lost", "unreadable", "wrong")
    }
    failed = sum(each["failed"] for each in found)
    late = sum(each["late"] for each in found)
    counts |= {"failed": failed, "late": late, "fitted": len(found) - failed}
    slowest = max(each["seconds"] for each in found)
    print(json.dumps({**counts, "seconds": slowest, "complaints": complaints[:3]}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
