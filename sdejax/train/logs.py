"""Where a run's numbers and pictures go: JSON lines and TensorBoard, by process 0 only.

A run that was cut off has written numbers of steps that it goes through again: they are dropped
when it goes on, so that every step is there once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter


class Logs:
    """Writes ``metrics.jsonl`` and TensorBoard event files; a context manager.

    Args:
        workdir: the folder of the run.
        active: False on all processes but one, which then write nothing.
        step: the step that the run goes on from; what was written of later ones is dropped.
    """

    def __init__(self, workdir: Path, *, active: bool = True, step: int = 0) -> None:
        self.active = active
        if active:
            workdir.mkdir(parents=True, exist_ok=True)
            path = workdir / "metrics.jsonl"
            _drop_after(step, path)
            self._lines = path.open("a", encoding="utf-8")
            self._board = SummaryWriter(
                str(workdir / "tensorboard"), max_queue=1000, purge_step=step + 1
            )

    def flush(self) -> None:
        """Writes out what is still in memory."""
        if self.active:
            self._board.flush()

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes numbers of one step.

        Args:
            step: the step they belong to.
            values: scalars by name.
        """
        if not self.active:
            return
        numbers = {name: float(value) for name, value in values.items()}
        self._lines.write(json.dumps({"step": step, **numbers}) + "\n")
        self._lines.flush()
        for name, value in numbers.items():
            if math.isfinite(value):  # TensorBoard draws no others, and complains
                self._board.add_scalar(name, value, step)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Writes a picture of one step to TensorBoard.

        Args:
            step: the step it belongs to.
            name: its tag.
            image: uint8 [h, w] or [h, w, c].
        """
        if self.active:
            layout = "HW" if image.ndim == 2 else "HWC"
            self._board.add_image(name, image, step, dataformats=layout)

    def __enter__(self) -> Logs:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.active:
            self._lines.close()
            self._board.close()


def _drop_after(step: int, path: Path) -> None:
    """Rewrites the lines of steps up to ``step``, in a file that replaces the old one whole."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as old:
        kept = [line for line in old if _step_of(line) <= step]
    shorter = path.with_suffix(".part")
    shorter.unlink(missing_ok=True)  # a link there would be written through
    shorter.write_text("".join(kept), encoding="utf-8")
    shorter.replace(path)


def _step_of(line: str) -> float:
    """The step of a line; infinity for one that was cut off."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return math.inf
