"""``sdejax sample``: draws samples from a trained model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from sdejax.api import load
from sdejax.data.scaling import apply
from sdejax.results import has_picture, save_picture
from sdejax.samplers.catalog import SAMPLERS
from sdejax.samplers.learned import load_solver
from sdejax.tables import GRIDS

Commands = Any  # what ``ArgumentParser.add_subparsers`` gives

HELP = """\
Draw samples from a trained model and write a picture (.png) or arrays (.npz).

  sdejax sample --workdir runs/digits --num 64 --out digits.png
  sdejax sample --workdir runs/digits --num 1000 --sampler shark --label 7 --out sevens.npz
"""


def add(commands: Commands) -> None:
    """Declares the command.

    Args:
        commands: the sub-parsers of ``sdejax``.
    """
    sampler = commands.add_parser(
        "sample",
        help="draw samples",
        description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sampler.add_argument("--workdir", required=True, type=Path, help="folder of a run")
    sampler.add_argument("--num", type=int, default=64, help="number of samples (default 64)")
    sampler.add_argument("--sampler", help=f"as configured, or one of: {', '.join(SAMPLERS)}")
    sampler.add_argument(
        "--steps", type=int, help="fixed steps; by default as configured, or adaptive"
    )
    sampler.add_argument("--solver", type=Path, help="file of fit-solver, instead of a sampler")
    sampler.add_argument("--grid", help=f"as configured, or one of: {', '.join(GRIDS)}")
    sampler.add_argument(
        "--threshold", type=float, metavar="Q",
        help="dynamic thresholding at this quantile, e.g. 0.995; 0: off; default: as configured",
    )  # fmt: skip
    sampler.add_argument("--seed", type=int, default=0, help="(default 0)")
    sampler.add_argument("--label", type=int, help="class of a conditional model; default: each")
    sampler.add_argument("--raw", action="store_true", help="not the averaged (EMA) weights")
    sampler.add_argument("--step", type=int, help="checkpoint to use; default: the newest")
    sampler.add_argument(
        "--out", type=Path, default=Path("samples.png"), help=".png or .npz (default samples.png)"
    )
    sampler.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """``sdejax sample``.

    Args:
        args: the parsed arguments.

    Raises:
        ValueError: for an output that is neither .png nor .npz, or has no picture.
    """
    if args.out.suffix not in (".png", ".npz"):
        raise ValueError(f"--out: got {str(args.out)!r}; expected a name that ends in .png or .npz")
    if args.solver and (args.sampler or args.steps is not None or args.grid):
        raise ValueError("--solver: has its own steps; leave out --sampler, --steps and --grid")
    solver = load_solver(args.solver) if args.solver else None
    model = load(args.workdir, step=args.step, raw=args.raw)
    event, classes = model.parts.event_shape, model.parts.num_classes
    if args.out.suffix == ".png" and not has_picture(event, model.scaling):
        raise ValueError(f"--out: events of shape {list(event)} have no picture; use .npz")
    labels = args.label
    if classes is not None:
        labels = np.arange(args.num) % classes if labels is None else np.full(args.num, labels)
    x, stats = model.sample(
        args.num, sampler=args.sampler, steps=args.steps, grid=args.grid, solver=solver,
        threshold=args.threshold, seed=args.seed, labels=labels, progress=True,
    )  # fmt: skip
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if args.out.suffix == ".npz":
        named = {} if classes is None else {"label": labels}
        np.savez_compressed(args.out, x=x, nfe=np.asarray(stats.nfe), **named)
    else:
        save_picture(args.out, apply(model.scaling, x), model.scaling)
    weights = "raw" if args.raw else "averaged"
    print(
        f"{args.out}: {len(x)} samples, {weights} weights of step {model.step}, "
        f"{float(np.mean(stats.nfe)):.0f} evaluations each"
    )
