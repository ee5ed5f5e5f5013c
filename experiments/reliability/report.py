"""The table of outcomes, with the command, commit, hardware and versions of each row's run."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.report import commit, processor
from experiments.reliability.base import Outcome

PACKAGES = ("jax", "jaxlib", "orbax-checkpoint", "flax", "optax", "numpy")
INTRODUCTION = """\
Lost: committed steps that were gone. Unreadable: steps that were offered and could not be read, or
damage that raised nothing. Wrong: bytes, exit codes or messages other than they should be. The
longest time is that of whatever has a limit in the scenario. How each is done:
`experiments/reliability/`, one file a scenario.
"""


def row(outcome: Outcome, seconds: float) -> dict[str, Any]:
    """One outcome with what it took and where it was measured.

    Args:
        outcome: of a scenario.
        seconds: that the whole scenario took.
    """
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    return {
        **outcome._asdict(),
        "passed": outcome.passed,
        "seconds": round(seconds, 1),
        "command": " ".join(["python -m experiments.reliability", *sys.argv[1:]]),
        "commit": commit(),
        "hardware": f"{processor()}, {os.cpu_count()} cores seen, {platform.system()}",
        "versions": f"Python {platform.python_version()}; {versions}",
    }


def read_rows(out: Path) -> dict[str, dict[str, Any]]:
    """The rows of earlier runs in a folder; {} where there are none.

    Args:
        out: the folder.
    """
    path = out / "reliability.json"
    return json.loads(path.read_text()) if path.exists() else {}


def write_report(out: Path, rows: Mapping[str, Mapping[str, Any]], order: Iterable[str]) -> None:
    """Write reliability.md and reliability.json.

    Args:
        out: the folder, made if missing.
        rows: by name of the scenario, as ``row`` gives them.
        order: names of all scenarios, in the order of the table.
    """
    out.mkdir(parents=True, exist_ok=True)
    kept = {name: rows[name] for name in order if name in rows}
    (out / "reliability.json").write_text(json.dumps(kept, indent=1) + "\n")
    head = ("", "tries", "lost", "unreadable", "wrong", "longest", "took", "what else was seen")
    lines = [
        "# Reliability\n",
        INTRODUCTION,
        _line(head),
        _line(["---", *["--:"] * 6, "---"]),
        *(_line(_cells(found)) for found in kept.values()),
        "",
        *_origins(kept),
    ]
    (out / "reliability.md").write_text("\n".join(lines) + "\n")


def _cells(found: Mapping[str, Any]) -> list[str]:
    longest = f"{found['worst_seconds']:.2f} s" if found["worst_seconds"] else ""
    counts = [str(found[key]) for key in ("tries", "lost", "unreadable", "wrong")]
    return [found["name"], *counts, longest, f"{found['seconds']:.0f} s", found["notes"]]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _origins(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Where the rows come from: one paragraph for all that were measured together."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, found in rows.items():
        key = tuple(found[part] for part in ("command", "commit", "hardware", "versions"))
        groups.setdefault(key, []).append(name)
    return [
        f"- {', '.join(names)}: `{command}`, commit {commit}; {hardware}; {versions}"
        for (command, commit, hardware, versions), names in groups.items()
    ]
