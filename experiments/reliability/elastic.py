"""One run on 8, 4, 1 and 8 devices, on two processes, one and two, with pmap and with jit.

Each leg resumes what the leg before saved. At each hand-over every bit of the state is compared;
each example of each batch has to be the one that a run in one go is fed with; and the loss of every
step has to be that of the run in one go, to 1e-6 of its value: sums in another order leave no more.
"""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from experiments.reliability.base import Outcome
from experiments.reliability.forks import Forks
from experiments.reliability.pair import COMMANDS, free_port, place, train

STEPS, TOLERANCE, HEARTBEAT = 4, 1e-6, 60


class Leg(NamedTuple):
    """A part of the run: layout, devices of each process, number of processes."""

    parallel: str
    devices: int
    processes: int = 1
    fsdp: int = 1


LEGS = (
    Leg("pmap", 8),
    Leg("jit", 4, fsdp=2),
    Leg("pmap", 1),
    Leg("jit", 8),
    Leg("pmap", 2, processes=2),
    Leg("jit", 1),
    Leg("jit", 2, processes=2),
)


def scenario(tries: int, folder: Path) -> Outcome:
    """The chain of all legs for ``tries`` seeds."""
    return chained(LEGS, range(tries), folder)


def chained(legs: tuple[Leg, ...], seeds: range, folder: Path) -> Outcome:
    """Train leg after leg, and once in one go on the devices of the first.

    Args:
        legs: ``STEPS`` steps each.
        seeds: one chain each.
        folder: where to work.
    """
    wrong, handovers, apart = 0, 0, 0.0
    files = [folder / "stderr0", folder / "stderr1"]
    with Forks(folder / "cache", files[0], COMMANDS) as one, Forks(
        folder / "cache", files[1], COMMANDS
    ) as two:  # fmt: skip
        for seed in tqdm(seeds, desc="elastic", unit="seed", leave=False):
            home = folder / f"seed{seed}"
            (straight,) = _run(legs[0], len(legs) * STEPS, seed, home / "straight", (one,))
            before = None
            for number, leg in enumerate(tqdm(legs, desc="legs", unit="leg", leave=False)):
                forks = (one, two)[: leg.processes]
                seen = _run(leg, (number + 1) * STEPS, seed, home / "chain", forks)
                wrong += before is not None and any(s["at_start"] != before for s in seen)
                wrong += any(s["at_end"] != seen[0]["at_end"] for s in seen)
                handovers += before is not None
                before = seen[0]["at_end"]
                fed = [
                    list(chain.from_iterable(r))
                    for r in zip(*(s["rows"] for s in seen), strict=True)
                ]
                wrong += fed[:STEPS] != straight["rows"][number * STEPS :][:STEPS]
            losses = [_losses(home / name) for name in ("chain", "straight")]
            apart = max(apart, _apart(*losses))
    wrong += not apart <= TOLERANCE
    layouts = ", ".join(
        f"{leg.parallel} {leg.devices}" + (" on each of two processes" if leg.processes > 1 else "")
        for leg in legs
    )
    return Outcome(
        "other devices and processes", handovers, 0, 0, wrong,
        notes=f"{layouts}; losses at most {apart:.1e} from those of a run in one go",
    )  # fmt: skip


def _run(
    leg: Leg, steps: int, seed: int, workdir: Path, forks: tuple[Forks, ...]
) -> list[dict[str, Any]]:
    """Train up to a step; what each process saw."""
    words = train(
        workdir, f"--config.train.steps={steps}", f"--config.seed={seed}",
        f"--config.parallel={leg.parallel}", f"--config.fsdp={leg.fsdp}",
    )  # fmt: skip
    port, several = free_port(), len(forks) > 1
    outs = [workdir.parent / f"seen{index}.json" for index in range(len(forks))]
    workdir.mkdir(parents=True, exist_ok=True)
    lives = [
        fork.start(
            "observed", str(outs[index]), leg.devices, *words,
            *(place(index, port, HEARTBEAT) if several else ()),
        )
        for index, fork in enumerate(forks)
    ]  # fmt: skip
    if codes := [code for life in lives if (code := life.end()) != 0]:
        ends = [fork.errors.read_text()[-2000:] for fork in forks]
        raise RuntimeError(f"{leg} ended with {codes}: {ends}")
    return [json.loads(out.read_text()) for out in outs]


def _joined(rows: list[list[list[str]]]) -> list[list[str]]:
    """The batches of all processes: their rows one after the other."""
    return [list(chain.from_iterable(shares)) for shares in zip(*rows, strict=True)]


def _losses(workdir: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def _apart(one: dict[int, float], other: dict[int, float]) -> float:
    """The largest relative difference; infinite where a step is missing."""
    if one.keys() != other.keys():
        return float("inf")
    return max(abs(one[step] / other[step] - 1.0) for step in other)
