"""Kill a process that saves without a pause, again and again, and look at what is left.

Every life restores the newest step and checks its bytes, then saves. It is killed in the middle of
a save, of a deletion, or anywhere. What the dead worker said last tells what it was doing. Then:

- the newest ``keep`` of all steps known to be committed are offered, and so is the best of them;
- every step that is offered can be read, and each of its bytes is the expected one;
- the best of the steps is said to be the best.
"""

from __future__ import annotations

import math
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from experiments.reliability import states
from experiments.reliability.base import Outcome
from experiments.reliability.forks import Forks, Life
from sdejax.train.catalog import COMMITTED, all_steps, best_step, read_meta
from sdejax.train.integrity import CheckpointError

KEEP = 2
ENOUGH, SHARE = 50, 0.3  # of so many kills this share has to leave a part of a step


def scenario(tries: int, folder: Path) -> Outcome:
    """Kills while every step is the best so far."""
    return kill_loop("kills while saving", tries, folder, "falling")


def kill_loop(name: str, tries: int, folder: Path, score: str) -> Outcome:
    """Kill a saving process ``tries`` times.

    Args:
        name: of the outcome.
        tries: how often.
        folder: where to work.
        score: name of the function of ``states`` that ranks a step.
    """
    directory, rng = folder / "checkpoints", np.random.default_rng(tries)
    found: Counter[str] = Counter()
    known: set[int] = set()
    slowest = 0.0
    with Forks(folder / "cache", folder / "stderr") as forks:
        for index in tqdm(range(tries), desc=name, unit="kill", leave=False):
            began = time.monotonic()
            life = forks.start("save_forever", str(directory), score, bool(index % 2))
            life.until(
                "restored", "saving"
            )  # the first life may have been killed in its first save
            slowest = max(slowest, time.monotonic() - began)
            _kill(life, index % 4, rng)
            found += _last_moments(life.said, directory)
            found["wrong"] += sum(line.startswith("wrong") for line in life.said)
            restored = [int(line.split()[1]) for line in life.said if line.startswith("restored")]
            found["lost"] += restored != [max(known)] if known else 0
            known |= {int(line.split()[1]) for line in life.said if line.startswith("committed")}
            found += judge(directory, known, score)
    if tries >= ENOUGH and (found["partial"] < SHARE * tries or not found["deleting"]):
        raise RuntimeError(f"too few kills hit a save or a deletion: {dict(found)}")
    return Outcome(
        name, tries, found["lost"], found["unreadable"], found["wrong"], slowest,
        f"killed with a part of a step on the disk {found['partial']} times, "
        f"during a deletion {found['deleting']} times ({found['in_trash']} left some of it); "
        f"{max(known, default=0)} steps; longest: from start to restored",
    )  # fmt: skip


def judge(directory: Path, known: set[int], score: str) -> Counter[str]:
    """Compare the checkpoints of a directory with what must be there.

    Args:
        directory: of the checkpoints.
        known: steps that were committed at some time; what is offered is added to it.
        score: name of the function of ``states`` that ranks a step.

    Returns:
        How many are "lost", "unreadable" and "wrong".
    """
    found: Counter[str] = Counter()
    offered = all_steps(directory)
    known |= set(offered)
    finite = {s: v for s in known if math.isfinite(v := getattr(states, score)(s))}
    wanted = set(sorted(known)[-KEEP:])
    if finite:
        best = min(finite, key=lambda step: finite[step])
        wanted.add(best)
    found["lost"] = len(wanted - set(offered))
    for step in offered:
        try:
            wrong = states.differing(states.read(directory, step), step)
            found["wrong"] += bool(wrong) or read_meta(directory, step) != states.meta_of(step)
        except CheckpointError:
            found["unreadable"] += 1
    if finite and best_step(directory) != best:
        found["wrong"] += 1
    return found


def _kill(life: Life, aim: int, rng: np.random.Generator) -> None:
    """Kill in the middle of a save (0, 1), of a deletion (2), or anywhere (3)."""
    if aim == 2:
        for _ in range(rng.integers(1, 4)):
            life.until("deleting")
        time.sleep(rng.uniform(0.0, 0.0005))
    else:
        for _ in range(rng.integers(1, 5 if aim < 2 else 9)):
            life.until("saving")
        time.sleep(rng.uniform(0.0, 0.1 if aim < 2 else 0.3))
    life.signal(signal.SIGKILL)
    if life.end() != -signal.SIGKILL:
        raise RuntimeError(f"the worker ended with code {life.code}: {life.said}")


def _last_moments(said: list[str], directory: Path) -> Counter[str]:
    """What a worker was doing when it died, and what it left of it on the disk."""
    begun, done, deleting = -1, -1, False
    for line in said:
        word, *rest = line.split()
        if word == "saving":
            begun = int(rest[0])
        elif word == "committed":
            done = int(rest[0])
        elif word in ("deleting", "deleted"):
            deleting = word == "deleting"
    saving, trash = done < begun, directory / "trash"
    steps = [path for path in directory.iterdir() if path.name.isdigit()]
    partial = saving and any(not (step / COMMITTED).exists() for step in steps)
    in_trash = deleting and trash.exists()
    return Counter(saving=int(saving), partial=int(partial), deleting=int(deleting),
                   in_trash=int(in_trash))  # fmt: skip
