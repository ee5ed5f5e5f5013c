"""``sdejax train``: trains a model, or goes on training it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import jax

from sdejax.commands.config import read_config
from sdejax.run import train

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
    group = trainer.add_argument_group("several processes (started on every host)")
    group.add_argument(
        "--distributed", action="store_true", help="TPU pod, Slurm, Kubernetes: found by itself"
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0, elsewhere")
    group.add_argument("--num-processes", type=int, metavar="N", help="with --coordinator")
    group.add_argument("--process-id", type=int, metavar="I", help="with --coordinator")
    trainer.set_defaults(run=run, overridable=True)


def run(args: argparse.Namespace) -> None:
    """``sdejax train``.

    Args:
        args: the parsed arguments.
    """
    config = read_config(args.config, args.overrides)
    if args.coordinator:
        jax.distributed.initialize(args.coordinator, args.num_processes, args.process_id)
    elif args.distributed:
        jax.distributed.initialize()
    train(config.to_dict(), args.workdir)
