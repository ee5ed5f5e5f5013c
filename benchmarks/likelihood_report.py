"""Tables and the picture of the likelihood benchmark, from the rows that it measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.report import number, table

Row = Mapping[str, Any]
# problem -> (most evaluations, largest median error in bits per dimension, how it is called)
GOALS = {
    "G2": ((92, 8e-6, "goal"), (120, 1e-6, "goal"), (70, 8e-6, "stretch")),
    "D16": ((86, 8e-6, "goal"), (120, 1e-6, "goal"), (70, 8e-6, "stretch")),
}
FIGURES = ("median", "bias", "sd", "p95", "rms")
STYLES = {"sdejax": "#1f77b4", "flow_matching": "#444444", "k-diffusion": "#999999"}


def sections(data: Mapping[str, Any]) -> list[str]:
    """Markdown of whatever parts there are."""
    found = []
    for name, (title, render) in PARTS.items():
        if name in data:
            measured = data[name]
            load = f"- load of the machine, the benchmark's 1 included: {measured['load']}\n"
            found += [f"## {title}\n", measured["provenance"] + load, *render(measured)]
    return found


def within(rows: Sequence[Row], budget: float) -> Row | None:
    """The row of the least median error among those of at most ``budget`` evaluations."""
    fits = [row for row in rows if row["evaluations"] <= budget]
    return min(fits, key=lambda row: row["median"], default=None)


def by_method(rows: Sequence[Row]) -> dict[tuple, list[Row]]:
    """Rows that differ in their tolerance alone."""
    found: dict[tuple, list[Row]] = {}
    for row in rows:
        key = tuple(row[k] for k in ("problem", "library", "method", "batch"))
        found.setdefault(key, []).append(row)
    return found


def _accuracy(part: Mapping[str, Any]) -> list[str]:
    groups = by_method(part["rows"])
    found = [
        "Errors are (log p - exact)/(d ln 2) in bits per dimension, each library against its own "
        "model; evaluations are medians over examples that choose their own steps, rejected ones "
        "included, or those of a whole batch where it says so.\n"
    ]
    for problem in dict.fromkeys(key[0] for key in groups):
        goals = GOALS.get(problem, ())
        head = ["method", *(f"<= {number(e)} at <= {n} ({kind})" for n, e, kind in goals)]
        rows = [
            [_named(*key[1:]), *(_cell(within(group, n), e) for n, e, _ in goals)]
            for key, group in groups.items()
            if key[0] == problem and len(group) > 1
        ]
        title = f"### {problem}: the least median error within so many evaluations\n"
        found += [title, table(head, rows)]
    full = []
    for (problem, *names), rows in groups.items():
        for row in rows:
            if _whole(row["tolerance"]):
                calls = [f"{row['tolerance']:.0e}", number(row["evaluations"]), str(row["most"])]
                full.append([problem, _named(*names), *calls, *(number(row[k]) for k in FIGURES)])
    titles = ["problem", "method", "tolerance", "evaluations", "most", *FIGURES]
    return [*found, "### By tolerance\n", table(titles, full)]


def _named(library: str, method: str, batch: int) -> str:
    return f"{library}: {method}" + (f", batch {batch}" if batch > 1 else "")


def _cell(best: Row | None, limit: float) -> str:
    if best is None:
        return ""
    cell = f"{number(best['median'])} ({best['evaluations']:.0f})"
    return f"**{cell}**" if best["median"] <= limit else cell


def _whole(tolerance: float) -> bool:
    power = math.log10(tolerance)
    return abs(power - round(power)) < 1e-6


def _traces(part: Mapping[str, Any]) -> list[str]:
    rows, first = [], {}
    for row in part["rows"]:
        first.setdefault(row["problem"], row)  # one Rademacher probe
        one = first[row["problem"]]
        cells = []
        for key in ("trace", "trace_linear", "log_p", "log_p_linear"):
            cells.append(number(row.get(key)))
        ratios = [number(row[k] / one[k], 2) for k in ("trace", "log_p")]
        rows.append([f"{row['problem']}: {row['method']}", *cells, *ratios])
    head = [
        "problem: probes, tangents", "trace", "trace, linear part left in", "log p",
        "log p, linear part left in", "trace / one probe", "log p / one probe",
    ]  # fmt: skip
    return [
        "Standard deviations over probes, root mean square over states: of the trace per entry and "
        "unit of angle, and of log p in bits per dimension.\n",
        table(head, rows),
    ]


def _errors(part: Mapping[str, Any]) -> list[str]:
    row = part["rows"][0]
    cells = [number(row[k]) for k in ("reported", "observed", "ratio", "bias")]
    head = [
        f"D{row['d']}, {row['probes']} probes, {row['examples']} examples", "reported, rms (nats)",
        "observed sd", "ratio", "bias in standard errors",
    ]  # fmt: skip
    return [table(head, [["standard error of log p", *cells]])]


def _cost(part: Mapping[str, Any]) -> list[str]:
    rows = [
        [f"{r['network']}, {r['trace']}", number(r["ratio"]), number(r["iqr"], 2), _rounds(r)]
        for r in part["rows"]
    ]
    head = ["network, probes", "forward evaluations", "IQR", "rounds x attempts"]
    return [
        f"{part['clock']} time of one evaluation with its trace over one without, paired.\n",
        table(head, rows),
    ]


def _rounds(row: Row) -> str:
    return f"{row['rounds']} x {row['attempts']}"


def _time(part: Mapping[str, Any]) -> list[str]:
    rows = []
    for r in part["rows"]:
        name = f"{r['case']}, {'exact' if r['trace'] == 'exact' else r['trace'] + ' probes'}"
        against = r["library"] + (f", {r['solves']:.0f} solves" if r["solves"] > 1 else "")
        rows.append([
            name, against, number(r["ratio"]), number(r["iqr"], 2),
            *(f"{number(r[side]['tolerance'])}" for side in ("theirs", "ours")),
            *(number(r[side][k]) for k in ("median", "rms") for side in ("theirs", "ours")),
            *(f"{r[side]['evaluations']:.0f}, {r[side]['most']}" for side in ("theirs", "ours")),
            _rounds(r),
        ])  # fmt: skip
    head = [
        "case", "against", "ratio", "IQR", "tolerance: theirs", "ours", "median error: theirs",
        "ours", "rms error: theirs", "ours", "evaluations, most: theirs", "ours", "rounds",
    ]  # fmt: skip
    return [
        f"Ratios of {part['clock']} times of one likelihood of a batch of 512, ours over theirs, at"
        " a tolerance of ours that gives no larger median and rms error; 0.5 is the goal.\n",
        table(head, rows),
    ]


PARTS: dict[str, tuple[str, Callable[[Mapping[str, Any]], list[str]]]] = {
    "accuracy": ("Error against evaluations", _accuracy),
    "traces": ("Stochastic traces", _traces),
    "errors": ("Reported standard errors", _errors),
    "cost": ("Cost of a trace", _cost),
    "mixture": ("Error against time: the exact velocity of a mixture", _time),
    "network": ("Error against time: a network", _time),
}


def picture(path: Path, data: Mapping[str, Any]) -> None:
    """Error against evaluations, and against time where it was measured.

    Args:
        path: of the picture.
        data: the parts.
    """
    groups = by_method(data["accuracy"]["rows"]) if "accuracy" in data else {}
    timed = [row for name in ("mixture", "network") if name in data for row in data[name]["rows"]]
    panels = list(dict.fromkeys(key[0] for key in groups))
    cases = list(dict.fromkeys(row["case"] for row in timed))
    if not panels and not cases:
        return
    figure = Figure(figsize=(4.6 * (len(panels) + len(cases)), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels) + len(cases), squeeze=False)[0]
    for axis, problem in zip(axes, panels, strict=False):
        for (where, library, method, batch), rows in groups.items():
            if where != problem or len(rows) < 2 or "native" in method:
                continue
            style = {"color": STYLES[library], "ls": "-" if batch == 1 else ":"}
            if "Dopri5" in method:
                style["ls"] = "--"
            points = [(row["evaluations"], row["median"]) for row in rows]
            label = _named(library, method, batch)
            axis.plot(*zip(*points, strict=True), ms=3, marker=".", label=label, **style)
        for budget, limit, _ in GOALS.get(problem, ()):
            axis.plot([budget], [limit], "r+", ms=9)
        axis.set(yscale="log", xlabel="evaluations (median)", title=problem, xlim=(20, 200))
        axis.legend(fontsize=6)
    for axis, case in zip(axes[len(panels) :], cases, strict=True):
        rows = [row for row in timed if row["case"] == case and row["trace"] == "exact"]
        for side, label in ((0, "sdejax"), (1, "flow_matching")):
            points = sorted(
                (row["seconds"][side], row[("ours", "theirs")[side]]["rms"]) for row in rows
            )
            if points:
                color = STYLES[label]
                axis.plot(*zip(*points, strict=True), marker="o", label=label, color=color)
        axis.set(xscale="log", yscale="log", xlabel="seconds, batch of 512, one core")
        axis.set_title(f"{case}, exact trace: rms error")
        axis.legend(fontsize=8)
    axes[0].set_ylabel("bits per dimension")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
