"""``sdejax train`` in a forked worker, which says in which phase it is; and what it leaves.

The phases are told by wrapping the functions that the run calls; everything else is the command as
users type it, on the configuration of the tests.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import sdejax.run
from experiments.reliability.base import ROOT
from experiments.reliability.forks import say
from sdejax.cli import main
from sdejax.train.catalog import checked_payload, choose_step
from sdejax.train.checkpoint import Checkpoints
from sdejax.train.leaves import named_leaves, nest_leaves
from sdejax.train.logs import Logs

CONFIG = str(ROOT / "tests" / "tiny_config.py")
MODULE = "experiments.reliability.training"


def train(workdir: str, options: list[str]) -> None:
    """The command, without the report at the end, which takes as long as a short run.

    Args:
        workdir: of the run.
        options: further arguments.
    """
    run: Any = sdejax.run
    run.finish = lambda *arguments: None
    _command(workdir, options)


def _command(workdir: str, options: list[str]) -> None:
    main(["train", "--config", CONFIG, "--workdir", workdir, *options])


def train_slowly(workdir: str, options: list[str], cold: bool) -> None:
    """The command, 50 ms a step; it says "step n" after each and "phase NAME" at the start of each.

    Args:
        workdir: of the run.
        options: further arguments.
        cold: whether every program is compiled anew.
    """
    if cold:
        jax.config.update("jax_enable_compilation_cache", False)
    say("phase start-up")
    run: Any = sdejax.run
    run.run_loop = _announced("compilation", run.run_loop)
    run._held_out_loss = _announced("evaluation", run._held_out_loss)
    run.finish = _announced("final report", run.finish)
    generator_of = run.generator_of
    run.generator_of = lambda *args: _announced("sampling", generator_of(*args))
    Checkpoints.save = _announced("saving", Checkpoints.save)  # type: ignore[method-assign]
    write = Logs.scalars

    def scalars(self: Logs, step: int, values: Any) -> None:
        write(self, step, values)
        if "loss" in values:
            say(f"step {step}")
            say("phase training")
            time.sleep(0.05)

    Logs.scalars = scalars  # type: ignore[method-assign]
    _command(workdir, options)


def train_until_saved(workdir: str, options: list[str], step: int) -> None:
    """The command; it says "saved" when a step is, and stops for good at the next save.

    Args:
        workdir: of the run.
        options: further arguments.
        step: which.
    """
    save = Checkpoints.save

    def saved(self: Checkpoints, number: int, *args: Any) -> None:
        if number > step:
            time.sleep(1000.0)
        save(self, number, *args)
        if number == step:
            self.wait()
            say("saved")

    Checkpoints.save = saved  # type: ignore[method-assign]
    train(workdir, options)


def _announced(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def announced(*args: Any, **more: Any) -> Any:
        say(f"phase {phase}")
        return function(*args, **more)

    return announced


def digests(checkpoints: Checkpoints, step: int) -> dict[str, str]:
    """sha256 of every stored leaf of a step, of where the data are, and of the config's model.

    Args:
        checkpoints: of a run.
        step: which.
    """
    table = checked_payload(choose_step(checkpoints.directory, step))["leaves"]
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = {
        name: jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype), sharding=here)
        for name, (shape, dtype) in table.items()
    }
    state, meta = checkpoints.restore(nest_leaves(shapes), step)
    found = {
        name: hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest()
        for name, leaf in named_leaves(state).items()
    }
    return found | {"data": hashlib.sha256(json.dumps(meta["data"]).encode()).hexdigest()}


def digests_of(workdir: Path, steps: list[int]) -> dict[int, dict[str, str]]:
    """``digests`` of several steps of a run that has ended.

    Args:
        workdir: of the run.
        steps: which.
    """
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        return {step: digests(checkpoints, step) for step in steps}
