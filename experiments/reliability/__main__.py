"""``python -m experiments.reliability``: runs the scenarios and writes one table."""

from __future__ import annotations

import argparse
import importlib
import os
import tempfile
import time
from pathlib import Path

from tqdm import tqdm

from experiments.reliability.base import Outcome
from experiments.reliability.report import read_rows, row, write_report

# name -> (module with ``scenario``, tries of the long form)
SCENARIOS: dict[str, tuple[str, int]] = {
    "kills": ("experiments.reliability.kills", 200),
    "best": ("experiments.reliability.best", 200),
    "resume": ("experiments.reliability.resume", 5),
    "sigterm": ("experiments.reliability.sigterm", 20),
    "exits": ("experiments.reliability.exits", 20),
    "flips": ("experiments.reliability.flips", 200),
    "disk": ("experiments.reliability.disk", 20),
    "lock": ("experiments.reliability.lock", 20),
    "two_processes": ("experiments.reliability.two_processes", 24),
    "two_processes_sigterm": ("experiments.reliability.two_processes_sigterm", 24),
    "elastic": ("experiments.reliability.elastic", 3),
}

HELP = """\
Kill, damage, fill up and stop runs of sdejax, and count what is lost: one row a scenario in
reliability.md and reliability.json, rewritten after each. It runs on CPU devices. A scenario that
is run again replaces its row.

  python -m experiments.reliability                          # all, the long form
  python -m experiments.reliability --only kills flips --tries 8
"""


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    found = argparse.ArgumentParser(
        "python -m experiments.reliability", description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    found.add_argument(
        "--out", type=Path, default=Path("experiments/results"),
        help="folder of reliability.md and .json (default experiments/results)",
    )  # fmt: skip
    found.add_argument(
        "--only", nargs="+", choices=SCENARIOS, metavar="NAME",
        help=f"scenarios to run, of {', '.join(SCENARIOS)}; default: all",
    )  # fmt: skip
    found.add_argument(
        "--tries", type=int, metavar="N",
        help="tries of each; default: "
        + ", ".join(f"{name} {tries}" for name, (_, tries) in SCENARIOS.items()),
    )  # fmt: skip
    found.add_argument(
        "--folder", type=Path, help="where to work, kept afterwards; default: a temporary one"
    )
    return found


def run(name: str, tries: int | None, folder: Path) -> tuple[Outcome, float]:
    """Run one scenario in a folder of its own.

    Args:
        name: of ``SCENARIOS``.
        tries: how often; None for the long form.
        folder: where to work.

    Returns:
        What it found, and the seconds that it took.
    """
    module, usual = SCENARIOS[name]
    began = time.monotonic()
    home = Path(tempfile.mkdtemp(prefix=f"{name}_", dir=folder))
    outcome = importlib.import_module(module).scenario(tries or usual, home)
    return outcome, time.monotonic() - began


def main() -> None:
    """Run what was asked for; exit code 1 where a scenario failed."""
    args = parser().parse_args()
    if args.tries is not None and args.tries < 1:
        raise SystemExit(f"--tries {args.tries}: expected at least 1")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    names = args.only or list(SCENARIOS)
    rows, failed = read_rows(args.out), []
    with tempfile.TemporaryDirectory(prefix="reliability_") as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in tqdm(names, desc="scenarios", unit="scenario"):
            outcome, seconds = run(name, args.tries, folder)
            rows[name] = row(outcome, seconds)
            write_report(args.out, rows, SCENARIOS)
            tqdm.write(f"{name}: {'passed' if outcome.passed else 'FAILED'}: {outcome}")
            failed += [] if outcome.passed else [name]
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
