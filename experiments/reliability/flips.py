"""Flip bits, truncate and delete files of the newest of three steps, one damage at a time.

Each damage must be noticed, by one type of error, and a restore that asks for no step must give the
step before. Some files hold nothing that anybody reads back: there a restore may also give the
newest step, if every byte of it is right. Bits of the oldest step, which is the best, are flipped
as well: that must be noticed, and the newest step be given.
"""

from __future__ import annotations

import shutil
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from experiments.reliability import states
from experiments.reliability.base import Outcome
from sdejax.train.catalog import DamagedCheckpoint
from sdejax.train.checkpoint import Checkpoints
from sdejax.train.integrity import CheckpointError

OLDEST, OLDER, NEWER = 1, 2, 3
Damage = Callable[[Path], None]


def scenario(tries: int, folder: Path) -> Outcome:
    """``tries`` bit flips, spread over all files, and each file truncated and deleted."""
    good = folder / "good"
    with Checkpoints(good, best="score") as checkpoints:
        for step in (OLDEST, OLDER, NEWER):
            meta, score = states.meta_of(step), {"score": float(step)}
            checkpoints.save(step, states.content(step), meta, score)
    files, oldest = (
        sorted(p.relative_to(good) for p in (good / str(step)).rglob("*") if p.is_file())
        for step in (NEWER, OLDEST)
    )
    rng = np.random.default_rng(tries)
    full = [file for file in (*files, *oldest) if (good / file).stat().st_size]
    jobs: list[tuple[str, Path, Damage]] = [
        ("flipped", full[index % len(full)], _flip(rng.random(), int(rng.integers(8))))
        for index in range(tries)
    ]
    for file in files:
        size = (good / file).stat().st_size
        cuts = {0, size // 2, max(size - 1, 0)} - {size}
        jobs += [("truncated", file, _truncate(cut)) for cut in sorted(cuts)]
        jobs.append(("deleted", file, Path.unlink))
    found: Counter[str] = Counter()
    harmless: set[str] = set()
    for kind, file, damage in tqdm(jobs, desc="damage", unit="file", leave=False):
        copy = Path(shutil.copytree(good, folder / "copy"))
        damage(copy / file)
        verdict = judge(copy, int(file.parts[0]))
        found += Counter({kind: 1, verdict: 1})
        if verdict == "harmless":
            harmless.add(file.name)
        shutil.rmtree(copy)
    return Outcome(
        "damaged files", len(jobs), found["lost"], found["unreadable"], found["wrong"],
        notes=f"{found['flipped']} bits flipped, {found['truncated']} truncations and "
        f"{found['deleted']} deletions over {len(files)} files of the newest step, flips also over "
        f"{len(oldest)} of the oldest; {found['noticed']} noticed, with fall-back from the newest "
        f"to the step before; {found['harmless']} changed nothing that is read "
        f"(in {', '.join(sorted(harmless)) or 'no file'}: every restored byte was right)",
    )  # fmt: skip


def judge(directory: Path, damaged: int = NEWER) -> str:
    """What became of a directory of which one step is damaged.

    Args:
        directory: of the checkpoints; it may be tidied.
        damaged: that step.

    Returns:
        "noticed": that step is refused and the right one taken, with a warning where the step looks
        complete; "harmless": every byte of that step is as it was; "unreadable": a step was taken
        and is not as it was saved; "lost": the right step was not reached; "wrong": another error.
    """
    committed = (directory / str(damaged) / "commit_success.txt").exists()
    try:
        asked = _wrong(states.read(directory, damaged), damaged)
    except CheckpointError:
        asked = None
    except Exception:
        return "wrong"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with Checkpoints(directory, best="score") as checkpoints:
                state, meta = checkpoints.restore(states.abstract())
        except CheckpointError:
            return "lost"
        except Exception:
            return "wrong"
    step = meta["next"]
    if asked or meta != states.meta_of(step) or _wrong(state, step):
        return "unreadable"
    loud = any(issubclass(warning.category, DamagedCheckpoint) for warning in caught)
    if asked is not None:
        return "wrong" if loud or step != NEWER else "harmless"
    if step != (OLDER if damaged == NEWER else NEWER):
        return "lost"
    return "noticed" if loud or not committed else "wrong"


def _wrong(state: dict, step: int) -> bool:
    return bool(states.differing(state, step))


def _flip(place: float, bit: int) -> Damage:
    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[int(place * len(data))] ^= 1 << bit
        path.write_bytes(bytes(data))

    return damage


def _truncate(size: int) -> Damage:
    def damage(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:size])

    return damage
