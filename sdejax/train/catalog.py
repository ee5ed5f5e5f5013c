"""Which checkpoints a directory holds, and what their JSON parts say.

Reading takes no lock, so a sampler may look into the directory of a run in progress. With several
processes every function here is called by all of them: they share the work of checking files, and
raise together.
"""

from __future__ import annotations

import json
import os
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from sdejax.train.integrity import CheckpointError, manifest_problem

COMMITTED = "commit_success.txt"  # written last; without it there is no step


def absolute(directory: str | os.PathLike[str]) -> epath.Path:
    """The directory from the root, as the checkpoint library wants it; a URL is so already."""
    path = epath.Path(directory)
    return path if "://" in str(directory) else path.absolute()


def all_steps(directory: str | os.PathLike[str]) -> list[int]:
    """Steps with a complete checkpoint, increasing; a save in progress does not count."""
    root = epath.Path(directory)
    entries = root.iterdir() if root.exists() else ()
    return sorted(int(p.name) for p in entries if p.name.isdigit() and (p / COMMITTED).exists())


def choose_step(directory: str | os.PathLike[str], step: int | None) -> epath.Path:
    """The directory of a complete step.

    Args:
        directory: the checkpoint directory.
        step: which step; None for the latest.

    Raises:
        CheckpointError: the directory is missing or has no such step.
    """
    steps = all_steps(directory)
    if not steps:
        state = "holds no complete checkpoint" if epath.Path(directory).exists() else "is missing"
        raise CheckpointError(f"{directory} {state}: check --workdir, or train first")
    if step is not None and step not in steps:
        raise CheckpointError(f"{directory} has no step {step}: choose one of {steps}")
    return absolute(directory) / str(steps[-1] if step is None else step)


def checked_payload(step_directory: epath.Path, under: str = "") -> dict[str, Any]:
    """The JSON part of a step, once its files have been checked, shared out among processes.

    Args:
        step_directory: from ``choose_step``.
        under: check only the files whose name starts so.

    Returns:
        "leaves" (names, shapes, dtypes), "score" and the caller's "meta".

    Raises:
        CheckpointError: a missing, truncated or changed file.
    """
    problem = manifest_problem(
        step_directory, under, part=jax.process_index(), parts=jax.process_count()
    )
    if not all_agree(problem is None):
        others = [s for s in all_steps(step_directory.parent) if str(s) != step_directory.name]
        raise CheckpointError(
            f"{problem or f'{step_directory}: another process found damage'}\nNothing was changed. "
            f"Restore the file, or remove {step_directory} to go on from another step: {others}"
        )
    return json.loads((step_directory / "meta" / "metadata").read_text())


def all_agree(fine: bool) -> bool:
    """Whether all is fine on every process; the same answer everywhere."""
    if jax.process_count() == 1:
        return fine
    return bool(np.all(multihost_utils.process_allgather(np.asarray(fine))))


def read_meta(directory: str | os.PathLike[str], step: int | None = None) -> dict[str, Any]:
    """The JSON part that was saved with a step; the latest by default.

    Args:
        directory: the checkpoint directory.
        step: which step.

    Returns:
        What ``Checkpoints.save`` was given as ``meta``.

    Raises:
        CheckpointError: no such step, or a damaged one.
    """
    return checked_payload(choose_step(directory, step), under="meta/")["meta"]


def best_step(directory: str | os.PathLike[str]) -> int:
    """The kept step with the lowest finite score; the latest if none has one.

    Raises:
        CheckpointError: there is no complete step, or a damaged one.
    """
    latest = int(choose_step(directory, None).name)
    scored = {
        step: score
        for step in all_steps(directory)
        if (score := checked_payload(choose_step(directory, step), under="meta/")["score"])
        is not None
    }
    return min(scored, key=lambda step: scored[step]) if scored else latest
