"""``sdejax likelihood``: bits per dimension of a data set, with a confidence interval."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from sdejax.build import build_data
from sdejax.dequantiser import load as load_noise
from sdejax.evaluate import evaluate, load_rows, save_rows, summarise
from sdejax.evaluator import METHODS, TRACES, Options, Row, conditions
from sdejax.likelihood.cutoff import CUTOFFS
from sdejax.samplers.base import SUCCESS, check
from sdejax.trained import Trained, load

Commands = Any  # what ``ArgumentParser.add_subparsers`` gives

HELP = """\
Log-likelihoods of held-out data: bits per dimension of every example, and their mean with a 95 %
confidence interval. The same command goes on where it was stopped.

  sdejax likelihood --workdir runs/digits --data test --probes 4 --tol 1e-5
  sdejax likelihood --workdir runs/digits --method elbo
  sdejax likelihood --workdir runs/digits --dequantiser runs/digits/dequantiser.npz

Methods: ode, the density of the probability-flow ODE (of integers with noise in their bins a bound
on it, which --samples K tightens); elbo, the variational bound of the reverse SDE; chain, DDPM's
bound over discrete levels, with a discretised decoder. ode and elbo are two different models
wherever the score is learned.
"""
DEFAULT = Options()


def add(commands: Commands) -> None:
    """Declares the command.

    Args:
        commands: the sub-parsers of ``sdejax``.
    """
    command = commands.add_parser(
        "likelihood",
        help="bits per dimension of data",
        description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--workdir", required=True, type=Path, help="folder of a run")
    command.add_argument(
        "--data", choices=("test", "train"), default="test", help="split (default test)"
    )
    command.add_argument("--num", type=int, metavar="N", help="first N examples; default: all")
    command.add_argument("--method", choices=METHODS, default=DEFAULT.method, help="(default ode)")
    command.add_argument(
        "--trace", choices=list(TRACES), default=DEFAULT.trace,
        help="how the divergence of the ODE is had (default rademacher)",
    )  # fmt: skip
    command.add_argument(
        "--probes", type=int, metavar="K", default=DEFAULT.probes, help="of the trace (default 4)"
    )
    command.add_argument(
        "--tol", type=float, default=DEFAULT.tolerance, help="of the ODE solver (default 1e-5)"
    )
    command.add_argument(
        "--cutoff", choices=list(CUTOFFS), default=DEFAULT.cutoff,
        help="from the data to t_min, of the ODE (default as_is)",
    )  # fmt: skip
    command.add_argument("--t-min", type=float, help="where the process ends; default: its own")
    command.add_argument(
        "--draws", type=int, metavar="M", default=DEFAULT.draws,
        help="of times and noise, of the ELBO (default 128)",
    )  # fmt: skip
    command.add_argument(
        "--levels", type=int, default=DEFAULT.levels, help="of the chain (default 1000)"
    )
    command.add_argument(
        "--dequantiser", type=Path, metavar="FILE", help="of fit-dequantiser; default: uniform"
    )
    command.add_argument(
        "--samples", type=int, metavar="K", default=DEFAULT.samples,
        help="K-sample importance-weighted bound on integers, with --trace exact (default 1)",
    )  # fmt: skip
    command.add_argument("--no-labels", action="store_true", help="of a conditional model")
    command.add_argument("--chunk", type=int, default=32, help="examples at a time (default 32)")
    command.add_argument("--seed", type=int, default=0, help="(default 0)")
    command.add_argument("--raw", action="store_true", help="not the averaged (EMA) weights")
    command.add_argument("--step", type=int, help="checkpoint to use; default: the newest")
    command.add_argument(
        "--out", type=Path, metavar="FILE.npz", help="default: WORKDIR/likelihood_DATA_METHOD.npz"
    )
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """``sdejax likelihood``.

    Args:
        args: the parsed arguments.

    Raises:
        ValueError: for options that do not fit together, or a file of another evaluation.
        FloatingPointError: where a solve failed, after all results are written.
    """
    if args.chunk < 1:
        raise ValueError(f"--chunk: got {args.chunk}; expected at least 1")
    model = load(args.workdir, step=args.step, raw=args.raw)
    data = build_data(model.config)[("train", "test").index(args.data)]
    count = len(data) if args.num is None else args.num
    noise = None
    if args.dequantiser:
        noise = load_noise(args.dequantiser, model.scaling, model.parts.event_shape)
    options = Options(
        method=args.method, trace=args.trace, probes=args.probes, tolerance=args.tol,
        cutoff=args.cutoff, draws=args.draws, levels=args.levels, samples=args.samples,
        t_min=args.t_min,
    )  # fmt: skip
    one = model.evaluator(data, noise, **options._asdict())
    print(f"{args.data}: {count} examples, step {model.step}; compiling takes a while", flush=True)
    about = {
        **options._asdict(), "data": args.data, "seed": args.seed, "step": model.step,
        "raw": args.raw, "labels": not args.no_labels,
        "dequantiser": str(args.dequantiser) if noise else "uniform",
    }  # fmt: skip
    out = args.out or args.workdir / f"likelihood_{args.data}_{args.method}.npz"
    if out.suffix != ".npz":
        raise ValueError(f"--out: got {str(out)!r}; expected a name that ends in .npz")
    out.parent.mkdir(parents=True, exist_ok=True)
    done = load_rows(out, about)
    done = None if done is None else Row(*(leaf[:count] for leaf in done))
    without = args.no_labels and model.parts.num_classes is not None
    rows = evaluate(
        one, model.params, data, count, noise=noise,
        cond=conditions(model.parts, data, model.parts.num_classes if without else None),
        seed=args.seed, chunk=args.chunk, done=done,
        keep=lambda rows: save_rows(out, rows, about), progress=True,
    )  # fmt: skip
    print(_told(model, rows, options, data.scaling.levels is not None, about))
    print(f"{out}: one row an example")
    check(rows)


def _told(model: Trained, rows: Row, options: Options, integers: bool, about: dict) -> str:
    """What was found, in a few lines."""
    found = summarise(rows)
    bound = ", an upper bound" if integers or options.method != "ode" else ""
    kind = ("of integers" if integers else "of real data, in their own units") + bound
    what = {
        "ode": f"probability-flow ODE, {options.trace} trace",
        "elbo": "variational bound of the reverse SDE",
        "chain": f"variational bound of {options.levels} levels",
    }[options.method]
    if integers and options.method != "chain":
        noise = about["dequantiser"]
        what += f", {'uniform' if noise == 'uniform' else 'variational'} dequantisation"
        what += f", {options.samples} samples" if options.samples > 1 else ""
    error = np.asarray(rows.standard_error, float)
    size = int(np.prod(model.parts.event_shape))
    lines = [
        f"{found.bits_per_dim:.4f} +- {found.half_width:.4f} bits/dim ({kind}; mean of "
        f"{found.examples} examples, 95 % interval)",
        f"{found.nats:.4f} nats an example; {what}; {np.mean(rows.nfe):.0f} evaluations each",
    ]
    if np.isfinite(error).all() and error.any():
        bits = float(np.sqrt(np.mean(error**2))) / (size * np.log(2.0))
        lines.append(
            f"standard error of one example, from its probes or draws: {bits:.4f} bits/dim"
        )
    failed = int(np.sum(np.asarray(rows.result) != SUCCESS))
    if failed:
        lines.append(f"{failed} examples failed: the mean is not a number")
    return "\n".join(lines)
