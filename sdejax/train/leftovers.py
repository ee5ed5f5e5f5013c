"""What a checkpoint directory holds besides good steps, and how a new run tidies it up.

    <directory>/<step>/     without the commit marker: the save was cut off; removed
    <directory>/trash/      retired steps whose deletion was cut off; removed
    <directory>/damaged/    steps that were complete and are no longer as they were saved; kept

Only the process that holds the lock tidies. A directory in which no step is good is left as it is.
"""

from __future__ import annotations

import warnings

import jax
from etils import epath

from sdejax.train.catalog import (
    COMMITTED,
    DamagedCheckpoint,
    all_agree,
    choose_step,
    numbered,
    step_problem,
)

TRASH, DAMAGED = "trash", "damaged"


def tidy(directory: epath.Path) -> None:
    """Leaves good steps only, all of whose files are read for it; says what it found.

    Args:
        directory: of the checkpoints; locked by this run. Every process calls this.

    Raises:
        CheckpointError: there are complete steps, but none is good; nothing is changed.

    Warns:
        DamagedCheckpoint: naming the damage.
    """
    steps = numbered(directory)
    complete = [step for step, path in steps.items() if (path / COMMITTED).exists()]
    problems = {step: step_problem(steps[step]) for step in complete}
    if complete and all(problems.values()):
        choose_step(directory, None)  # raises, naming them all
    if jax.process_index() == 0:
        purge(directory)
        for step, path in steps.items():
            if step not in complete:
                warnings.warn(
                    f"{path}: the save of this step was cut off; it is removed",
                    DamagedCheckpoint,
                    stacklevel=2,
                )
                path.rmtree()
            elif (problem := problems[step]) is not None:
                _set_aside(path, directory / DAMAGED, problem)
    all_agree(True)  # nobody looks into the directory before it is tidy


def purge(directory: epath.Path) -> None:
    """Deletes what was retired.

    Args:
        directory: of the checkpoints.
    """
    if jax.process_index() == 0 and (directory / TRASH).exists():
        (directory / TRASH).rmtree()


def remove_unfinished(directory: epath.Path, step: int) -> None:
    """Deletes what a failed save left behind, so that a full disk does not stay full.

    Args:
        directory: of the checkpoints.
        step: of the failed save.
    """
    path = directory / str(step)
    if jax.process_index() == 0 and path.exists() and not (path / COMMITTED).exists():
        path.rmtree()


def _set_aside(path: epath.Path, folder: epath.Path, problem: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = [path.name, *(f"{path.name}.{i}" for i in range(1, 1000))]
    goal = next(folder / name for name in names if not (folder / name).exists())
    path.rename(goal)
    warnings.warn(f"{path} is damaged; moved to {goal}: {problem}", DamagedCheckpoint, stacklevel=3)
