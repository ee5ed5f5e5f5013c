"""Metrics against the training step, from the lines a run wrote."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sdejax.untrusted import parse_json


def read_records(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Read a file of metrics, one JSON object per line.

    Args:
        path: the file; a last line that a killed run left unfinished is skipped.

    Returns:
        The records in order.

    Raises:
        ValueError: if a line before the last is not JSON (it says which).
    """
    lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = parse_json(line, path)
            if not isinstance(record, dict):
                raise ValueError(f"{path}: got {type(record).__name__}")
            records.append(record)
        except ValueError as error:
            if number < len(lines):
                what = f"not a JSON object: {line[:200]!r}"
                raise ValueError(f"{path}, line {number}: {what}") from error
    return records


def plot_curves(
    records: Sequence[Mapping[str, Any]],
    names: Sequence[str] = ("loss",),
    *,
    log: bool = True,
    smooth: int = 1,
) -> Figure:
    """Plot metrics against the training step.

    Args:
        records: one mapping per logged step, each with "step" (``read_records`` reads a file).
        names: which metrics; a record without a metric is passed over.
        log: logarithmic vertical axis.
        smooth: mean over this many records drawn above the faint raw curve.

    Returns:
        The figure.

    Raises:
        ValueError: if no record holds a metric (it names those there are).
    """
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    for i, name in enumerate(names):
        rows = [(r["step"], r[name]) for r in records if name in r]
        if not rows:
            known = sorted(set().union(*records) - {"step"})
            raise ValueError(f"names: no record holds {name!r}; there are {known}")
        steps, values = np.asarray(rows, np.float64).T
        colour, window = f"C{i}", min(smooth, len(values))
        if window > 1:
            axes.plot(steps, values, color=colour, alpha=0.3, lw=1)
        mean = np.convolve(values, np.full(window, 1 / window), mode="valid")
        start = (window - 1) // 2  # each mean stands in the middle of the records it covers
        axes.plot(steps[start : start + len(mean)], mean, color=colour, lw=1.6, label=name)
    axes.set(xlabel="step", ylabel=names[0] if len(names) == 1 else "")
    axes.set_yscale("log" if log else "linear")
    axes.grid(alpha=0.3)
    if len(names) > 1:
        axes.legend()
    return figure
