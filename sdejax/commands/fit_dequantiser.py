"""``sdejax fit-dequantiser``: noise for the bins of integers, fitted to a trained model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from sdejax import dequantiser
from sdejax.build import build_data
from sdejax.trained import load

Commands = Any  # what ``ArgumentParser.add_subparsers`` gives

HELP = """\
Fit the noise of variational dequantisation to a trained model, by its variational bound: one
network call an example and step. Then evaluate with it; the bound on integers is tighter than with
uniform noise.

  sdejax fit-dequantiser --workdir runs/digits
  sdejax likelihood --workdir runs/digits --dequantiser runs/digits/dequantiser.npz
"""


def add(commands: Commands) -> None:
    """Declares the command.

    Args:
        commands: the sub-parsers of ``sdejax``.
    """
    fitter = commands.add_parser(
        "fit-dequantiser",
        help="fit noise for the bins of integers",
        description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fitter.add_argument("--workdir", required=True, type=Path, help="folder of a run")
    fitter.add_argument("--iterations", type=int, default=2000, help="(default 2000)")
    fitter.add_argument("--batch", type=int, default=64, help="examples a step (default 64)")
    fitter.add_argument(
        "--learning-rate", type=float, default=2e-3, help="of Adam, at first (default 2e-3)"
    )
    fitter.add_argument(
        "--held-out", type=int, default=200, metavar="N",
        help="training examples kept aside, which choose the best parameters (default 200)",
    )  # fmt: skip
    fitter.add_argument("--layers", type=int, default=4, help="couplings (default 4)")
    fitter.add_argument("--features", type=int, default=32, help="of their networks (default 32)")
    fitter.add_argument("--t-min", type=float, help="where the process ends; default: its own")
    fitter.add_argument("--seed", type=int, default=0, help="(default 0)")
    fitter.add_argument("--raw", action="store_true", help="not the averaged (EMA) weights")
    fitter.add_argument("--step", type=int, help="checkpoint to use; default: the newest")
    fitter.add_argument(
        "--out", type=Path, metavar="FILE.npz", help="default: WORKDIR/dequantiser.npz"
    )
    fitter.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """``sdejax fit-dequantiser``.

    Args:
        args: the parsed arguments.

    Raises:
        ValueError: for data that are no integers, or too few of them.
    """
    model = load(args.workdir, step=args.step, raw=args.raw)
    data = build_data(model.config)[0]
    if not 1 <= args.held_out < len(data):
        raise ValueError(
            f"--held-out: got {args.held_out}; expected 1 to {len(data) - 1}, of the training data"
        )
    stored = data.x[np.arange(len(data))]
    print(f"{len(stored)} examples, step {model.step}; compiling takes a while", flush=True)
    noise, history = model.fit_dequantiser(
        stored[args.held_out :], stored[: args.held_out], seed=args.seed, t_min=args.t_min,
        iterations=args.iterations, batch=args.batch, learning_rate=args.learning_rate,
        layers=args.layers, features=args.features, progress=True,
    )  # fmt: skip
    out = args.out or args.workdir / "dequantiser.npz"
    out.parent.mkdir(parents=True, exist_ok=True)
    dequantiser.save(out, noise)
    print(
        f"{out}: variational bound on {args.held_out} held-out examples "
        f"{history.held_out[0]:.4f} (uniform noise) -> {history.held_out.min():.4f} bits/dim"
    )
