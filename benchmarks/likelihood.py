"""Likelihoods of the probability-flow ODE against flow_matching and k-diffusion.

Each library is held against the closed-form density of its own model (``densities``), in bits per
dimension, on the same points. Parts: ``accuracy``, error against evaluations; ``traces``, spread of
stochastic traces; ``errors``, reported standard errors; ``cost``, traces in forward evaluations;
``mixture`` and ``network``, error against time. The last three are paired and pinned to one core,
as in ``speed``.

    python -m benchmarks.likelihood --out benchmarks/results
    python -m benchmarks.likelihood --parts cost mixture --clock cpu --out benchmarks/results
    python -m benchmarks.likelihood --parts accuracy --no-peers --points 8
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

jax.config.update("jax_enable_x64", True)

import numpy as np  # noqa: E402
from tqdm import tqdm  # noqa: E402

from benchmarks import densities, likelihood_ours, likelihood_report, report  # noqa: E402
from benchmarks import likelihood_jobs as what  # noqa: E402
from benchmarks.likelihood_ours import METHODS  # noqa: E402
from benchmarks.problems import PROBLEMS  # noqa: E402
from benchmarks.speed import Figure, Side, measure, workers  # noqa: E402

TIMED = {"mixture": ("D16",), "network": ("MLP-S", "MLP-S native")}
PARTS = ("accuracy", "traces", "errors", "cost", *TIMED)
TOLERANCES = tuple(10.0 ** (-k / 4) for k in range(12, 29))  # 1e-3 to 1e-7
PEER_TOLERANCES = tuple(10.0 ** (-k / 2) for k in range(6, 15))
PAIRED_AT = (1e-3, 1e-4, 1e-5, 1e-6)  # tolerances of a peer, on the mixture with the exact trace
DEFAULTS = {"flow_matching": 1e-5, "k-diffusion": 1e-4}  # theirs, which is where all else is
SAVE_EVERY = 120.0  # seconds

MEASURED = ("ratio", "iqr", "seconds", "rounds", "attempts")

Row = dict[str, Any]


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.likelihood",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, help="folder for likelihood.md, .json and .png; printed if not given")
    add("--parts", nargs="+", default=list(PARTS), choices=PARTS, help="others stay as they are")
    add("--problems", nargs="+", default=["G2", "D16"], choices=["G2", "D16", "D64"])
    add("--only", nargs="+", default=[], help="methods of ours with one of these in their name")
    add("--points", type=int, default=128, help="of accuracy")
    add("--examples", type=int, default=256, help="of errors")
    add("--peer-points", type=int, default=64, help="the first ones, solved one by one")
    add("--no-peers", action="store_true", help="without torch: accuracy, traces and errors")
    add("--traces-of", nargs="+", default=["D16", "D64"], choices=["G2", "D16", "D64"])
    add("--size", type=int, default=48, help="points of traces")
    add("--dimension", type=int, default=1024, help="of errors")
    add("--rounds", type=int, default=11)
    add("--core", type=int, default=1, help="the core that both workers are pinned to")
    add("--clock", choices=["wall", "cpu"], default="wall", help="cpu: on a machine that is busy")
    return parser.parse_args(argv)


def ours_accuracy(args: argparse.Namespace) -> Iterator[Row]:
    """Every solver, coordinate and process of ours with the exact trace."""
    for name in args.problems:
        make = PROBLEMS[name]
        problem = make()
        x = densities.draw(problem, args.points, seed=1)
        exact = {
            process: densities.model_log_density(problem, x, *likelihood_ours.levels(process))
            for process in likelihood_ours.PROCESSES
        }
        chosen = [m for m in METHODS if not args.only or any(part in str(m) for part in args.only)]
        for method in tqdm(chosen, desc=f"sdejax {name}"):
            for tolerance in TOLERANCES:
                found = likelihood_ours.run(method, make, x, tolerance)
                labels = {"problem": name, "library": "sdejax", "method": str(method)}
                calls = {"evaluations": float(np.median(found.nfe)), "most": int(found.nfe.max())}
                error = densities.errors(found.log_p, exact[method.process], x.shape[1])
                yield {**labels, "batch": 1, "tolerance": tolerance, **calls, **error}


def peers_accuracy(args: argparse.Namespace) -> Iterator[Row]:
    """The peers one example at a time, and with the steps that a batch of 512 shares."""
    from benchmarks import likelihood_peers as peers

    for name in args.problems:
        problem = PROBLEMS[name]()
        for library, levels in peers.LEVELS.items():
            exact_trace = library == "flow_matching"
            for batch in (1, what.BATCH):
                x = densities.draw(problem, args.peer_points if batch == 1 else batch, seed=1)
                exact = densities.model_log_density(problem, x, *levels)
                if not exact_trace:  # its one probe, held fixed
                    exact = _solved(peers, library, problem, x, 1e-10, batch)[0]
                for tolerance in tqdm(PEER_TOLERANCES, desc=f"{library} {name} {batch}"):
                    log_p, calls = _solved(peers, library, problem, x, tolerance, batch)
                    yield {
                        "problem": name,
                        "library": library,
                        "method": "exact trace" if exact_trace else "one probe held fixed",
                        "batch": batch,
                        "tolerance": tolerance,
                        "evaluations": float(np.median(calls)),
                        "most": int(np.max(calls)),
                        **densities.errors(log_p, exact, x.shape[1]),
                    }
            x = densities.draw(problem, what.BATCH, seed=1)
            exact = densities.model_log_density(problem, x, *levels)
            log_p, calls = peers.run(library, problem, x, 1e-5, exact=False)
            yield {
                "problem": name,
                "library": library,
                "method": "one probe",
                "batch": what.BATCH,
                "tolerance": 1e-5,
                "evaluations": calls,
                "most": calls,
                **densities.errors(log_p, exact, x.shape[1]),
            }


def _solved(peers: Any, library: str, problem: Any, x: np.ndarray, tolerance: float, batch: int):
    """log p of all points, and the calls of each solve of ``batch`` points."""
    found = [
        peers.run(library, problem, x[i : i + batch], tolerance, exact=True, seed=i)
        for i in range(0, len(x), batch)
    ]
    return np.concatenate([log_p for log_p, _ in found]), [calls for _, calls in found]


def matched(ours: Sequence[Row], theirs: Row) -> Row:
    """Our solve of the fewest evaluations with neither median nor rms error above a peer's."""
    enough = [r for r in ours if r["median"] <= theirs["median"] and r["rms"] <= theirs["rms"]]
    return max(enough, key=lambda r: r["tolerance"])


