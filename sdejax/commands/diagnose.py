"""``sdejax diagnose``: what is wrong with the score of a trained model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sdejax import viz
from sdejax.api import load
from sdejax.build import build_data
from sdejax.diagnose import examine, table
from sdejax.likelihood.quantisation import bin_width, quantisation
from sdejax.results import rows_of

Commands = Any  # what ``ArgumentParser.add_subparsers`` gives

HELP = """\
Say what is wrong with the score of a trained model on held-out data, at each noise level:
calibration, asymmetry, Fokker-Planck residual and Stein's identity (docs/diagnostics.md). Prints a
table and writes a picture (.png) or the numbers (.npz).

  sdejax diagnose --workdir runs/digits --num 256 --out diagnostics.png
"""


def add(commands: Commands) -> None:
    """Declares the command.

    Args:
        commands: the sub-parsers of ``sdejax``.
    """
    found = commands.add_parser(
        "diagnose", help="say what is wrong with a score", description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    found.add_argument("--workdir", required=True, type=Path, help="folder of a run")
    found.add_argument("--num", type=int, default=256, help="held-out examples (default 256)")
    found.add_argument("--levels", type=int, default=12, help="noise levels (default 12)")
    found.add_argument(
        "--probes", type=int, metavar="K",
        help="random directions, 0: all; default: all up to 16 entries, else 4",
    )  # fmt: skip
    found.add_argument("--chunk", type=int, default=64, help="examples at a time (default 64)")
    found.add_argument("--seed", type=int, default=0, help="(default 0)")
    found.add_argument("--raw", action="store_true", help="not the averaged (EMA) weights")
    found.add_argument("--step", type=int, help="checkpoint to use; default: the newest")
    found.add_argument(
        "--out", type=Path, default=Path("diagnostics.png"),
        help=".png or .npz (default diagnostics.png)",
    )  # fmt: skip
    found.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """``sdejax diagnose``.

    Args:
        args: the parsed arguments.

    Raises:
        ValueError: for an output that is neither .png nor .npz, or fewer than two examples.
    """
    if args.out.suffix not in (".png", ".npz"):
        raise ValueError(f"--out: got {str(args.out)!r}; expected a name that ends in .png or .npz")
    model = load(args.workdir, step=args.step, raw=args.raw)
    rows = rows_of(build_data(model.config)[1], args.num)
    x = rows["x"]
    if model.config["data"].get("dequantise"):  # as in training: integers spread over their bins
        width = bin_width(quantisation(*model.scaling)).astype(x.dtype)
        x = x + width * (np.random.default_rng(args.seed).random(x.shape, x.dtype) - 0.5)
    conditional = model.parts.num_classes is not None
    print(
        f"{args.num} held-out examples, {args.levels} levels; compiling takes a while", flush=True
    )
    found = examine(
        model.parts, model.params, x, rows["label"] if conditional else None,
        levels=args.levels, probes=args.probes, chunk=args.chunk, seed=args.seed,
    )  # fmt: skip
    print(table(found))
    if args.out.suffix == ".npz":
        args.out.parent.mkdir(parents=True, exist_ok=True)
        leaves, _ = jax.tree.flatten_with_path(found)
        np.savez_compressed(args.out, **{jax.tree_util.keystr(p)[1:]: leaf for p, leaf in leaves})
    else:
        viz.save_figure(viz.plot_diagnostics(found, title=f"{args.workdir}"), args.out)
    weights = "raw" if args.raw else "averaged"
    print(f"{args.out}: {len(x)} examples, {weights} weights of step {model.step}")
