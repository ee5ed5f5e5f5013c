"""``sdejax fit-solver``: fits a few-step solver to a trained model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sdejax.api import load
from sdejax.samplers.learned import save_solver

Commands = Any  # what ``ArgumentParser.add_subparsers`` gives

HELP = """\
Fit a few-step solver to a trained model: the times and weights with which N evaluations come
nearest to accurate samples. Costs minutes, once; then sample with it.

  sdejax fit-solver --workdir runs/digits --evaluations 8
  sdejax sample --workdir runs/digits --solver runs/digits/solver_8.npz
"""


def add(commands: Commands) -> None:
    """Declares the command.

    Args:
        commands: the sub-parsers of ``sdejax``.
    """
    fitter = commands.add_parser(
        "fit-solver", help="fit a few-step solver", description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    fitter.add_argument("--workdir", required=True, type=Path, help="folder of a run")
    fitter.add_argument("--evaluations", type=int, default=8, help="of the network (default 8)")
    fitter.add_argument("--pairs", type=int, default=256, help="accurate samples (default 256)")
    fitter.add_argument("--iterations", type=int, default=300, help="(default 300)")
    fitter.add_argument("--batch", type=int, default=16, help="pairs an iteration (default 16)")
    fitter.add_argument("--seed", type=int, default=0, help="(default 0)")
    fitter.add_argument("--out", type=Path, help="default: WORKDIR/solver_N.npz")
    fitter.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """``sdejax fit-solver``.

    Args:
        args: the parsed arguments.
    """
    model = load(args.workdir)
    solver, losses = model.fit_solver(
        args.evaluations, pairs=args.pairs, iterations=args.iterations, batch=args.batch,
        seed=args.seed, progress=True,
    )  # fmt: skip
    out = args.out or args.workdir / f"solver_{args.evaluations}.npz"
    save_solver(out, solver)
    print(
        f"{out}: {args.evaluations} evaluations; loss on held-out noise {float(losses[0]):.3g} "
        f"(dpmpp_2m) -> {float(losses.min()):.3g}"
    )
