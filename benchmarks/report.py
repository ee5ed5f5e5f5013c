"""Markdown tables, pictures, and the line that says where figures come from."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "diffrax", "torch", "torchdiffeq", "diffusers", "k-diffusion",
    "flow_matching",
)  # fmt: skip


def provenance() -> str:
    """Command, commit, hardware and versions, as lines of markdown."""
    command = " ".join(
        ["python -m " + Path(sys.argv[0]).stem.join(("benchmarks.", "")), *sys.argv[1:]]
    )
    lines = [
        f"- command: `{command}`",
        f"- commit: {commit()}",
        f"- hardware: {processor()}, {os.cpu_count()} cores seen, {platform.system()}",
        f"- Python {platform.python_version()}; {_versions()}",
    ]
    return "\n".join(lines) + "\n"


def commit() -> str:
    """The commit that was measured, and whether the tree differed from it."""

    def git(*words: str) -> str:
        root = Path(__file__).parent
        out = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True)
        return out.stdout.strip()

    # Results that a run has just written are no change of what it measures.
    written = (":(top,exclude)experiments/results", ":(top,exclude)benchmarks/results")
    status = git("status", "--porcelain", "--", ":/", *written)
    changed = " with uncommitted changes" if status else ""
    return (git("rev-parse", "--short", "HEAD") or "unknown") + changed


def processor() -> str:
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "CPU")


def _versions() -> str:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def number(value: float | None, digits: int = 3) -> str:
    """A figure with ``digits`` significant digits; nothing for None, "nan" where it failed."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return "nan"
    plain = f"{value:.{digits}g}"
    return f"{value:.{digits - 1}e}" if "e" in plain else plain


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table; the first column is left-aligned."""
    rule = ["---"] + ["--:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows)) + "\n"


def write(
    out: Path, name: str, title: str, sections: Sequence[str], data: Any, origin: str | None = None
) -> None:
    """Writes NAME.md and NAME.json below ``out``.

    Args:
        out: folder, made if needed.
        name: of the files.
        title: heading.
        sections: markdown.
        data: what the JSON file holds beside the provenance.
        origin: the provenance, by default of this run.
    """
    out.mkdir(parents=True, exist_ok=True)
    origin = origin or provenance()
    (out / f"{name}.md").write_text("\n".join([f"# {title}\n", origin, *sections]))
    (out / f"{name}.json").write_text(json.dumps({"provenance": origin, "data": data}) + "\n")


class Panel(NamedTuple):
    """Curves of (evaluations, error)."""

    crowd: Mapping[str, Sequence[tuple[int, float]]]  # thin and grey
    leaders: Mapping[str, Sequence[tuple[int, float]]]
    floor: float  # of methods that denoise at sigma_min


STYLES = {
    "best peer": {"color": "#444444", "marker": "s"},
    "best fixed": {"color": "#1f77b4", "marker": "o"},
    "learned": {"color": "#d62728", "marker": "^"},
    "tuned": {"color": "#e89c1c", "marker": "v"},
}
LABELS = {
    "best fixed": "sdejax, best fixed",
    "learned": "sdejax, learned",
    "tuned": "sdejax, tuned",
}


def plot(path: Path, problem: str, panels: Mapping[str, Panel]) -> None:
    """Error against evaluations, log-log, a panel for each measure.

    Args:
        path: the picture.
        problem: its name.
        panels: measure -> curves.
    """
    figure = Figure(figsize=(9.0, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (measure, panel) in zip(axes, panels.items(), strict=True):
        for points in panel.crowd.values():
            axis.plot(*zip(*points, strict=True), lw=0.6, alpha=0.5, color="#999999")
        for label, points in panel.leaders.items():
            axis.plot(
                *zip(*points, strict=True),
                lw=1.8,
                ms=5,
                label=LABELS.get(label, label),
                **STYLES[label],
            )
        axis.axhline(panel.floor, lw=1.0, ls=":", color="#444444", label="floor of sigma_min")
        budgets = sorted({n for points in panel.leaders.values() for n, _ in points})
        axis.set(xscale="log", yscale="log", xlabel="network evaluations")
        axis.set_title(f"{problem}: {measure.upper() if measure == 'rms' else measure} error")
        axis.set_xticks(budgets, [str(n) for n in budgets], minor=False)
        axis.minorticks_off()
        axis.set_ylim(top=2.0)
        axis.grid(alpha=0.2)
    axes[0].set_ylabel("|x - exact| / (sqrt(d) sd)")
    handles, labels = axes[0].get_legend_handles_labels()
    if panels and any(panel.crowd for panel in panels.values()):
        handles.append(Line2D([], [], lw=0.8, color="#999999"))
        labels.append("peers, every method and grid")
    figure.legend(handles, labels, ncols=3, fontsize=9, loc="outside lower center", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
