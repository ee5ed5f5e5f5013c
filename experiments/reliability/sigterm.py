"""SIGTERM in every phase of ``sdejax train``: saved or nothing to lose, exit code 143, in time.

A straight run keeps each of its steps. A run that is stopped may leave any of them: its bits must
be those of the straight run, no step that was taken may be missing, and the same command must go
on to the same last bits.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from experiments.reliability.base import Outcome
from experiments.reliability.forks import Forks
from experiments.reliability.training import MODULE, digests_of
from sdejax.train.catalog import all_steps

# phase -> how many seconds after its start the signal comes, at most
PHASES = {
    "start-up": 0.5, "compilation": 1.0, "training": 0.2, "evaluation": 0.2, "sampling": 0.5,
    "saving": 0.05, "final report": 0.5,
}  # fmt: skip
EXIT_CODE, LAST, STEP = 143, 24, 0.05
LIMIT = 5.0 + STEP  # seconds
COMMON = (
    f"--config.train.steps={LAST}", "--config.train.log_every=1", "--config.train.eval_every=8",
    "--config.train.sample_every=8", "--config.train.eval_batches=50",
)  # fmt: skip
STRAIGHT = ["--config.train.checkpoint_every=1", "--config.train.keep=100", *COMMON]
STOPPED = ["--config.train.checkpoint_every=8", *COMMON]


def scenario(tries: int, folder: Path) -> Outcome:
    """``tries`` signals in each phase."""
    rng = np.random.default_rng(tries)
    found: Counter[str] = Counter()
    slowest: dict[str, float] = {}
    with Forks(folder / "cache", folder / "stderr", MODULE) as forks:
        forks.start("train", str(folder / "straight"), STRAIGHT).succeeds()
        expected = digests_of(folder / "straight", list(range(1, LAST + 1)))
        jobs = [(phase, index) for index in range(tries) for phase in PHASES]
        for phase, index in tqdm(jobs, desc="SIGTERM", unit="signal", leave=False):
            workdir = folder / f"{phase}_{index}".replace(" ", "_")
            life = forks.start("train_slowly", str(workdir), STOPPED, phase == "compilation")
            life.until(f"phase {phase}")
            time.sleep(rng.uniform(0.0, PHASES[phase]))
            life.signal(signal.SIGTERM)
            began = time.monotonic()
            code = life.end()
            seconds = time.monotonic() - began
            slowest[phase] = max(slowest.get(phase, 0.0), seconds)
            found["late"] += seconds > LIMIT
            found["wrong code"] += code != EXIT_CODE
            found += _left(workdir, life.said, expected)
            found["not resumed"] += forks.start("train", str(workdir), STOPPED).end() != 0
            found["other bits"] += digests_of(workdir, [LAST])[LAST] != expected[LAST]
    faults = ("late", "wrong code", "wrong bits", "not resumed", "other bits")
    times = ", ".join(f"{phase} {seconds:.2f}" for phase, seconds in slowest.items())
    counts = "".join(f"; {found[fault]} {fault}" for fault in faults if found[fault])
    return Outcome(
        "SIGTERM in each phase", len(jobs), found["lost"], 0, sum(found[f] for f in faults),
        max(slowest.values()),
        f"exit code 143 and the same bits after the next start, {tries} of {tries} in each phase; "
        f"seconds until the end, at most: {times}{counts}",
    )  # fmt: skip


def _left(workdir: Path, said: list[str], expected: dict[int, dict[str, str]]) -> Counter[str]:
    """Compare what a stopped run left with the straight one."""
    steps = all_steps(workdir / "checkpoints")
    taken = max((int(line.split()[1]) for line in said if line.startswith("step ")), default=0)
    bits = digests_of(workdir, steps) if steps else {}
    wrong = sum(bits[step] != expected[step] for step in steps)
    return Counter({"lost": int(taken > max(steps, default=0)), "wrong bits": wrong})
