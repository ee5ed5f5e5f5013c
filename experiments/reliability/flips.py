"""Flip bits, truncate and delete files of the newest of two steps, one damage at a time.

Each damage must be noticed, by one type of error, and a restore that asks for no step must give the
older one. Some files hold nothing that anybody reads back: there a restore may also give the newer
step, if every byte of it is right.
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

OLDER, NEWER = 1, 2
Damage = Callable[[Path], None]


def scenario(tries: int, folder: Path) -> Outcome:
    """``tries`` bit flips, spread over all files, and each file truncated and deleted."""
    good = folder / "good"
    with Checkpoints(good) as checkpoints:
        for step in (OLDER, NEWER):
            checkpoints.save(step, states.content(step), states.meta_of(step))
    files = sorted(p.relative_to(good) for p in (good / str(NEWER)).rglob("*") if p.is_file())
    rng = np.random.default_rng(tries)
    full = [file for file in files if (good / file).stat().st_size]
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
        verdict = judge(copy)
        found += Counter({kind: 1, verdict: 1})
        if verdict == "harmless":
            harmless.add(file.name)
        shutil.rmtree(copy)
    return Outcome(
        "damaged files", len(jobs), found["lost"], found["unreadable"], found["wrong"],
        notes=f"{found['flipped']} bits flipped, {found['truncated']} truncations and "
        f"{found['deleted']} deletions over {len(files)} files; {found['noticed']} noticed, with "
        f"fall-back to the step before; {found['harmless']} changed nothing that is read "
        f"(in {', '.join(sorted(harmless)) or 'no file'}: every restored byte was right)",
    )  # fmt: skip


def judge(directory: Path) -> str:
    """What became of a directory whose step ``NEWER`` is damaged.

    Args:
        directory: of the checkpoints; it may be tidied.

    Returns:
        "noticed": that step is refused and the older one taken, with a warning where the step looks
        complete; "harmless": both ways give every byte of that step; "unreadable": it was taken and
        is not as it was saved; "lost": the older step was not reached; "wrong": another error type.
    """
    committed = (directory / str(NEWER) / "commit_success.txt").exists()
    try:
        asked = _wrong(states.read(directory, NEWER), NEWER)
    except CheckpointError:
        asked = None
    except Exception:
        return "wrong"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with Checkpoints(directory) as checkpoints:
                state, meta = checkpoints.restore(states.abstract())
        except CheckpointError:
            return "lost"
        except Exception:
            return "wrong"
    step = meta["next"]
    if asked or step not in (OLDER, NEWER) or meta != states.meta_of(step) or _wrong(state, step):
        return "unreadable"
    if step == NEWER:
        return "harmless" if asked is not None else "wrong"
    loud = any(issubclass(warning.category, DamagedCheckpoint) for warning in caught)
    return "noticed" if asked is None and (loud or not committed) else "wrong"


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
