"""The table of the long form."""

import json
import subprocess
import sys
from pathlib import Path

from experiments.reliability.base import Outcome
from experiments.reliability.report import read_rows, row, write_report

ROOT = Path(__file__).parents[2]


def test_rows_are_kept_and_replaced(tmp_path):
    good, bad = Outcome("good", 3, worst_seconds=0.5, notes="all fine"), Outcome("bad", 3, lost=1)
    assert (good.passed, bad.passed, Outcome("none", 0).passed) == (True, False, False)
    write_report(tmp_path, {"b": row(bad, 2.0)}, ["a", "b"])
    write_report(tmp_path, read_rows(tmp_path) | {"a": row(good, 61.0)}, ["a", "b"])
    text = (tmp_path / "reliability.md").read_text()
    assert "| good | 3 | 0 | 0 | 0 | 0.50 s | 61 s | all fine |" in text
    assert text.index("| good |") < text.index("| bad | 3 | 1 |")
    assert "commit" in text
    assert "orbax-checkpoint" in text
    assert json.loads((tmp_path / "reliability.json").read_text())["b"]["passed"] is False


def test_help_names_the_scenarios():
    done = subprocess.run(
        [sys.executable, "-m", "experiments.reliability", "--help"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in ("kills", "best", "resume", "sigterm", "exits", "flips", "disk", "lock"):
        assert name in done.stdout
