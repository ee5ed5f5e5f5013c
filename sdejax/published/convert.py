"""A published checkpoint becomes a workdir, as if the run had been made here.

    file -> contents -> preset -> config -> trees -> TrainState -> workdir

The state is whole: weights, average, Adam's moments and counters, so sampling, likelihood and
further training start from it. Adam's moments are those of the published loss; divided by
``loss_scale`` once and twice they are those of the library's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from sdejax.build import build_model, build_optimizer, change, count_params
from sdejax.data.scaling import integers, uncentred
from sdejax.published.choice import choose
from sdejax.published.contents import Contents, flax_contents, torch_contents, torch_weights
from sdejax.published.flax_file import read_flax
from sdejax.published.placement import Placed, place
from sdejax.published.run_config import event_shape, loss_scale, published_config, sized
from sdejax.published.runs import PUBLISHED, Run, matching
from sdejax.published.torch_file import read_torch
from sdejax.train.catalog import all_steps
from sdejax.train.checkpoint import Checkpoints
from sdejax.train.state import TrainState, init_state
from sdejax.untrusted import refuse_links

BAR = "{desc:20} {bar:20} {elapsed}"
Change = Callable[[Any], Any]  # a config to a config
T = TypeVar("T")
WHERE = (
    "The authors link their files from the README of github.com/yang-song/score_sde_pytorch, "
    "github.com/yang-song/score_sde, github.com/ermongroup/ncsnv2 and github.com/ermongroup/ncsn"
)


class Converted(NamedTuple):
    """What was converted: preset, config, and what the file held."""

    preset: str
    config: dict[str, Any]
    event_shape: tuple[int, ...]
    layout: str
    step: int
    parameters: int
    has_average: bool
    has_moments: bool


def convert(
    file: str | Path,
    workdir: str | Path,
    *,
    preset: str | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    levels: int = 256,
    changes: Mapping[str, Any] | Change | None = None,
    progress: bool = False,
) -> Converted:
    """Writes the workdir of a published checkpoint.

    Args:
        file: ``.pth`` of score_sde_pytorch, ncsnv2 or ncsn, or ``checkpoint_N`` of score_sde.
        workdir: folder of the run to be; it may not hold one already.
        preset: a row of ``runs.PUBLISHED`` or its last part; by default what the names and shapes
            of the tensors and the table of noise levels tell.
        image_size: side of the images, where it is not the published one.
        channels: of the images, likewise.
        levels: grey levels of the images that it was trained on, the stored integers.
        changes: of the config, by dotted key (``{"network.nf": 64}``), or a function of it.
        progress: show a bar.

    Returns:
        What was converted.

    Raises:
        ValueError: for a file that is damaged, hostile or of another layout; a preset that it does
            not fit, naming the tensor; several presets that it fits; a workdir with a run in it.
        FileNotFoundError: for no file, saying where the authors' are.
    """
    file, workdir = Path(file), Path(workdir)
    if not file.exists():
        raise FileNotFoundError(f"{file}: there is no such file. {WHERE}")
    _require_free(workdir)
    if not 2 <= levels <= 2**16:
        raise ValueError(f"levels: got {levels}; expected 2 to 65536 grey levels")
    if changes and preset is None:
        raise ValueError(
            "preset: options of the config need one that they change, such as "
            "vp/cifar10_ddpmpp_continuous; sdejax convert --help lists them"
        )
    presets = {
        name: sized(PUBLISHED[name], image_size, channels)
        for name in (PUBLISHED if preset is None else matching(preset))
    }
    configs = {name: _config(run, changes) for name, run in presets.items()}
    with tqdm(total=4, disable=not progress, leave=False, bar_format=BAR) as bar:
        bar.set_description_str("reading")
        tree, weights_of, contents_of = _read(file)
        bar.update()
        bar.set_description_str("choosing the preset")
        weights = _said_of(file, lambda: weights_of(tree))
        name, slots = _said_of(file, lambda: choose(weights, configs, preset))
        bar.update()
        bar.set_description_str("placing tensors")
        config = configs[name]
        what = f"{file} (as {name})"
        # The weights alone first: only they can tell which tensor is missing.
        alone = weights._replace(average=None, moments=None)
        _said_of(what, lambda: place(alone, config["network"], slots))
        contents = _said_of(what, lambda: contents_of(tree))
        if contents.decay is not None:
            config = _config(presets[name]._replace(ema_decay=contents.decay), changes)
        placed = _said_of(what, lambda: place(contents, config["network"], slots))
        shape = event_shape(presets[name]._replace(options=config["network"]))
        state = make_state(config, contents, placed, loss_scale(presets[name], shape))
        bar.update()
        bar.set_description_str("writing the workdir")
        _write(workdir, state, config, shape, levels, {"file": file.name, "preset": name})
        bar.update()
    return Converted(
        name, config, shape, contents.layout, contents.step, count_params(state.params),
        contents.average is not None, contents.moments is not None,
    )  # fmt: skip


def read(file: str | Path) -> Contents:
    """What a published checkpoint holds, whichever of the two formats it has.

    Args:
        file: the checkpoint.

    Returns:
        The contents.

    Raises:
        ValueError: naming the file, and the tensor where one is at fault.
        OSError: where it cannot be opened.
    """
    tree, _, contents_of = _read(Path(file))
    return _said_of(file, lambda: contents_of(tree))


def _read(file: Path) -> tuple[Any, Callable[[Any], Contents], Callable[[Any], Contents]]:
    """The tree of a file, and how to find the weights, or all that is told, in it."""
    # A msgpack dictionary begins with 0x8?, 0xde or 0xdf. A pickle begins with 0x80, which as
    # msgpack would be a dictionary of nothing.
    if file.is_dir():
        return read_torch(file), torch_weights, torch_contents  # which says what is expected
    with file.open("rb") as stream:
        kind = stream.read(1)
    if kind in (b"\xde", b"\xdf") or b"\x81" <= kind <= b"\x8f":
        return read_flax(file), flax_contents, flax_contents
    return read_torch(file), torch_weights, torch_contents


def _said_of(what: Any, call: Callable[[], T]) -> T:
    """A call whose complaint names the file."""
    try:
        return call()
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None


def make_state(
    config: Mapping[str, Any], contents: Contents, placed: Placed, scale: float
) -> TrainState:
    """The state to sample and go on training from.

    Args:
        config: nested.
        contents: of the checkpoint.
        placed: its trees.
        scale: the published loss over the library's.

    Returns:
        The state at the checkpoint's step. Without moments Adam starts anew.
    """
    _, run_key, _ = jax.random.split(jax.random.key(config["seed"]), 3)  # as a run's own
    state = init_state(placed.params, build_optimizer(config), run_key)
    opt_state = state.opt_state
    if contents.moments is not None:
        opt_state = optax.tree_utils.tree_set(
            opt_state,
            mu=jax.tree.map(lambda m: jnp.asarray(m / np.float32(scale)), placed.first),
            nu=jax.tree.map(lambda v: jnp.asarray(v / np.float32(scale) ** 2), placed.second),
            count=jnp.asarray(contents.moments.updates, jnp.int32),
        )
    return state._replace(
        step=jnp.asarray(contents.step, jnp.int32),
        opt_state=opt_state,
        ema_params=jax.tree.map(jnp.array, placed.average),
    )


def _require_free(workdir: Path) -> None:
    """Refuses a workdir that cannot be made or holds a run, before the file is read."""
    if all_steps(workdir / "checkpoints"):
        raise ValueError(f"workdir: {workdir} holds a run already; give another folder")
    there = next(path for path in (workdir, *workdir.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ValueError(f"workdir: got {workdir}, but {there} is no folder that can be written to")


def _config(run: Run, changes: Mapping[str, Any] | Change | None) -> dict[str, Any]:
    """The config of a run with its options; what it is made of is the preset's."""
    config = published_config(run)
    kinds = ("sde", "network", "prediction", "conditioning", "optimizer")
    meant = {kind: config[kind].name for kind in kinds}
    if callable(changes):
        config = changes(config)
    elif changes:
        change(config, changes)
    for kind, name in meant.items():
        if config[kind].name != name:
            raise ValueError(
                f"{kind}.name: got {config[kind].name!r}, but the preset has {name!r}; give the "
                "preset that the network was trained as"
            )
    return config.to_dict()


def _write(
    workdir: Path,
    state: TrainState,
    config: Mapping[str, Any],
    shape: Sequence[int],
    levels: int,
    origin: Mapping[str, str],
) -> None:
    """Config and checkpoint. The data set is whatever training will be given."""
    scaling = integers(levels) if config["data"]["centered"] else uncentred(integers(levels))
    step = int(state.step)
    meta = {
        "config": config,
        "converted": dict(origin),
        "rollbacks": 0,
        "data": {"scaling": scaling.to_json(), "next_step": step},
        "event_shape": list(shape),
        "num_classes": None,
    }
    build_model(config, tuple(shape), None)  # what cannot be built is not written
    refuse_links(workdir, ("config.json",))
    with Checkpoints(workdir / "checkpoints", best="held_out_loss") as checkpoints:
        checkpoints.save(step, state, meta)
    (workdir / "config.json").write_text(json.dumps(config, indent=2) + "\n")
