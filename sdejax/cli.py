"""The command line: ``sdejax train``, ``sdejax sample`` and ``sdejax fit-solver``."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import inspect
import sys
from importlib import metadata
from pathlib import Path

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_dict, config_flags

from sdejax.api import load
from sdejax.build import keys_of
from sdejax.data.scaling import apply
from sdejax.results import has_picture, save_picture
from sdejax.run import train
from sdejax.samplers.catalog import SAMPLERS
from sdejax.samplers.learned import load_solver, save_solver
from sdejax.tables import GRIDS, near
from sdejax.train.loop import Preempted
from sdejax.train.preemption import EXIT_CODE

TRAIN_HELP = """\
Train a model, or go on training it: the same command resumes from the newest checkpoint.

  sdejax train --config configs/digits.py --workdir runs/digits
  sdejax train --config configs/digits.py --workdir runs/short --config.train.steps=500

Any key of the config can be overridden as --config.KEY=VALUE; an unknown key is an error that
names the nearest known one. The config file is Python and is executed.
"""
SAMPLE_HELP = """\
Draw samples from a trained model and write a picture (.png) or arrays (.npz).

  sdejax sample --workdir runs/digits --num 64 --out digits.png
  sdejax sample --workdir runs/digits --num 1000 --sampler shark --label 7 --out sevens.npz
"""
FIT_SOLVER_HELP = """\
Fit a few-step solver to a trained model: the times and weights with which N evaluations come
nearest to accurate samples. Costs minutes, once; then sample with it.

  sdejax fit-solver --workdir runs/digits --evaluations 8
  sdejax sample --workdir runs/digits --solver runs/digits/solver_8.npz
"""
PLAIN = argparse.RawDescriptionHelpFormatter


def parser() -> argparse.ArgumentParser:
    """The parser of both commands.

    Returns:
        The parser; ``config`` overrides are left to ``read_config``.
    """
    main_parser = argparse.ArgumentParser(
        "sdejax", description="Generative models on stochastic and ordinary differential equations."
    )
    main_parser.add_argument(
        "--version", action="version", version=f"sdejax {metadata.version('sdejax')}"
    )
    commands = main_parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    trainer = commands.add_parser(
        "train", help="train a model", description=TRAIN_HELP, formatter_class=PLAIN
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

    sampler = commands.add_parser(
        "sample", help="draw samples", description=SAMPLE_HELP, formatter_class=PLAIN
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

    fitter = commands.add_parser(
        "fit-solver", help="fit a few-step solver", description=FIT_SOLVER_HELP,
        formatter_class=PLAIN,
    )  # fmt: skip
    fitter.add_argument("--workdir", required=True, type=Path, help="folder of a run")
    fitter.add_argument("--evaluations", type=int, default=8, help="of the network (default 8)")
    fitter.add_argument("--pairs", type=int, default=256, help="accurate samples (default 256)")
    fitter.add_argument("--iterations", type=int, default=300, help="(default 300)")
    fitter.add_argument("--batch", type=int, default=16, help="pairs an iteration (default 16)")
    fitter.add_argument("--seed", type=int, default=0, help="(default 0)")
    fitter.add_argument("--out", type=Path, help="default: WORKDIR/solver_N.npz")
    return main_parser


def read_config(argument: str, overrides: list[str]) -> ConfigDict:
    """The config of a file, with overrides from the command line.

    Args:
        argument: "file.py" or "file.py:argument of get_config".
        overrides: ["--config.a.b=value", ...].

    Returns:
        The locked config.

    Raises:
        ValueError: for a file without ``get_config``, an unknown key or a value of another type.
        FileNotFoundError: where there is no such file.
    """
    name, _, extra = argument.partition(":")
    path = Path(name)
    if not path.is_file():
        raise FileNotFoundError(f"--config: there is no file {name!r}; expected a Python file")
    spec = importlib.util.spec_from_file_location(f"sdejax_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"--config: {name!r} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError(f"--config: {name!r} has no function get_config() -> ConfigDict")
    arguments = [extra] if extra else []
    try:
        inspect.signature(module.get_config).bind(*arguments)
    except TypeError as error:
        raise ValueError(f"--config: get_config of {name!r} and {arguments}: {error}") from error
    config = _overridable(module.get_config(*arguments))
    overrides = _data_options(config, overrides)
    for override in overrides:
        key = override.partition("=")[0].removeprefix("--config.")
        known = keys_of(config)
        if not override.startswith("--config.") or "=" not in override:
            raise ValueError(f"unknown argument {override!r}; overrides are --config.KEY=VALUE")
        if key not in known:
            raise ValueError(f"--config.{key}: no such key{near(key, known)}")
    values, words = flags.FlagValues(), ["sdejax", *overrides]
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=words)
        values(words)
    except flags.Error as error:
        raise ValueError(str(error)) from error
    return values.config


def _data_options(config: ConfigDict, overrides: list[str]) -> list[str]:
    """Sets ``data.options``, whose keys depend on the source; gives the other overrides back.

    Another source starts without the options of the file's own.
    """
    prefix, rest = "--config.data.options.", []
    if any(override.startswith("--config.data.source=") for override in overrides):
        config.data.options = ConfigDict()
    for override in overrides:
        key, sign, value = override.removeprefix(prefix).partition("=")
        if not override.startswith(prefix) or not sign:
            rest.append(override)
            continue
        try:
            config.data.options[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            config.data.options[key] = value  # a word
    return rest


def _overridable(config: ConfigDict) -> ConfigDict:
    """Entries that are None may be given any value."""
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            _overridable(value)
        elif value is None:
            config[key] = config_dict.placeholder(object)
    return config


def run_train(args: argparse.Namespace, overrides: list[str]) -> None:
    """``sdejax train``.

    Args:
        args: the parsed arguments.
        overrides: of the config.
    """
    config = read_config(args.config, overrides)
    if args.coordinator:
        jax.distributed.initialize(args.coordinator, args.num_processes, args.process_id)
    elif args.distributed:
        jax.distributed.initialize()
    train(config.to_dict(), args.workdir)


def run_sample(args: argparse.Namespace) -> None:
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


def run_fit_solver(args: argparse.Namespace) -> None:
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


def main(argv: list[str] | None = None) -> None:
    """The console script ``sdejax``.

    Args:
        argv: arguments, by default those of the process.
    """
    main_parser = parser()
    args, rest = main_parser.parse_known_args(argv)
    try:
        if args.command == "train":
            run_train(args, rest)
        elif rest:
            raise ValueError(f"unknown argument {rest[0]!r}; see sdejax {args.command} --help")
        elif args.command == "sample":
            run_sample(args)
        else:
            run_fit_solver(args)
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
