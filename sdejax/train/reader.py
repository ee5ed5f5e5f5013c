"""Reading the parameters of a checkpoint, perhaps beside a run that goes on saving."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jaxtyping import PyTree

from sdejax.train.catalog import checked_payload, choose_step
from sdejax.train.integrity import CheckpointError, explained
from sdejax.train.leaves import check_leaves, fill_leaves, leaf_table, named_leaves, nest_leaves


def restore_params(
    directory: str | os.PathLike[str],
    step: int | None = None,
    *,
    which: str = "ema_params",
    like: PyTree = None,
) -> Any:
    """The parameters alone, as host arrays; needs neither the optimizer nor the devices.

    Args:
        directory: the checkpoint directory.
        step: which step; the newest good one by default.
        which: "ema_params", or "params" for the ones being trained.
        like: a pytree of arrays or shapes to restore into and to compare with; without it the
            result is nested dicts, as flax has them.

    Returns:
        Parameters, numpy arrays.

    Raises:
        CheckpointError: no such step, a damaged one, or other leaves than ``like``.
    """
    path = choose_step(directory, step)
    try:
        return _read(path, which, like)
    except (CheckpointError, OSError):
        if step is None and not path.exists():  # retired while it was read: there is a newer one
            return restore_params(directory, which=which, like=like)
        raise


def _read(path: epath.Path, which: str, like: PyTree) -> Any:
    leaves = checked_payload(path)["leaves"]
    saved = {name: leaf for name, leaf in leaves.items() if name.startswith(f"{which}/")}
    if not saved:
        parts = sorted({name.split("/")[0] for name in leaves})
        raise CheckpointError(f"{path} holds no {which!r}: choose one of {parts}")
    if like is not None:
        check_leaves(saved, leaf_table(named_leaves({which: like})), str(path))
    arguments = ocp.args.PyTreeRestore(
        item=dict.fromkeys(saved, 0),
        restore_args={name: ocp.RestoreArgs(restore_type=np.ndarray) for name in saved},
        partial_restore=True,
    )
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        named = explained(f"reading {path}", lambda: reader.restore(path / "state", arguments))
    return nest_leaves(named)[which] if like is None else fill_leaves({which: like}, named)[which]