def times(pool: dict[str, Any], case: str, rounds: int) -> Iterator[Row]:
    """Paired times at the same error, for a peer at some tolerances."""
    ours = pool["jax"].ask(f"accuracy {case}")
    for library, default in DEFAULTS.items():
        for theirs in pool["torch"].ask(f"accuracy {library} {case.split()[0]}"):
            at = theirs["tolerance"]
            for trace in what.TRACES:
                if trace == "exact" and library == "k-diffusion":
                    continue
                wanted = PAIRED_AT if (case, trace) == ("D16", "exact") else (default,)
                if any(np.isclose(at, each) for each in wanted):
                    found = paired(pool, case, trace, library, matched(ours, theirs), at, rounds)
                    yield {**found, "theirs": theirs}


def paired(
    pool: dict[str, Any], case: str, trace: str, library: str, ours: Row, theirs: float, rounds: int
) -> Row:
    """One ratio: our solve against that of a peer at its tolerance ``theirs``.

    A peer's probes are as many solves. With the exact trace of the network a solve takes so long
    that there are at most five rounds.
    """
    one = "exact" if trace == "exact" else "1"
    top = Side("jax", what.job("sdejax", case, trace, ours["tolerance"]))
    bottom = Side("torch", what.job(library, case.split()[0], one, theirs))
    figure = Figure(f"{case} {trace} {library}", top, bottom, 0.5, 4.0 if trace == "4" else 1.0)
    long = trace == "exact" and case != "D16"
    found = measure(pool, figure, min(rounds, 5) if long else rounds, attempts=1, best_of=1)
    labels = {"case": case, "trace": trace, "library": library, "solves": figure.units}
    return {**labels, "ours": ours, **{k: found[k] for k in MEASURED}}


def costs(pool: dict[str, Any], rounds: int) -> Iterator[Row]:
    """An evaluation with its trace over one without."""
    for name, traces in what.COST_OF.items():
        for trace in traces:
            top, bottom = (Side("jax", f"cost {name} {k}") for k in (trace, "0"))
            limit = 4.5 if trace == "4" else None
            found = measure(pool, Figure(f"{name} {trace}", top, bottom, limit), rounds)
            yield {
                "network": name,
                "trace": trace,
                **{k: found[k] for k in MEASURED},
            }


def part(name: str, args: argparse.Namespace, pool: dict[str, Any]) -> Iterator[Row]:
    """The rows of one part."""
    from benchmarks import likelihood_traces as traces

    if name == "accuracy":
        yield from ours_accuracy(args)
        if not args.no_peers:
            yield from peers_accuracy(args)
    elif name == "traces":
        yield from traces.spreads(tuple(args.traces_of), args.size)
    elif name == "errors":
        yield traces.standard_errors(args.examples, args.dimension)
    elif name == "cost":
        yield from costs(pool, args.rounds)
    else:
        for case in TIMED[name]:
            yield from times(pool, case, args.rounds)


def run(args: argparse.Namespace, pool: dict[str, Any]) -> dict[str, Any]:
    """Measures the parts asked for; those measured before are kept."""
    saved = args.out and args.out / "likelihood.json"
    data = json.loads(saved.read_text())["data"] if saved and saved.exists() else {}
    for name in args.parts:
        before, written = os.getloadavg()[0], time.monotonic()
        rows: list[Row] = []
        data[name] = {"provenance": report.provenance(), "clock": args.clock, "rows": rows}
        for row in tqdm(part(name, args, pool), desc=name):
            rows.append(row)
            data[name]["load"] = f"{before:.1f} before and {os.getloadavg()[0]:.1f} after"
            if args.out and time.monotonic() - written > SAVE_EVERY:
                _write(args.out, data)
                written = time.monotonic()
        if args.out:
            _write(args.out, data)
    return data


def _write(out: Path, data: dict[str, Any]) -> None:
    origin = "Each part has its own command and commit, below.\n"
    sections = likelihood_report.sections(data)
    report.write(out, "likelihood", "Likelihood", sections, data, origin)
    likelihood_report.picture(out / "likelihood.png", data)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    args = options(argv)
    if {"cost", *TIMED} & set(args.parts):
        with tempfile.TemporaryDirectory() as folder:
            os.environ[what.WEIGHTS] = str(Path(folder) / "weights.npz")
            with workers(args.core, args.clock, "likelihood_worker") as pool:
                if "network" in args.parts:
                    pool["jax"].ask("train")
                data = run(args, pool)
    else:
        data = run(args, {})
    if args.out is None:
        print("\n".join(likelihood_report.sections(data)))
    else:
        print(f"wrote {args.out}/likelihood.md")


if __name__ == "__main__":
    main()
