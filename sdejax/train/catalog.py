"""Which checkpoints a directory holds, which of them are good, and what their JSON parts say.

Where no step is asked for, the newest one is taken whose files are as they were saved; newer ones
that are damaged are passed over, and a ``DamagedCheckpoint`` warning says so. A step that is asked
for by its number is that step or an error.

Reading takes no lock, so a sampler may look into the directory of a run in progress. With several
processes every function here is called by all of them: they share the work of checking files, and
raise together.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from sdejax.train.integrity import CheckpointError, limited_lines, manifest_problem
from sdejax.train.leaves import require_payload
from sdejax.train.stored_arrays import require_arrays
from sdejax.untrusted import read_json

COMMITTED = "commit_success.txt"  # written last; without it there is no step


class DamagedCheckpoint(UserWarning):
    """A checkpoint was found damaged or unfinished, and an older one is used."""


def absolute(directory: str | os.PathLike[str]) -> epath.Path:
    """The directory from the root, as the checkpoint library wants it; a URL is so already."""
    path = epath.Path(directory)
    return path if "://" in str(directory) else path.absolute()


def numbered(directory: str | os.PathLike[str]) -> dict[int, epath.Path]:
    """The step directories by number, increasing; complete or not."""
    root = epath.Path(directory)
    entries = root.iterdir() if root.exists() else ()
    # isdigit alone would take digits of other scripts, and 08 for 8
    found = {int(p.name): p for p in entries if p.name.isascii() and p.name.isdigit()}
    return {step: found[step] for step in sorted(found) if found[step].name == str(step)}


def all_steps(directory: str | os.PathLike[str]) -> list[int]:
    """Steps with a complete checkpoint, increasing; a save in progress does not count."""
    return [step for step, path in numbered(directory).items() if (path / COMMITTED).exists()]


def choose_step(directory: str | os.PathLike[str], step: int | None) -> epath.Path:
    """The directory of a complete step.

    Args:
        directory: the checkpoint directory.
        step: which step, believed without a look at its files; None for the newest good one, all
            of whose files are checked.

    Raises:
        CheckpointError: the directory is missing or has no such step, or no step is good.

    Warns:
        DamagedCheckpoint: newer steps are damaged.
    """
    steps = all_steps(directory)
    if not steps:
        state = "holds no complete checkpoint" if epath.Path(directory).exists() else "is missing"
        raise CheckpointError(f"{directory} {state}: check --workdir, or train first")
    if step is None:
        return _newest_good(directory, steps)
    if step not in steps:
        raise CheckpointError(f"{directory} has no step {step}: choose one of {steps}")
    return absolute(directory) / str(step)


def _newest_good(directory: str | os.PathLike[str], steps: list[int]) -> epath.Path:
    problems: list[str] = []
    for step in reversed(steps):
        path = absolute(directory) / str(step)
        problem = step_problem(path)
        if problem is not None and not path.exists():
            continue  # retired meanwhile by the run that is writing here
        if problem is None:
            if problems:
                warnings.warn(
                    f"going back to step {step}: newer checkpoints are damaged:"
                    f"{limited_lines(problems)}",
                    DamagedCheckpoint,
                    stacklevel=3,
                )
            return path
        problems.append(problem)
    if not problems:  # all were retired meanwhile
        return choose_step(directory, None)
    raise CheckpointError(
        f"{directory} has no checkpoint that is good:{limited_lines(problems)}\n"
        "Nothing was changed. Restore the files from a copy, or start in another --workdir."
    )


def step_problem(step_directory: epath.Path, under: str = "") -> str | None:
    """What is wrong with a step, if anything; processes share the reading.

    Args:
        step_directory: of a complete step.
        under: check only the files whose name starts so.

    Returns:
        One line, the same everywhere or "another process found damage"; None if all is well.
    """
    problem = manifest_problem(
        step_directory, under, part=jax.process_index(), parts=jax.process_count()
    )
    if all_agree(problem is None):
        return None
    return problem or f"{step_directory}: another process found damage"


def checked_payload(step_directory: epath.Path, under: str = "") -> dict[str, Any]:
    """The JSON part of a step, once its files have been checked.

    Args:
        step_directory: from ``choose_step``.
        under: check only the files whose name starts so.

    Returns:
        "leaves" (names, shapes, dtypes), "score" and the caller's "meta".

    Raises:
        CheckpointError: a missing, truncated or changed file, or, where all are checked, arrays
            that are not as "leaves" says.
    """
    problem = step_problem(step_directory, under)
    if problem is not None:
        others = [s for s in all_steps(step_directory.parent) if str(s) != step_directory.name]
        raise CheckpointError(
            f"{problem}\nNothing was changed. "
            f"Restore the file, or remove {step_directory} to go on from another step: {others}"
        )
    payload = _payload(step_directory)
    if not under:
        require_arrays(step_directory, payload["leaves"])
    return payload


def _payload(step_directory: epath.Path) -> dict[str, Any]:
    """The JSON part, of the kinds that ``Checkpoints.save`` writes."""
    path = step_directory / "meta" / "metadata"
    try:
        payload = read_json(path)
        require_payload(payload)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: not as a checkpoint is saved ({error!s:.300}); take another step"
        ) from error
    return payload


def all_agree(fine: bool) -> bool:
    """Whether all is fine on every process; the same answer everywhere."""
    if jax.process_count() == 1:
        return fine
    return bool(np.all(multihost_utils.process_allgather(np.asarray(fine))))


def read_meta(directory: str | os.PathLike[str], step: int | None = None) -> dict[str, Any]:
    """The JSON part that was saved with a step.

    Args:
        directory: the checkpoint directory.
        step: which step; the newest good one by default.

    Returns:
        What ``Checkpoints.save`` was given as ``meta``.

    Raises:
        CheckpointError: no such step, or a damaged one.
    """
    return checked_payload(choose_step(directory, step), under="meta/")["meta"]


def best_step(directory: str | os.PathLike[str]) -> int:
    """The kept step with the lowest finite score; the latest good one if none has one.

    Raises:
        CheckpointError: there is no complete step, or none is good.
    """
    latest = int(choose_step(directory, None).name)
    scored: dict[int, float] = {}
    for step in all_steps(directory):
        path = choose_step(directory, step)
        if step_problem(path) is None:
            score = _payload(path)["score"]
            scored |= {} if score is None else {step: score}
    return min(scored, key=lambda step: scored[step]) if scored else latest
