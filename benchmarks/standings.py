"""The tables and the picture of the accuracy benchmark, made of its records alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import report
from benchmarks.fitted import (
    BATCH,
    ITERATIONS,
    METHODS,
    PAIRS,
    TRANSFER,
    TUNING_BATCH,
    TUNING_ITERATIONS,
)

MEASURES = ("rms", "median")
PEERS = ("k-diffusion", "diffusers")
GOAL = {10: 0.074, 20: 0.021, 35: 0.0056, 50: 0.0012, 100: 9e-5}  # RMS on G2 measured before
SAME = 1e-6  # relative: the same method in two libraries, rounded differently
STRETCH = 0.5  # of the best peer's error, learned or tuned
GRIDS = {
    "A": "A, Karras with rho = 7",
    "B": "B, uniform in log-SNR",
    "C": "C, each library's default",
}
FLOOR = """The floor is the error of a method that is exact down to sigma_min and denoises there. It
is no strict bound: errors of a method can cancel against it, and k-diffusion's LMS steps to 0.
"""


class Record(NamedTuple):
    """One figure."""

    problem: str
    library: str
    method: str
    grid: str  # A, B, C, or "fit NAME" for a method fitted to problem NAME
    budget: int
    rms: float
    median: float


class Found(NamedTuple):
    """Everything that a run measured."""

    records: list[Record]
    budgets: list[int]
    floors: dict[str, dict[str, float]]  # problem -> measure
    costs: list[dict[str, Any]]


def packed(found: Found) -> dict[str, Any]:
    """Plain data for JSON: problem -> grid -> library method -> measure -> values at budgets."""
    tree: dict[str, Any] = {}
    for r in found.records:
        leaf = tree.setdefault(r.problem, {}).setdefault(r.grid, {})
        leaf = leaf.setdefault(f"{r.library} {r.method}", {})
        for measure in MEASURES:
            values = leaf.setdefault(measure, [None] * len(found.budgets))
            values[found.budgets.index(r.budget)] = float(f"{getattr(r, measure):.4g}")
    return {**found._asdict(), "records": tree}


def unpacked(data: dict[str, Any]) -> Found:
    """What ``packed`` was made of."""
    records = [
        Record(problem, *name.split(" ", 1), grid, budget, *values)
        for problem, grids in data["records"].items()
        for grid, methods in grids.items()
        for name, leaf in methods.items()
        for budget, *values in zip(data["budgets"], *(leaf[m] for m in MEASURES), strict=True)
        if values[0] is not None
    ]
    return Found(records, data["budgets"], data["floors"], data["costs"])


def sections(found: Found) -> list[str]:
    """The document."""
    names = list(dict.fromkeys(r.problem for r in found.records))
    parts = ["## Best against best\n", FLOOR, *(_standing(found, name) for name in names)]
    if "G2" in names and any(r.library in PEERS for r in found.records):
        parts.append(_targets(found))
    if found.costs:
        parts.append(_costs(found))
    parts.append("## Every method: RMS (median)\n")
    for name in names:
        here = [r for r in found.records if r.problem == name]
        for grid in dict.fromkeys(r.grid for r in here):
            title = GRIDS.get(grid, f"fitted to {grid.split()[-1]}")
            parts.append(f"### {name}, {title}\n")
            parts.append(_every([r for r in here if r.grid == grid], found.budgets))
    return parts


def best(records: Iterable[Record], measure: str, budget: int) -> Record | None:
    """The least of the finite ones at a budget."""
    here = [r for r in records if r.budget == budget and math.isfinite(getattr(r, measure))]
    return min(here, key=lambda r: getattr(r, measure), default=None)


def groups(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Whose best is compared: the peers, our fixed methods, and each fitted method."""
    fitted = {m: [r for r in records if r.method == m] for m in METHODS}
    return {
        "best peer": [r for r in records if r.library in PEERS],
        "best fixed": [r for r in records if r.library == "sdejax" and r.method not in METHODS],
        **{m: rows for m, rows in fitted.items() if rows},
    }


def _standing(found: Found, problem: str) -> str:
    here = groups([r for r in found.records if r.problem == problem])
    text = [f"### {problem}\n"]
    source = next((a for a, b in TRANSFER.items() if b == problem), None)
    if source and "learned" in here:
        text.append(f"`learned` and `tuned` were fitted to {source} and never saw {problem}.\n")
    floor = found.floors[problem]
    for measure in MEASURES:
        rows = []
        peers = {b: best(here["best peer"], measure, b) for b in found.budgets}
        for label, records in here.items():
            least = {b: best(records, measure, b) for b in found.budgets}
            if not any(least.values()):
                continue
            rows.append([label, *(_value(least[b], measure) for b in found.budgets)])
            if label.startswith("best"):
                names = (r and f"{r.method.split('/')[-1]} {r.grid}" for r in least.values())
                rows.append(["", *(name or "" for name in names)])
            if label != "best peer" and any(peers.values()):
                ratios = (_ratio(least[b], peers[b], measure) for b in found.budgets)
                rows.append(["... / best peer", *(report.number(r, 2) for r in ratios)])
        title = f"{measure}, floor {report.number(floor[measure], 2)}"
        text.append(report.table([title, *map(str, found.budgets)], rows))
    return "\n".join(text)


