"""Ten steps, SIGKILL, ten more: the same bits as twenty steps without an interruption.

Compared are parameters, optimizer, moving average, step, key and the position in the data, for a
replicated state (pmap) and for one that is sharded over two devices (jit).
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from experiments.reliability.base import Outcome
from experiments.reliability.forks import Forks
from experiments.reliability.training import MODULE, digests_of
from sdejax.train.catalog import all_steps

MODES = {
    "pmap": ("--config.parallel=pmap",),
    "jit": ("--config.parallel=jit", "--config.fsdp=2"),
}
LAST = 20
SCHEDULE = (
    f"--config.train.steps={LAST}", "--config.train.checkpoint_every=10",
    "--config.train.eval_every=1000", "--config.train.sample_every=0",
)  # fmt: skip


def scenario(tries: int, folder: Path) -> Outcome:
    """``tries`` kills in each mode, each compared with the run that was left alone."""
    lost = wrong = leaves = 0
    rng = np.random.default_rng(tries)
    with Forks(folder / "cache", folder / "stderr", MODULE, devices=2) as forks:
        for mode, words in MODES.items():
            options = [*SCHEDULE, *words]
            straight = folder / f"{mode}_straight"
            forks.start("train", str(straight), options).succeeds()
            expected = digests_of(straight, [LAST])[LAST]
            leaves = len(expected)
            for index in tqdm(range(tries), desc=f"resume {mode}", unit="kill", leave=False):
                workdir = folder / f"{mode}_{index}"
                life = forks.start("train_until_saved", str(workdir), options, 10)
                life.until("saved")
                time.sleep(rng.uniform(0.0, 0.1))
                life.signal(signal.SIGKILL)
                wrong += life.end() != -signal.SIGKILL
                lost += all_steps(workdir / "checkpoints") != [10]
                wrong += forks.start("train", str(workdir), options).end() != 0
                found = digests_of(workdir, [LAST])[LAST]
                wrong += sum(found.get(name) != value for name, value in expected.items())
                wrong += len(found) != leaves
    return Outcome(
        "20 steps = 10 + SIGKILL + 10", 2 * tries, lost, 0, wrong,
        notes=f"pmap and jit, {tries} each; equal sha256 of all {leaves} parts of the state, the "
        "position in the data among them",
    )  # fmt: skip
