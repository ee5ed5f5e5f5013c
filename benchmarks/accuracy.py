"""Error of ODE samplers for a number of evaluations, against k-diffusion and diffusers.

All methods start from the same noise z on each point, at sigma_0 z, and are held against the exact
flow from there (``problems.reference``). The error of a point is |x - x*| / (sqrt(d) sd). A method
takes as many steps as a budget allows, the last denoising evaluation included.

    python -m benchmarks.accuracy --out benchmarks/results            # everything, half an hour
    python -m benchmarks.accuracy --quick --only unipc --no-peers     # a look
    python -m benchmarks.accuracy --parity --out benchmarks/results   # ours less theirs
    python -m benchmarks.accuracy --redraw --out benchmarks/results   # tables from accuracy.json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import jax

jax.config.update("jax_enable_x64", True)

import numpy as np  # noqa: E402
from tqdm import tqdm  # noqa: E402

from benchmarks import fitted, ours, problems, report, standings  # noqa: E402
from benchmarks.standings import Found, Record  # noqa: E402

BUDGETS = (5, 6, 8, 10, 15, 20, 35, 50, 100)
FIT_UP_TO = 50  # evaluations
SAVE_EVERY = 120.0  # seconds
DEFAULT_GRIDS_ON = ("G2",)


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, help="folder for accuracy.md, .json and .png; printed if not given")
    add("--problems", nargs="+", default=list(problems.PROBLEMS), choices=list(problems.PROBLEMS))
    add("--grids", nargs="+", default=["A", "B", "C"], choices=["A", "B", "C"])
    add("--budgets", nargs="+", type=int, default=list(BUDGETS))
    add("--points", type=int, default=512)
    add("--seed", type=int, default=0, help="of the noise that all methods share")
    add("--sigma-min", type=float, default=problems.SIGMA_MIN, help="of grids A and B")
    add("--only", nargs="+", default=[], help="methods with one of these in their name")
    add("--quick", action="store_true", help="G2, grid A, budgets 10 and 20")
    add("--no-peers", action="store_true", help="without torch")
    add("--parity", action="store_true", help="greatest difference from the peers instead")
    add("--redraw", action="store_true", help="tables and picture of OUT/accuracy.json again")
    args = parser.parse_args(argv)
    if args.quick:
        args.problems, args.grids, args.budgets = ["G2"], ["A"], [10, 20]
    if args.redraw and not args.out:
        parser.error("--redraw: got no --out; expected the folder of accuracy.json")
    return args


def wanted(names: Sequence[str], only: Sequence[str]) -> list[str]:
    """The names that contain one of ``only``; all where nothing is asked for."""
    return [name for name in names if not only or any(part in name for part in only)]


class Cells:
    """The problems with their noise and their references, each solved once."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.made = {name: problems.PROBLEMS[name]() for name in args.problems}
        self.noise = {
            name: problems.noise(problem, args.points, args.seed)
            for name, problem in self.made.items()
        }
        self.ends: dict[tuple[str, float], np.ndarray] = {}

    def grid(self, name: str, n: int) -> np.ndarray:
        """n + 1 sigmas of grid A or B, without the 0."""
        return problems.GRIDS[name](n + 1, low=self.args.sigma_min)

    def grids(self, problem: str) -> list[str]:
        """Default grids are looked at on one problem only."""
        return [g for g in self.args.grids if g != "C" or problem in DEFAULT_GRIDS_ON]

    def record(self, problem: str, x: np.ndarray, sigma: float, *labels: Any) -> Record:
        """The errors of ends x of a solve from ``sigma``; labels: library, method, grid, budget."""
        key = (problem, round(sigma, 6))
        if key not in self.ends:
            self.ends[key] = problems.reference(self.made[problem], self.noise[problem], sigma)
        found = problems.errors(self.made[problem], x, self.ends[key])
        return Record(problem, *labels, found["rms"], found["median"])


def ours_cells(cells: Cells) -> Iterator[Record]:
    """Every row of our table."""
    args = cells.args
    for name in tqdm(wanted(list(ours.TABLE), args.only), desc="sdejax"):
        sampler = ours.TABLE[name]
        most = ours.steps(sampler, max(args.budgets))
        for problem, made in cells.made.items():
            for grid in cells.grids(problem):
                for budget in args.budgets:
                    steps = ours.steps(sampler, budget)
                    if steps < 1:
                        continue
                    if grid == "C":
                        ts, process = ours.default_grid(steps)
                    else:
                        ts, process = cells.grid(grid, steps), "edm"
                    z = cells.noise[problem]
                    x = ours.run(sampler, made, z, ts, process=process, most=most)
                    sigma = ours.first_sigma(process) if grid == "C" else float(ts[0])
                    yield cells.record(problem, x, sigma, "sdejax", name, grid, budget)


