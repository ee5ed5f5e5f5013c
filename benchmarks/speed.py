"""Speed of training and sampling: paired, pinned to one core, ratios only.

Two long-lived workers, one for each framework, are asked in turn over a pipe. A pair of answers,
each the best of three, gives one ratio; the order flips each round; the figure is the median of the
ratios over at least 11 rounds, with its interquartile range, measured anew where that exceeds 10 %
of the median. Jobs are compiled and warmed up before they are timed.

    python -m benchmarks.speed --out benchmarks/results --core 1
    python -m benchmarks.speed --only "MLP-S sample" --rounds 5
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from benchmarks import report
from benchmarks.jobs import GEMM, WORKLOADS, Workload

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
    "TQDM_DISABLE": "1",
}


class Side(NamedTuple):
    """A job of a worker."""

    worker: str  # "jax" or "torch"
    job: str


class Figure(NamedTuple):
    """A ratio that is measured, and the limit it is to keep; each time is over ``units``."""

    name: str
    top: Side
    bottom: Side
    limit: float | None
    units: float = 1.0  # the bottom's time counts so often


def figures() -> list[Figure]:
    """All ratios."""
    found = []
    for name, load in WORKLOADS.items():
        ours, diffrax = Side("jax", f"{name} sample"), Side("jax", f"{name} sample diffrax")
        train = Side("jax", f"{name} train")
        limit = 0.5 if name == "MLP-S" else 1.0
        found += [
            Figure(f"{name} train step / torch", train, Side("torch", f"{name} train"), 1.0),
            Figure(f"{name} sampling / torch", ours, Side("torch", f"{name} sample"), limit),
            Figure(f"{name} train step / by hand", train, _by_hand(train), 1.03),
            Figure(f"{name} sampling / by hand", ours, _by_hand(ours), 1.03),
            Figure(f"{name} diffrax / scan", diffrax, ours, 1.05),
            Figure(
                f"{name} loop overhead",
                ours,
                Side("jax", f"{name} forward"),
                1.03,
                load.sample_steps + 1,
            ),
        ]
    return found


def _by_hand(side: Side) -> Side:
    return Side(side.worker, f"{side.job} by hand")


class Worker:
    """A pinned process that is asked over its pipe: ``benchmarks.MODULE_KIND``."""

    def __init__(self, kind: str, core: int, clock: str = "wall", module: str = "worker") -> None:
        self.clock = clock

        def pin() -> None:
            if hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(0, {core})

        self.process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{module}_{kind}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**os.environ, **ENVIRONMENT},
            cwd=Path(__file__).parent.parent,
            preexec_fn=pin,
        )

    def ask(self, job: str, best_of: int = 3) -> Any:
        """Seconds, or the value that a job has instead."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        request = {"job": job, "best_of": best_of, "clock": self.clock}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker died of {job!r}; its message is above")
        answer = json.loads(line)
        if "missing" in answer:
            raise RuntimeError(f"no job {job!r}")
        return answer.get("seconds", answer.get("value"))

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait(timeout=60)


@contextlib.contextmanager
def workers(core: int, clock: str, module: str = "worker") -> Iterator[dict[str, Worker]]:
    """Both workers, on one core."""
    made = {kind: Worker(kind, core, clock, module) for kind in ("jax", "torch")}
    try:
        yield made
    finally:
        for worker in made.values():
            worker.close()


def measure(
    pool: dict[str, Worker], figure: Figure, rounds: int, attempts: int = 3, best_of: int = 3
) -> dict:
    """The median ratio of a figure with its interquartile range and the median seconds."""
    for side in (figure.top, figure.bottom):
        pool[side.worker].ask(side.job, 1)  # builds it
    for attempt in range(1, attempts + 1):  # noqa: B007, how many it took is reported
        pairs = []
        for i in range(rounds):
            order = (figure.top, figure.bottom) if i % 2 == 0 else (figure.bottom, figure.top)
            seconds = {side: pool[side.worker].ask(side.job, best_of) for side in order}
            pairs.append((seconds[figure.top], seconds[figure.bottom]))
        ratios = [top / (figure.units * bottom) for top, bottom in pairs]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        if high - low <= 0.1 * middle:
            break
    return {
        "name": figure.name,
        "ratio": middle,
        "iqr": high - low,
        "limit": figure.limit,
        "seconds": [statistics.median(side) for side in zip(*pairs, strict=True)],
        "jobs": [figure.top, figure.bottom],
        "rounds": rounds,
        "attempts": attempt,
    }


