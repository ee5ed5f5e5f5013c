"""The command ``sdejax``, run by a forked worker, and what it saw of the training."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from sdejax import run
from sdejax.cli import main
from sdejax.train.leaves import named_leaves
from sdejax.train.loop import host_params


def command(devices: int, *words: str) -> None:
    """``sdejax WORDS``.

    Args:
        devices: number of virtual CPU devices.
        words: arguments.
    """
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    main(list(words))


def observed(out: str, devices: int, *words: str) -> None:
    """``sdejax train`` with a look at the loop: what it starts from, is fed with, and leaves.

    Args:
        out: JSON file: "at_start" and "at_end", sha256 of each leaf of the state; "rows", a list of
            hashes of examples for each step.
        devices, words: as in ``command``.
    """
    seen: dict[str, Any] = {"rows": []}
    run_loop = run.run_loop

    def look(layout: Any, state: Any, batches: Any, *rest: Any, **more: Any) -> Any:
        seen["at_start"] = digests(state)
        state = run_loop(layout, state, _noted(batches, seen["rows"]), *rest, **more)
        seen["at_end"] = digests(state)
        Path(out).write_text(json.dumps(seen))
        return state

    with mock.patch.object(run, "run_loop", look):
        command(devices, *words)


def digests(state: Any) -> dict[str, str]:
    """sha256 of every leaf, by name; the same on every process."""
    return {
        name: hashlib.sha256(np.ascontiguousarray(leaf).data).hexdigest()
        for name, leaf in host_params(named_leaves(state)).items()
    }


def _noted(batches: Iterator[Any], rows: list[list[str]]) -> Iterator[Any]:
    for batch in batches:
        rows.append(
            [
                hashlib.sha256(x.tobytes() + position.tobytes()).hexdigest()[:16]
                for x, position in zip(batch["x"], batch["position"], strict=True)
            ]
        )
        yield batch