def _value(record: Record | None, measure: str) -> str:
    return report.number(getattr(record, measure) if record else None)


def _ratio(mine: Record | None, theirs: Record | None, measure: str) -> float | None:
    return getattr(mine, measure) / getattr(theirs, measure) if mine and theirs else None


def _targets(found: Found) -> str:
    here = groups([r for r in found.records if r.problem == "G2"])
    head = ["evaluations", *map(str, found.budgets)]
    rows = []
    for measure in MEASURES:
        peers = {b: best(here["best peer"], measure, b) for b in found.budgets}
        fixed = {b: best(here["best fixed"], measure, b) for b in found.budgets}
        verdicts = [_verdict(_ratio(fixed[b], peers[b], measure), 1.0, b in GOAL) for b in peers]
        rows.append([f"fixed no worse than best peer, {measure}", *verdicts])
        if measure == "rms":
            against = (
                fixed[b].rms / GOAL[b] if b in GOAL and fixed[b] else None for b in found.budgets
            )
            rows.append(["fixed / anchor, rms", *(report.number(r, 2) for r in against)])
        ready = [r for m in METHODS for r in here.get(m, [])]
        fit = {b: best(ready, measure, b) for b in found.budgets}
        verdicts = [_verdict(_ratio(fit[b], peers[b], measure), STRETCH, True) for b in peers]
        rows.append([f"stretch: learned or tuned half of best peer, {measure}", *verdicts])
    return "## Targets on G2\n\n" + report.table(head, rows)


def _verdict(ratio: float | None, goal: float, asked: bool) -> str:
    if ratio is None or not asked:
        return ""
    return f"{'met' if ratio <= goal * (1 + SAME) else 'missed'} ({report.number(ratio, 2)})"


def _costs(found: Found) -> str:
    rows = []
    for problem in dict.fromkeys(c["problem"] for c in found.costs):
        for method in METHODS:
            own = {
                c["budget"]: c
                for c in found.costs
                if c["problem"] == problem and c["method"] == method
            }
            for key, label, unit in (
                ("seconds", "seconds", 1),
                ("evaluations", "evaluations a pair", PAIRS),
            ):
                cells = (f"{own[b][key] / unit:.0f}" if b in own else "" for b in found.budgets)
                rows.append([f"{method} on {problem}, {label}", *cells])
    pairs = "; ".join(
        f"{c['problem']} {c['seconds']} s, {c['evaluations']} evaluations a pair"
        for c in found.costs
        if c["method"] == "pairs"
    )
    return (
        "## What the fits cost\n\n"
        f"`learned`: {ITERATIONS} iterations of {BATCH} pairs; `tuned`: UniPC-2, "
        f"{TUNING_ITERATIONS} iterations of {TUNING_BATCH}. {PAIRS} pairs, whose exact ends took: "
        f"{pairs}. Seconds are processor time of one core with compilation; evaluations are of the "
        "network, a gradient counted as three.\n\n"
        + report.table(["evaluations of the method", *map(str, found.budgets)], rows)
    )


def _every(records: Sequence[Record], budgets: Sequence[int]) -> str:
    rows = []
    for name in dict.fromkeys(r.method for r in records):
        by_budget = {r.budget: r for r in records if r.method == name}
        cells = [
            f"{report.number(r.rms)} ({report.number(r.median, 2)})" if r else ""
            for r in map(by_budget.get, budgets)
        ]
        rows.append([name, *cells])
    return report.table(["NFE", *map(str, budgets)], rows)


def picture(path: Path, found: Found, problem: str = "G2") -> None:
    """Error against evaluations: every peer in grey, and the best of each group."""
    records = [r for r in found.records if r.problem == problem]
    if not records:
        return
    panels = {}
    for measure in MEASURES:
        crowd: dict[str, list] = {}
        for r in records:
            if r.library in PEERS and math.isfinite(getattr(r, measure)):
                crowd.setdefault(f"{r.method} {r.grid}", []).append((r.budget, getattr(r, measure)))
        leaders = {}
        for label, own in groups(records).items():
            line = [(b, best(own, measure, b)) for b in found.budgets]
            leaders[label] = [(b, getattr(r, measure)) for b, r in line if r]
        leaders = {label: line for label, line in leaders.items() if line}
        panels[measure] = report.Panel(crowd, leaders, found.floors[problem][measure])
    report.plot(path, problem, panels)