def roofline(pool: dict[str, Worker], found: Sequence[dict]) -> tuple[float, list[list[str]]]:
    """The best GEMM in FLOP/s of either framework, and what fraction of it each job reached."""
    best = min(pool[kind].ask("gemm", 20) for kind in pool)
    rate = 2.0 * GEMM**3 / best
    seconds = {}
    for figure in found:
        for (worker, job), value in zip(figure["jobs"], figure["seconds"], strict=True):
            seconds[worker, job] = min(value, seconds.get((worker, job), value))
    rows = []
    for (worker, job), value in sorted(seconds.items()):
        name, kind = job.split(" ", 1)
        work = _flops(WORKLOADS[name], kind)
        rows.append([job, worker, report.number(value), report.number(work / value / rate, 2)])
    return rate, rows


def _flops(load: Workload, kind: str) -> float:
    """Of one answer: a train step counts three forwards, sampling ends with a denoising step."""
    if kind.startswith("train"):
        return 3.0 * load.flops * load.batch * load.train_steps
    return load.flops * load.batch * (1 if kind == "forward" else load.sample_steps + 1)


def scaling(core: int, names: Sequence[str], rounds: int = 3) -> list[list[str]]:
    """Compile time and memory at 1000 steps against 10, each from a fresh worker."""
    rows = []
    for name in names:
        seconds: dict[int, list[float]] = {10: [], 1000: []}
        temporary, resident = {}, {}
        for n in seconds:
            worker = Worker("jax", core)
            resident[n] = worker.ask(f"{name} memory {n}")
            for _ in range(rounds):
                value = worker.ask(f"{name} compile {n}")
                seconds[n].append(value["seconds"])
                temporary[n] = value["temp_bytes"]
            worker.close()
        ratio = min(seconds[1000]) / min(seconds[10])
        rows.append(
            [
                name,
                report.number(min(seconds[10])),
                report.number(ratio),
                f"{temporary[10] / 2**10:.0f}, {temporary[1000] / 2**10:.0f}",
                f"{resident[10] / 2**10:.0f}, {resident[1000] / 2**10:.0f}",
            ]
        )
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, help="folder for NAME.md and NAME.json; printed if not given")
    add("--only", nargs="+", default=[], help="figures with one of these in their name")
    add("--rounds", type=int, default=11)
    add("--core", type=int, default=1, help="the core that both workers are pinned to")
    add("--clock", choices=["wall", "cpu"], default="wall", help="cpu: on a machine that is busy")
    add("--name", default="speed", help="of the files that are written")
    add("--no-scaling", action="store_true", help="without compile time and memory")
    args = parser.parse_args(argv)
    load = os.getloadavg()[0]
    chosen = [f for f in figures() if not args.only or any(o in f.name for o in args.only)]
    with workers(args.core, args.clock) as pool:
        found = [measure(pool, figure, args.rounds) for figure in tqdm(chosen, desc="speed")]
        rate, reached = roofline(pool, found)
    head = ["figure", "ratio", "IQR", "limit", "seconds", "of", "rounds x attempts"]
    rows = [
        [
            f["name"],
            report.number(f["ratio"]),
            report.number(f["iqr"], 2),
            f"{f['limit']}",
            *(report.number(s) for s in f["seconds"]),
            f"{f['rounds']} x {f['attempts']}",
        ]
        for f in found
    ]
    gemm = (
        f"## Fraction of the roofline\n\nBest {GEMM}^3 float32 product: {rate / 1e9:.1f} GFLOP/s\n"
    )
    sections = [
        f"Ratios of {args.clock} times on one pinned core; below 1 the first is faster.\n",
        f"Load of the machine, the benchmark's 1 included: {load:.1f} before and "
        f"{os.getloadavg()[0]:.1f} after.\n",
        report.table(head, rows),
        gemm,
        report.table(["job", "worker", "seconds", "fraction"], reached),
    ]
    data: dict[str, Any] = {"figures": found, "gemm": rate}
    if not args.no_scaling:
        names = [n for n in WORKLOADS if not args.only or any(n in o for o in args.only)]
        scaled = scaling(args.core, names)
        title = ["sampling", "compile CPU s, N = 10", "N = 1000 / 10", "temporary KiB", "peak MiB"]
        sections += ["## Steps N = 10 against 1000\n", report.table(title, scaled)]
        data["scaling"] = scaled
    if args.out is None:
        print("\n".join(sections))
        return
    report.write(args.out, args.name, "Speed on one core", sections, data)
    print(f"wrote {args.out}/{args.name}.md")


if __name__ == "__main__":
    main()
