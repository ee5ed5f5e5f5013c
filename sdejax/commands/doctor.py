"""``sdejax doctor``: what a workdir holds, and what a resume would do."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sdejax.commands.config import read_config
from sdejax.config import completed
from sdejax.run import may_change
from sdejax.train.catalog import read_meta
from sdejax.train.doctor import Checkpoint, Health, examine, total_size
from sdejax.train.integrity import check_config

Commands = Any  # what ``ArgumentParser.add_subparsers`` gives

HELP = """\
List the checkpoints of a run, verify every file of them, and say what a resume would do: from which
step, passing over which damaged ones, and whether the config fits. Changes nothing; the run may be
in progress. Exit code 0 when a resume goes on from the newest step, 1 otherwise.

  sdejax doctor --workdir runs/digits
  sdejax doctor --workdir runs/digits --config configs/digits.py --config.train.steps=9000
"""


def add(commands: Commands) -> None:
    """Declares the command.

    Args:
        commands: the sub-parsers of ``sdejax``.
    """
    doctor = commands.add_parser(
        "doctor", help="verify checkpoints, say what a resume would do", description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    doctor.add_argument("--workdir", required=True, type=Path, help="folder of a run")
    doctor.add_argument(
        "--config", metavar="FILE.py[:ARG]",
        help="config of the resume, which may have overrides; default: that of the last start",
    )  # fmt: skip
    doctor.set_defaults(run=run, overridable=True)


def run(args: argparse.Namespace) -> None:
    """``sdejax doctor``.

    Args:
        args: the parsed arguments.

    Raises:
        ValueError: for a workdir without checkpoints, or overrides without --config.
        SystemExit: code 1 where a resume would not go on from the newest step.
    """
    if args.overrides and not args.config:
        raise ValueError(f"unknown argument {args.overrides[0]!r}; overrides need --config FILE.py")
    directory = args.workdir / "checkpoints"
    with tqdm(
        total=total_size(directory), unit="B", unit_scale=True, desc="verifying", leave=False
    ) as bar:
        health = examine(directory, bar.update)
    print(f"{args.workdir}: {len(health.checkpoints)} checkpoints")
    print("\n".join(listing(health, time.time())))
    config = _config(args)
    lines, fine = outlook(health, config)
    print("\n".join(lines))
    if not fine:
        raise SystemExit(1)


def _config(args: argparse.Namespace) -> dict[str, Any] | None:
    """The config of the resume: the one given, or the one of the last start, or none."""
    if args.config:
        return read_config(args.config, args.overrides).to_dict()
    path = args.workdir / "config.json"
    return json.loads(path.read_text()) if path.is_file() else None


def listing(health: Health, now: float) -> Iterator[str]:
    """A line for each step, each damaged file, each leftover, and the lock.

    Args:
        health: of the directory.
        now: seconds since the epoch.

    Yields:
        Lines.
    """
    if health.checkpoints:
        yield f"{'step':>10}  {'state':10} {'size':>9}  {'age':>7}  score"
    for found in health.checkpoints:
        marks = [
            *(["newest good"] if found.step == health.resumes_from else []),
            *(["best"] if found.step == health.best else []),
        ]
        score = "" if found.score is None else f"{found.score:.6g}"
        yield (
            f"{found.step:>10}  {_state(found, health):10} {_bytes(found.size):>9}  "
            f"{_age(now - found.saved_at):>7}  {score:10} {', '.join(marks)}"
        ).rstrip()
        if found.problem is not None:
            yield f"{'':12}{found.problem}"
    for left in health.leftovers:
        yield f"left over: {left.name} ({_bytes(left.size)}): {left.meaning}"
    held = f"held by {health.lock.holder}" if health.lock.held else "free"
    yield f"lock: {held}"


def outlook(health: Health, config: Mapping[str, Any] | None) -> tuple[list[str], bool]:
    """What a resume would do.

    Args:
        health: of the directory.
        config: of the resume; None where it is not known.

    Returns:
        Lines, and whether the resume would go on from the newest step.
    """
    if health.lock.held:
        holder = health.lock.holder
        return [f"a resume would be refused while {holder} is writing here"], False
    start = health.resumes_from
    if start is None and health.passed_over:
        return ["a resume would be refused: no checkpoint is good; restore one from a copy"], False
    if start is None:
        return ["a resume would start at step 0: there is no complete checkpoint"], False
    lines, fine = [f"a resume would go on from step {start}"], not health.passed_over
    if not fine:
        gone = ", ".join(map(str, health.passed_over))
        lines[0] += f", passing over the damaged {gone} (moved to damaged/)"
    if config is None:
        return [*lines, "its config is not known: give --config"], fine
    try:
        saved = read_meta(health.directory, start)
        check_config(completed(saved["config"]), completed(config), may_change(saved))
    except (ValueError, KeyError, TypeError) as error:  # what it says may be of any kind
        return [f"a resume from step {start} would be refused: {error}"], False
    steps = config["train"]["steps"]
    lines.append(f"{max(steps - start, 0)} steps to go (train.steps={steps}); the config fits")
    return lines, fine


def _state(found: Checkpoint, health: Health) -> str:
    if not found.complete:
        return "in writing" if health.lock.held else "cut off"
    return "good" if found.good else "DAMAGED"


def _bytes(size: int | float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
