"""Checkpoints: asynchronous, sharded, complete or absent, and checked before they are believed.

    <directory>/<step>/state/...       arrays, each process writes its shards
    <directory>/<step>/meta/metadata   JSON: names, shapes and dtypes of the leaves; caller's meta
    <directory>/<step>/manifest.json   size and sha256 of every file
    <directory>/<step>/commit_success.txt   the last thing written: without it there is no step

Restoring takes shapes and shardings from the caller, so another number of devices or another
layout is no special case. A damaged newest step is set aside when the directory is opened, and the
run goes on from the one before. With several processes, every call is made by all of them at the
same step. Of the other modules only ``stored_arrays`` knows the checkpoint library.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jaxtyping import PyTree
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from sdejax.train.catalog import absolute, all_agree, all_steps, checked_payload, choose_step
from sdejax.train.integrity import CheckpointError, explained, write_manifest
from sdejax.train.leaves import check_leaves, fill_leaves, leaf_table, named_leaves
from sdejax.train.leftovers import TRASH, purge, remove_unfinished, tidy
from sdejax.train.lock import Held, take_lock


class Checkpoints:
    """The checkpoints of one run; a context manager, so that the last save is always finished.

    Args:
        directory: where the steps go; created if missing.
        keep: how many of the latest steps stay.
        best: name of a metric, lower is better, whose best step stays as well.

    Raises:
        CheckpointError: another run is writing here, or no step is good.

    Warns:
        DamagedCheckpoint: damaged or unfinished steps were found and put out of the way.
    """

    def __init__(
        self, directory: str | os.PathLike[str], *, keep: int = 2, best: str | None = None
    ):
        if keep < 1:
            raise ValueError(f"keep={keep}: at least the latest step is kept")
        self.directory = absolute(directory)
        self._best = best
        self._newest = -1
        with self._take_lock() as lock:
            explained(f"opening {directory}", lambda: tidy(self.directory))
            self._manager = explained(
                f"opening {directory}",
                lambda: ocp.CheckpointManager(self.directory, options=self._options(keep)),
            )
            self._newest = max(all_steps(directory), default=-1)
            self._lock = lock.pop_all()

    def _options(self, keep: int) -> ocp.CheckpointManagerOptions:
        best = BestN(
            get_metric_fn=_finite_or_inf, reverse=True, n=1, keep_checkpoints_without_metrics=False
        )
        return ocp.CheckpointManagerOptions(
            # Measured under kill loops: with the commit file and deletion by rename, a step is
            # complete or absent; the defaults offer half-deleted ones.
            atomicity_options=ocp.options.AtomicityOptions(
                mode=ocp.options.AtomicityMode.COMMIT_FILE
            ),
            todelete_subdir=TRASH,
            preservation_policy=AnyPreservationPolicy([LatestN(keep), best]),
            best_fn=None if self._best is None else _finite_or_inf,
            best_mode="min",
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
            save_root_metadata=False,
        )

    def _seal(self) -> None:
        """Called by one process when all data are written, before the step is committed."""
        write_manifest(self.directory / str(self._newest))

    def _take_lock(self) -> contextlib.ExitStack:
        lock, problem = contextlib.ExitStack(), ""
        if jax.process_index() == 0 and "://" not in str(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            try:
                lock = take_lock(self.directory)
            except Held as held:
                problem = f"is being written by another run ({held}): wait for it, stop it"
            except OSError as error:  # the lock is a link, or not ours to write
                problem = f"cannot be locked ({error}): look at the file"
        if not all_agree(not problem):
            problem = (
                problem or "is being written by another run or cannot be locked: see process 0"
            )
            raise CheckpointError(f"{self.directory} {problem}, or use another --workdir")
        return lock

    def save(
        self,
        step: int,
        state: PyTree,
        meta: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Start saving a step; returns when the arrays have been copied from the devices.

        The state may be donated afterwards. Writing goes on in the background; its error, if any,
        is raised by the next call here.

        Args:
            step: number of the step, larger than all before.
            state: pytree of global arrays, e.g. ``Parallel.portable(state)``; typed keys allowed.
            meta: what JSON can hold: data position, config, scaling, version ...
            metrics: host numbers; the one named ``best`` ranks this step.

        Raises:
            CheckpointError: the step is not newer than the newest, or a save failed.
            ValueError: a leaf or ``meta`` cannot be stored.
        """
        if step <= self._newest:
            raise CheckpointError(
                f"save of step {step} into {self.directory}, which already has step "
                f"{self._newest}: steps only grow; remove the later steps or use another --workdir"
            )
        named = named_leaves(state)
        empty = [name for name, leaf in named.items() if leaf.size == 0]
        if empty:
            raise ValueError(f"leaves {empty[:5]} of the state are empty and cannot be stored")
        score = float((metrics or {}).get(self._best or "", math.nan))
        payload = {
            "leaves": leaf_table(named),
            "score": score if math.isfinite(score) else None,
            "meta": dict(meta),
        }
        try:
            json.dumps(payload)
        except TypeError as error:
            raise ValueError(f"meta holds a value that JSON has not: {error}") from error
        self.wait()
        purge(self.directory)
        self._newest = step
        explained(
            f"saving step {step} to {self.directory}",
            lambda: self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(named), meta=ocp.args.JsonSave(payload)
                ),
                metrics=None if self._best is None else {"score": score},
                force=True,
            ),
        )

    def wait(self) -> None:
        """Wait for the save in progress; raises its error.

        Raises:
            CheckpointError: the save failed, e.g. on a full disk.
        """
        explained(f"saving step {self._newest} to {self.directory}", self._finish)

    def _finish(self) -> None:
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except BaseException:
            with contextlib.suppress(Exception):  # its writer may still be at work, and fail too
                self._manager._checkpointer.wait_until_finished()
            remove_unfinished(self.directory, self._newest)
            self._newest = max(all_steps(self.directory), default=-1)
            raise

    def newest_step(self) -> int | None:
        """The newest step that was saved or is being saved; None before the first."""
        return None if self._newest < 0 else self._newest

    def latest_step(self) -> int | None:
        """The newest complete step; the same answer on every process."""
        latest = max(all_steps(self.directory), default=-1)
        if jax.process_count() > 1:
            latest = int(multihost_utils.broadcast_one_to_all(np.int32(latest)))
        return None if latest < 0 else latest

    def restore(
        self, abstract_state: PyTree, step: int | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Read a step into the caller's structure and shardings, after checking both.

        Args:
            abstract_state: pytree of ``jax.ShapeDtypeStruct`` with shardings (or arrays), e.g.
                ``Parallel.abstract(make_state)``.
            step: which step; the newest by default.

        Returns:
            The state and the ``meta`` it was saved with.

        Raises:
            CheckpointError: no such step; a missing, truncated or changed file; leaves that
                differ in name, shape or dtype. Nothing is written in any case.
        """
        self.wait()
        path = choose_step(self.directory, self.latest_step() if step is None else step)
        payload = checked_payload(path)
        named = named_leaves(abstract_state)
        check_leaves(payload["leaves"], leaf_table(named), str(path))
        restored = explained(
            f"restoring {path}",
            lambda: self._manager.restore(
                int(path.name),
                args=ocp.args.Composite(state=ocp.args.StandardRestore(named)),
            ),
        )
        return fill_leaves(abstract_state, restored.state), payload["meta"]

    def close(self) -> None:
        """Finish the save in progress, delete what was retired, release the lock."""
        with self._lock:
            explained(f"saving step {self._newest} to {self.directory}", self._close_manager)
            purge(self.directory)

    def _close_manager(self) -> None:
        try:
            self._finish()
        finally:
            self._manager.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _finite_or_inf(metrics: Mapping[str, Any]) -> float:
    """The score of a step; a NaN ranks last instead of breaking the order."""
    return metrics["score"] if math.isfinite(metrics["score"]) else math.inf
