"""SIGTERM in every phase of ``sdejax train``: saved or nothing to lose, exit code 143, in time.

A straight run keeps each of its steps. A run that is stopped may leave any of them: its bits must
be those of the straight run, no step that was taken may be missing, and the same command must go
on to the same last bits.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from experiments.reliability.base import Outcome
from experiments.reliability.forks import Forks
from experiments.reliability.training import MODULE, digests_of
from sdejax.train.catalog import all_steps

# phase -> how many seconds after its start the signal comes, at most; shorter than the phase lasts
PHASES = {
    "start-up": 0.5, "compilation": 1.0, "training": 0.2, "evaluation": 0.2, "sampling": 0.5,
    "saving": 0.05, "final report": 0.15,
}  # fmt: skip
FAULTS = ("late", "wrong code", "no message", "wrong bits", "not resumed", "other bits")
WORKERS = 2
EXIT_CODE, LAST, STEP = 143, 24, 0.05
LIMIT = 5.0 + STEP  # seconds
COMMON = (
    f"--config.train.steps={LAST}", "--config.train.log_every=1", "--config.train.eval_every=8",
    "--config.train.sample_every=8", "--config.train.eval_batches=50",
)  # fmt: skip
STRAIGHT = ["--config.train.checkpoint_every=1", "--config.train.keep=100", *COMMON]
STOPPED = ["--config.train.checkpoint_every=8", *COMMON]


def scenario(tries: int, folder: Path, limit: float = LIMIT) -> Outcome:
    """``tries`` signals in each phase; two runs at a time.

    Args:
        tries: how many in each phase.
        folder: where to work.
        limit: seconds from the signal to the end; on an idle machine.
    """
    jobs = [(phase, index) for index in range(tries) for phase in PHASES]
    found: Counter[str] = Counter()
    slowest = dict.fromkeys(PHASES, 0.0)
    with contextlib.ExitStack() as stack:
        errors = (folder / f"stderr_{index}" for index in range(WORKERS))
        pool = [stack.enter_context(Forks(folder / "cache", path, MODULE)) for path in errors]
        pool[0].start("train", str(folder / "straight"), STRAIGHT).succeeds()
        expected = digests_of(folder / "straight", list(range(1, LAST + 1)))

        def several(worker: int) -> None:
            for phase, index in jobs[worker::WORKERS]:
                workdir = folder / f"{phase}_{index}".replace(" ", "_")
                counts, seconds = once(pool[worker], workdir, phase, index, expected)
                counts["late"] += seconds > limit
                found.update(counts)
                slowest[phase] = max(slowest[phase], seconds)
                bar.update()

        bar = stack.enter_context(tqdm(total=len(jobs), desc="SIGTERM", leave=False))
        with ThreadPoolExecutor(WORKERS) as threads:
            list(threads.map(several, range(WORKERS)))
    times = ", ".join(f"{phase} {seconds:.2f}" for phase, seconds in slowest.items())
    counts = "".join(f"; {found[fault]} {fault}" for fault in FAULTS if found[fault])
    return Outcome(
        "SIGTERM in each phase", len(jobs), found["lost"], 0, sum(found[f] for f in FAULTS),
        max(slowest.values()),
        f"{tries} in each phase: exit code 143, and the same bits after the next start; seconds "
        f"until the end, at most: {times}{counts}",
    )  # fmt: skip


def once(
    forks: Forks, workdir: Path, phase: str, seed: int, expected: dict[int, dict[str, str]]
) -> tuple[Counter[str], float]:
    """Stop one run in a phase, and start it again.

    Args:
        forks: of ``training``.
        workdir: of the run.
        phase: of ``PHASES``.
        seed: of the moment of the signal.
        expected: digests of each step of the straight run.

    Returns:
        How many faults of each kind, and the seconds from the signal to the end.
    """
    rng = np.random.default_rng(seed)
    before = forks.errors.stat().st_size
    life = forks.start("train_slowly", str(workdir), STOPPED, phase == "compilation")
    life.until(f"phase {phase}")
    time.sleep(rng.uniform(0.0, PHASES[phase]))
    life.signal(signal.SIGTERM)
    began = time.monotonic()
    code = life.end()
    seconds = time.monotonic() - began
    said = forks.errors.read_bytes()[before:].decode(errors="replace")
    found = _left(workdir, life.said, expected)
    # Before the run has begun the signal itself ends the process, which a shell shows as 143 too.
    found["wrong code"] += code not in (
        (EXIT_CODE, -signal.SIGTERM) if phase == "start-up" else (EXIT_CODE,)
    )
    found["no message"] += code == EXIT_CODE and "sdejax: stopped by SIGTERM" not in said
    found["no message"] += "Traceback" in said
    found["not resumed"] += forks.start("train", str(workdir), STOPPED).end() != 0
    found["other bits"] += digests_of(workdir, [LAST])[LAST] != expected[LAST]
    return found, seconds


def _left(workdir: Path, said: list[str], expected: dict[int, dict[str, str]]) -> Counter[str]:
    """Compare what a stopped run left with the straight one."""
    steps = all_steps(workdir / "checkpoints")
    taken = max((int(line.split()[1]) for line in said if line.startswith("step ")), default=0)
    bits = digests_of(workdir, steps) if steps else {}
    wrong = sum(bits[step] != expected[step] for step in steps)
    return Counter({"lost": int(taken > max(steps, default=0)), "wrong bits": wrong})
