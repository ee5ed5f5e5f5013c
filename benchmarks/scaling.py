"""Memory and throughput of every layout of the train step on 1, 2, 4 and 8 devices.

Memory is exact: bytes of the state that each device holds, from its shards, and XLA's own count of
what a step needs besides. Steps are timed in turn over all layouts, at one global batch.

On a machine without accelerators the devices are virtual ones of the CPU and share its cores: the
times then say what a layout costs, not what more devices bring.

    python -m benchmarks.scaling --out benchmarks/results
    python -m benchmarks.scaling --networks MLP --layouts pmap fsdp --devices 8 --rounds 1
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()
os.environ.setdefault("PJRT_NPROC", "32")  # threads enough for collectives over eight devices

import jax
import numpy as np

from benchmarks import report
from benchmarks.nets_jax import CNNS
from sdejax import prediction, processes
from sdejax.denoiser import init_linen, linen_functions, make_model
from sdejax.losses import make_loss
from sdejax.nets.mlp import MLP
from sdejax.train.optimizer import make_optimizer
from sdejax.train.parallel import Parallel, parallel, throttle
from sdejax.train.state import TrainState, init_state


class Job(NamedTuple):
    """A network and what it is trained with."""

    network: Any
    event: tuple[int, ...]
    batch: int
    steps: int  # in one timing


JOBS = {
    "MLP": Job(MLP(hidden=(512,) * 4), (16,), 512, 10),
    "CNN-S": Job(CNNS(), (32, 32, 3), 16, 1),
}
LAYOUTS = ("pmap", "jit", "fsdp")
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


class Layout(NamedTuple):
    """How the step is laid out."""

    mode: str
    devices: int
    fsdp: int

    @property
    def name(self) -> str:
        """As in the table."""
        return f"fsdp {self.fsdp}" if self.fsdp > 1 else self.mode


def layouts(kinds: list[str], devices: list[int]) -> list[Layout]:
    """All that are asked for, the least first."""
    found = []
    for n in devices:
        found += [Layout(mode, n, 1) for mode in ("pmap", "jit") if mode in kinds]
        found += [Layout("jit", n, k) for k in (2, 4, 8) if k <= n and "fsdp" in kinds]
    return found


def problem(job: Job) -> tuple[Any, Any, TrainState, dict[str, np.ndarray]]:
    """The loss, the optimizer, a state and a batch."""
    model = make_model(linen_functions(job.network)[0], prediction.eps, batched=True)
    tx = make_optimizer("adam", 1e-4)
    params = init_linen(jax.random.key(0), job.network, job.event)
    x = np.random.default_rng(0).normal(size=(job.batch, *job.event)).astype(np.float32)
    batch = {"x": x, "position": np.arange(job.batch, dtype=np.int32)}
    loss_fn = make_loss(model, processes.vp(), job.batch)
    return loss_fn, tx, init_state(params, tx, jax.random.key(1)), batch


def held(state: TrainState) -> int:
    """Bytes of the state on the device that holds most."""
    bytes_of: dict[Any, int] = {}
    for leaf in jax.tree.leaves(state._replace(key=jax.random.key_data(state.key))):
        for shard in leaf.addressable_shards:
            bytes_of[shard.device] = bytes_of.get(shard.device, 0) + shard.data.nbytes
    return max(bytes_of.values())


class Running(NamedTuple):
    """A layout at work."""

    parallel: Parallel
    state: TrainState
    batch: Any


def start(layout: Layout, job: Job, made: Any) -> tuple[Running, dict[str, Any]]:
    """The layout with its state in place, and what it takes."""
    loss_fn, tx, state, batch = made
    this = parallel(
        layout.mode, loss_fn, tx, 0.999, job.batch,
        devices=jax.devices()[: layout.devices], fsdp=layout.fsdp,
    )  # fmt: skip
    running = Running(this, this.place(state), this.place_batch(batch))
    compiled = this.step.lower(running.state, running.batch).compile()  # type: ignore[attr-defined]
    text, memory = compiled.as_text(), compiled.memory_analysis()
    counts = {name: len(re.findall(rf"= .* {name}(?:-start)?\(", text)) for name in COLLECTIVES}
    sizes = {
        "state": held(running.state),
        "temporary": memory.temp_size_in_bytes,
        "arguments": memory.argument_size_in_bytes,
    }
    return running, {**layout._asdict(), **sizes, "collectives": counts}


def steps(running: Running, n: int) -> tuple[Running, float]:
    """Seconds of n steps."""
    state, wait = running.state, throttle()
    begin = time.perf_counter()
    for _ in range(n):
        state, metrics = running.parallel.step(state, running.batch)
        wait(metrics)
    jax.block_until_ready(state.params)
    return running._replace(state=state), time.perf_counter() - begin


def measure(job: Job, wanted: list[Layout], rounds: int) -> list[dict[str, Any]]:
    """All layouts of a job, timed in turn after a first step that compiles."""
    made = problem(job)
    running, records = zip(*(start(layout, job, made) for layout in wanted), strict=True)
    warm = [steps(each, 1)[0] for each in running]
    seconds: list[list[float]] = [[] for _ in warm]
    for _ in range(rounds):
        for i, each in enumerate(warm):
            warm[i], spent = steps(each, job.steps)
            seconds[i].append(spent)
    for record, times in zip(records, seconds, strict=True):
        record["examples_per_second"] = job.batch * job.steps / statistics.median(times)
        relative = [t / first for t, first in zip(times, seconds[0], strict=True)]
        record["relative"] = statistics.median(relative)
    return list(records)


HEAD = [
    "layout", "devices", "state, MB a device", "temporary, MB a device", "communication",
    "examples/s", "time / first row",
]  # fmt: skip


def row(record: dict[str, Any]) -> list[str]:
    """A line of the table."""
    layout = Layout(*(record[name] for name in Layout._fields))
    talk = [f"{n} {name}" for name, n in record["collectives"].items() if n]
    return [
        layout.name, str(layout.devices), f"{record['state'] / 1e6:.3f}",
        f"{record['temporary'] / 1e6:.3f}", ", ".join(talk) or "none",
        report.number(record["examples_per_second"]), f"{record['relative']:.2f}",
    ]  # fmt: skip


def main() -> None:
    """Prints or writes the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description=__doc__.split("\n")[0]
    )
    add = parser.add_argument
    add("--out", type=Path, help="folder for scaling.md and scaling.json; printed if not given")
    add("--networks", nargs="+", choices=JOBS, default=list(JOBS))
    add("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    add("--devices", nargs="+", type=int, choices=(1, 2, 4, 8), default=[1, 2, 4, 8])
    add("--rounds", type=int, default=5)
    args = parser.parse_args()
    load, data, sections = os.getloadavg()[0], {}, []
    for name in args.networks:
        job = JOBS[name]
        data[name] = measure(job, layouts(args.layouts, args.devices), args.rounds)
        size = sum(leaf.size for leaf in jax.tree.leaves(problem(job)[2].params))
        sections += [
            f"## {name}: {size / 1e6:.3f} M parameters, Adam, batch {job.batch}\n",
            report.table(HEAD, map(row, data[name])),
        ]
    kind = jax.devices()[0].platform
    shared = f", which share {os.cpu_count()} cores: times say what a layout costs, no more"
    devices = f"{len(jax.devices())} {kind} devices{shared if kind == 'cpu' else ''}."
    busy = f"Load of the machine: {load:.1f} before, {os.getloadavg()[0]:.1f} after."
    sections.insert(0, f"{devices} {busy}\n")
    if args.out is None:
        print("\n".join(sections))
        return
    report.write(args.out, "scaling", "Layouts of the train step", sections, data)
    print(f"wrote {args.out}/scaling.md")


if __name__ == "__main__":
    main()
