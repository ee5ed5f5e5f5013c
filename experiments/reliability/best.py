"""The kill loop with scores that get worse, are infinite or not a number."""

from __future__ import annotations

from pathlib import Path

from experiments.reliability.base import Outcome
from experiments.reliability.kills import kill_loop


def scenario(tries: int, folder: Path) -> Outcome:
    """Kills while scores worsen: the newest steps stay, and so does the best."""
    return kill_loop("kills while scores worsen", tries, folder, "worsening")
