"""The command line ``sdejax``: its commands, and how they fail."""

from __future__ import annotations

import argparse
import sys
import warnings
from importlib import metadata
from typing import Any

from sdejax.commands import (
    convert,
    diagnose,
    doctor,
    fit_dequantiser,
    fit_solver,
    likelihood,
    sample,
    train,
)
from sdejax.commands.config import read_config
from sdejax.train.hosts import together
from sdejax.train.loop import Preempted
from sdejax.train.preemption import EXIT_CODE

__all__ = ["main", "parser", "read_config"]

COMMANDS = (train, convert, doctor, sample, likelihood, diagnose, fit_solver, fit_dequantiser)


def parser() -> argparse.ArgumentParser:
    """The parser of all commands.

    Returns:
        The parser; ``config`` overrides are left to ``read_config``.
    """
    main_parser = argparse.ArgumentParser(
        "sdejax", description="Generative models on stochastic and ordinary differential equations."
    )
    main_parser.add_argument(
        "--version", action="version", version=f"sdejax {metadata.version('sdejax')}"
    )
    main_parser.set_defaults(overridable=False)
    commands = main_parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return main_parser


@together()
def main(argv: list[str] | None = None) -> None:
    """The console script ``sdejax``.

    Args:
        argv: arguments, by default those of the process.
    """
    args, args_left = parser().parse_known_args(argv)
    args.overrides = args_left
    try:
        if args_left and not args.overridable:
            raise ValueError(f"unknown argument {args_left[0]!r}; see sdejax {args.command} --help")
        with warnings.catch_warnings():
            warnings.showwarning = _show
            args.run(args)
    except Preempted as stop:
        print(f"sdejax: {stop}", file=sys.stderr)
        sys.exit(EXIT_CODE)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        print(f"sdejax: error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(
            "sdejax: interrupted; the same command goes on from the newest checkpoint, if any",
            file=sys.stderr,
        )
        sys.exit(130)


def _show(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning as a user reads it, without the line of code that gave it."""
    print(f"sdejax: warning: {message}", file=sys.stderr)
