"""``sdejax convert``: a published checkpoint becomes a workdir."""

from __future__ import annotations

import argparse
import textwrap
from functools import partial
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from sdejax.commands.config import overridden
from sdejax.published.convert import WHERE, convert
from sdejax.published.runs import PUBLISHED

Commands = Any  # what ``ArgumentParser.add_subparsers`` gives

HELP = f"""\
Make a workdir of a published checkpoint: .pth files of score_sde_pytorch, ncsn and ncsnv2, and the
checkpoint_N files of score_sde (Flax). Nothing in the file is executed, and PyTorch is not needed.
Then sdejax sample, likelihood, diagnose, fit-solver and train work on it as on a run of your own.

  sdejax convert checkpoint_26.pth --preset ve/cifar10_ncsnpp_continuous --workdir runs/ncsnpp
  sdejax sample --workdir runs/ncsnpp --sampler unipc_3 --steps 20 --grid log_snr

Without --preset it is found by names and shapes of the tensors and the table of noise levels. Where
several presets are left (VE, VP or sub-VP, discrete or continuous, the data), they are named.
A network of another size takes options of the config: --config.network.nf=64 --image-size 16.

{textwrap.fill(WHERE, 99)}.

presets:
{textwrap.fill(", ".join(PUBLISHED), 98, initial_indent="  ", subsequent_indent="  ")}
"""


def add(commands: Commands) -> None:
    """Declares the command.

    Args:
        commands: the sub-parsers of ``sdejax``.
    """
    found = commands.add_parser(
        "convert", help="make a workdir of a published checkpoint", description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    found.add_argument("file", type=Path, metavar="FILE", help="the published checkpoint")
    found.add_argument("--workdir", required=True, type=Path, help="folder of the run to be")
    found.add_argument("--preset", metavar="NAME", help="which network and noise; see above")
    found.add_argument("--image-size", type=int, help="side of the images; default: as published")
    found.add_argument("--channels", type=int, help="of the images; default: as published")
    found.add_argument(
        "--levels", type=int, default=256, help="grey levels of the images, as stored (default 256)"
    )
    found.set_defaults(run=run, overridable=True)


def run(args: argparse.Namespace) -> None:
    """``sdejax convert``.

    Args:
        args: the parsed arguments.

    Raises:
        ValueError: as ``convert``.
    """
    for word in args.overrides:
        if word.startswith("--config.") and "=" not in word:
            raise ValueError(f"unknown argument {word!r}; overrides are --config.KEY=VALUE")
        if not word.startswith("--config."):
            raise ValueError(f"unknown argument {word!r}; see sdejax convert --help")
    for name in ("image_size", "channels"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')}: got {value}; expected at least 1")
    found = convert(
        args.file, args.workdir, preset=args.preset, image_size=args.image_size,
        channels=args.channels, levels=args.levels,
        changes=partial(_changed, args.overrides) if args.overrides else None, progress=True,
    )  # fmt: skip
    average = (
        f"; their average has decay {found.config['train']['ema_decay']:g}"
        if found.has_average
        else "; no average in the file, so the weights stand for it"
    )
    adam = "" if found.has_moments else "; no state of Adam, which starts anew"
    print(
        f"{args.workdir}: {found.preset}, {found.parameters:,} parameters, images "
        f"{list(found.event_shape)}, step {found.step} of {args.file.name} ({found.layout})"
        f"{average}{adam}\nnext, to see whether the preset is right: "
        f"sdejax sample --workdir {args.workdir} --num 16"
    )


def _changed(overrides: list[str], config: ConfigDict) -> ConfigDict:
    return overridden(config, overrides)