def peer_cells(cells: Cells) -> Iterator[Record]:
    """k-diffusion and diffusers; on grid C diffusers alone, k-diffusion's own grid being A."""
    from benchmarks import peers

    args = cells.args
    for name in tqdm(wanted(list(peers.PEERS), args.only), desc="peers"):
        peer = peers.PEERS[name]
        library = "k-diffusion" if name in peers.K_DIFFUSION else "diffusers"
        for problem, made in cells.made.items():
            z = cells.noise[problem]
            for grid in cells.grids(problem):
                for budget in args.budgets:
                    if grid == "C" and (library == "k-diffusion" or "bh1" in name):
                        continue  # bh1 gives NaN on a grid that ends at 0
                    if grid == "C":
                        x, sigma, nfe = peers.run_own(name, made, z, budget)
                    else:
                        n = (budget - 1) // peer.evaluations
                        if n < 1:
                            continue
                        sigmas = np.append(cells.grid(grid, n), 0.0)
                        sigma = float(sigmas[0])
                        x, nfe = peers.run(peer, made, z, sigmas)
                    if nfe > budget:
                        raise RuntimeError(f"{name}: {nfe} evaluations in a budget of {budget}")
                    yield cells.record(problem, x, sigma, library, name, grid, budget)


def fitted_cells(cells: Cells, costs: list[dict[str, Any]]) -> Iterator[Record]:
    """Methods fitted to a problem, there and elsewhere; what they took goes to ``costs``."""
    args, sigma = cells.args, ours.first_sigma("edm")
    methods = wanted(fitted.METHODS, args.only)
    for source in [p for p in fitted.TRANSFER if p in cells.made and methods]:
        problem, pairs_of = cells.made[source], fitted.examples(cells.made[source], args.seed)
        costs.append({"problem": source, "method": "pairs", **_cost(pairs_of)})
        targets = [p for p in (source, fitted.TRANSFER[source]) if p in cells.made]
        for budget in tqdm([b for b in args.budgets if b <= FIT_UP_TO], desc=f"fit {source}"):
            for method in methods:
                fit = fitted.FITS[method](problem, pairs_of.pairs, budget)
                costs.append({"problem": source, "method": method, "budget": budget, **_cost(fit)})
                for target in targets:
                    x = fit.solve(cells.made[target], cells.noise[target])
                    grid = f"fit {source}"
                    yield cells.record(target, x, sigma, "sdejax", method, grid, budget)


def _cost(made: Any) -> dict[str, float]:
    return {"seconds": round(made.seconds, 1), "evaluations": made.evaluations}


def floors(cells: Cells) -> dict[str, dict[str, float]]:
    """The error of the exact flow to sigma_min and a denoising step from there."""
    found = {}
    for name, problem in cells.made.items():
        z, sigma = cells.noise[name], ours.first_sigma("edm")
        x = problems.flow(problem, z, sigma, low=cells.args.sigma_min).x
        record = cells.record(name, x, sigma, "", "", "", 0)
        found[name] = {"rms": record.rms, "median": record.median}
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    args = options(argv)
    if args.parity:
        from benchmarks.parity import parity

        sections, data = parity(args)
        _save(args.out, "parity", "Parity", report.provenance(), sections, data)
        return
    if args.redraw:
        saved = json.loads((args.out / "accuracy.json").read_text())
        _accuracy(args.out, saved["provenance"], standings.unpacked(saved["data"]))
        return
    origin = report.provenance()  # of the code that runs, not of what it may become meanwhile
    cells, records, costs = Cells(args), [], []
    found = Found(records, args.budgets, floors(cells), costs)
    sources = [ours_cells(cells)]
    sources += [] if args.no_peers else [peer_cells(cells)]
    written = time.monotonic()
    for record in chain(*sources, fitted_cells(cells, costs)):
        records.append(record)
        if args.out and time.monotonic() - written > SAVE_EVERY:
            _accuracy(args.out, origin, found)
            written = time.monotonic()
    if args.out:
        _accuracy(args.out, origin, found)
    else:
        print("\n".join(standings.sections(found)))


def _accuracy(out: Path, origin: str, found: Found) -> None:
    sections, data = standings.sections(found), standings.packed(found)
    _save(out, "accuracy", "Accuracy per evaluation", origin, sections, data)
    standings.picture(out / "accuracy.png", found)


def _save(
    out: Path | None, name: str, title: str, origin: str, sections: list[str], data: Any
) -> None:
    if out is None:
        print("\n".join(sections))
        return
    report.write(out, name, title, sections, data, origin)
    print(f"wrote {out / name}.md")


if __name__ == "__main__":
    main()
