"""``sdejax train``: trains a model, or goes on training it."""

from __future__ import annotations

import argparse
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sdejax.commands.config import read_config
from sdejax.run import train
from sdejax.train.hosts import HEARTBEAT, join
from sdejax.train.places import choose_place

Commands = Any  # what ``ArgumentParser.add_subparsers`` gives

HELP = """\
Train a model, or go on training it: the same command resumes from the newest checkpoint.

  sdejax train --config configs/digits.py --workdir runs/digits
  sdejax train --config configs/digits.py --workdir runs/short --config.train.steps=500

Any key of the config can be overridden as --config.KEY=VALUE; an unknown key is an error that
names the nearest known one. The config file is Python and is executed.
"""


def add(commands: Commands) -> None:
    """Declares the command.

    Args:
        commands: the sub-parsers of ``sdejax``.
    """
    trainer = commands.add_parser(
        "train",
        help="train a model",
        description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    trainer.add_argument("--config", required=True, metavar="FILE.py[:ARG]", help="config file")
    trainer.add_argument("--workdir", required=True, type=Path, help="folder of the run")
    group = trainer.add_argument_group(
        "several processes",
        "Start the same command on every host. On TPU pods, under srun and in indexed Kubernetes "
        "jobs the processes find each other; elsewhere say where process 0 listens.",
    )
    group.add_argument(
        "--distributed", action=argparse.BooleanOptionalAction,
        help="fail where no others are found; --no-distributed does not look for any",
    )  # fmt: skip
    group.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    group.add_argument("--num-processes", type=int, metavar="N", help="with --coordinator")
    group.add_argument("--process-id", type=int, metavar="I", help="with --coordinator, 0 to N - 1")
    group.add_argument(
        "--heartbeat", type=int, metavar="SECONDS", default=HEARTBEAT,
        help="a process without a sign of life for so long is dead, and the others end, with a "
        "code other than 0 (default %(default)s, at least 1)",
    )  # fmt: skip
    trainer.set_defaults(run=run, overridable=True)


def run(args: argparse.Namespace) -> None:
    """``sdejax train``.

    Args:
        args: the parsed arguments.
    """
    place = choose_place(
        os.environ,
        distributed=args.distributed,
        coordinator=args.coordinator,
        num_processes=args.num_processes,
        process_id=args.process_id,
        kubernetes=find_spec("kubernetes") is not None,
    )
    join(place, heartbeat=args.heartbeat)  # a config is Python, and may touch the devices
    train(read_config(args.config, args.overrides).to_dict(), args.workdir)
