"""Every way to leave right after a save was started: the step is committed all the same.

``os._exit`` and a second Ctrl-C during the last save are no orderly ways: there the step may be
gone, but it is absent or whole.
"""

from __future__ import annotations

import signal
from pathlib import Path

from tqdm import tqdm

from experiments.reliability import states
from experiments.reliability.base import Outcome
from experiments.reliability.forks import Forks
from sdejax.train.catalog import all_steps
from sdejax.train.integrity import CheckpointError

# way -> (signals sent after the save, exit code)
ORDERLY = {
    "end": ((), 0),
    "exception": ((), 1),
    "sys.exit": ((), 3),
    "sys.exit during an exception": ((), 4),
    "SIGINT": ((signal.SIGINT,), -signal.SIGINT),
    "SIGTERM": ((signal.SIGTERM,), 143),
}
LIKE_A_KILL = {
    "os._exit": ((), 5),
    "SIGINT twice": ((signal.SIGINT, signal.SIGINT), -signal.SIGINT),
}


def scenario(tries: int, folder: Path) -> Outcome:
    """Leave ``tries`` times in each way; ``lost`` counts orderly exits without their step."""
    lost = unreadable = wrong = 0
    kept = {}
    ways = ORDERLY | LIKE_A_KILL
    jobs = [(way, index) for way in ways for index in range(tries)]
    with Forks(folder / "cache", folder / "stderr") as forks:
        for way, _ in tqdm(jobs, desc="exits", unit="exit", leave=False):
            directory = folder / way.replace(" ", "_")
            signals, code = ways[way]
            life = forks.start("save_and_leave", str(directory), way)
            step = int(life.until("saved").split()[1])
            for number in signals:
                life.signal(number)
            wrong += life.end() != code
            committed = step in all_steps(directory)
            kept[way] = kept.get(way, 0) + committed
            lost += way in ORDERLY and not committed
            for offered in all_steps(directory):
                try:
                    wrong += bool(states.differing(states.read(directory, offered), offered))
                except CheckpointError:
                    unreadable += 1
    counts = ", ".join(f"{way} {kept[way]}" for way in ways)
    return Outcome(
        "exits right after a save", len(jobs), lost, unreadable, wrong,
        notes=f"committed, of {tries} each: {counts} (the last two may lose it)",
    )  # fmt: skip
