"""Names of the original JAX networks, and those of their PyTorch copies.

The authors published DDPM, DDPM++ and NCSN++ twice. In PyTorch the layers lie in one list,
``all_modules.k``. In Flax layer k is called after its class and how many of that class came before:
``Conv_0``, ``ResnetBlockBigGANpp_3``. Within a block both use the same names, except that a weight
is ``scale`` in a norm and ``kernel`` in a convolution or a linear map (but ``weight`` in
``Conv2d_0``). Flax stores kernels as this library does, [in, out] and [height, width, in, out], so
one table, `parameter_slots`, gives the order, both layouts and all shapes.

Numbers count the layers that have parameters. Flax counts those without as well; the two agree
unless one network has resamplers with a convolution beside such without. No published one has.

Reference: Song et al. 2021 (arXiv:2011.13456); github.com/yang-song/score_sde, ``models/``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from sdejax.nets.published import Slot, parameter_slots
from sdejax.nets.unet import UNet

Path = tuple[str, ...]
BLOCKS = {"biggan": "ResnetBlockBigGANpp", "ddpm": "ResnetBlockDDPM"}
ATTENTION = {"biggan": "AttnBlockpp", "ddpm": "AttnBlock"}
CLASSES = {
    "fourier": "GaussianFourierProjection",
    "time": "Dense",
    "in": "Conv",
    "conv": "Conv",
    "norm": "GroupNorm",
    "combine": "Combine",
}
RIGHT = "is this the right preset?"


def to_state_dict(
    config_kwargs: Mapping[str, Any],
    tree: Mapping[str, Any],
    slots: Mapping[str, Slot] | None = None,
) -> dict[str, np.ndarray]:
    """Parameters of an original JAX network, as a PyTorch state_dict.

    Args:
        config_kwargs: keyword arguments of `UNet`, such as a preset's.
        tree: the parameters, {"Conv_0": {"kernel": ..., "bias": ...}, ...}, such as ``params_ema``
            of a checkpoint. Norms may have shape (C,), or (1, 1, 1, C) as Flax had it in 2021.
        slots: ``parameter_slots(config_kwargs)``, where it is known already.

    Returns:
        Arrays by their names in PyTorch, in the order of ``model.parameters()``: convolutions
        [out, in, height, width], linear maps [out, in]. Dtypes are kept; arrays are views.

    Raises:
        ValueError: naming a tensor that is missing, not expected, or of another shape.

    Reference: github.com/yang-song/score_sde, github.com/yang-song/score_sde_pytorch.
    """
    given = dict(_leaves(tree))
    slots = parameter_slots(config_kwargs) if slots is None else slots
    state = {}
    for name, path in _paths(config_kwargs, slots).items():
        if path not in given:
            raise ValueError(
                f"parameters: {_name(path)} is missing (for {name}) among "
                f"{len(given)} tensors, {_some(given)}; {RIGHT}"
            )
        _, axes, theirs = slots[name]
        array, want = given.pop(path), tuple(theirs[axis] for axis in axes)
        if path[-2].startswith("GroupNorm") and array.shape == (1, 1, 1, *want):
            array = array.reshape(want)
        if array.shape != want:
            raise ValueError(
                f"parameters: {_name(path)} has shape {array.shape}, expected {want} (for "
                f"{name}); {RIGHT}"
            )
        state[name] = array.transpose(np.argsort(axes))
    if given:
        raise ValueError(
            f"parameters: {len(given)} tensors have no place in this network, {_some(given)}; "
            f"{RIGHT}"
        )
    return state


def flax_paths(config_kwargs: Mapping[str, Any]) -> dict[str, Path]:
    """Where each parameter lies in the tree of the original JAX network, by its PyTorch name.

    Args:
        config_kwargs: keyword arguments of `UNet`, such as a preset's.

    Returns:
        Such as {"all_modules.3.Conv_0.weight": ("ResnetBlockBigGANpp_0", "Conv_0", "kernel")}, in
        the order of ``model.parameters()``.

    Raises:
        ValueError: if ``image_size`` or ``out_channels`` is missing.
    """
    return _paths(config_kwargs, parameter_slots(config_kwargs))


def _paths(config_kwargs: Mapping[str, Any], slots: Mapping[str, Slot]) -> dict[str, Path]:
    kind = config_kwargs.get("resblock_type", UNet.resblock_type)
    counts: Counter[str] = Counter()
    layers: dict[str, str] = {}
    paths = {}
    for name, slot in slots.items():
        _, layer, *inside, leaf = name.split(".")
        if layer not in layers:
            made = _class(slot.path[0], kind)
            layers[layer] = f"{made}_{counts[made]}"
            counts[made] += 1
        path = (layers[layer], *inside)
        paths[name] = (*path, _leaf(path[-1], leaf))
    return paths


def _class(layer: str, kind: str) -> str:
    """Class of one of our layers (``fourier``, ``down_0_block_1``) in the original network."""
    place, *words = [word for word in layer.split("_") if not word.isdigit()]
    what = words[-1] if words else place
    if what == "block" or (what == "resample" and kind == "biggan"):
        return BLOCKS[kind]
    if what in ("resample", "pyramid"):
        return {"down": "Downsample", "up": "Upsample"}[place]
    return ATTENTION[kind] if what == "attn" else CLASSES[what]


def _leaf(owner: str, leaf: str) -> str:
    """Name of a PyTorch leaf in Flax."""
    if leaf != "weight" or owner.startswith("Conv2d"):
        return leaf
    return "scale" if owner.startswith("GroupNorm") else "kernel"


def _leaves(node: Any, at: Path = ()) -> Iterator[tuple[Path, np.ndarray]]:
    """Every tensor with its path."""
    if isinstance(node, Mapping):
        for key, child in node.items():
            yield from _leaves(child, (*at, str(key)))
        return
    array = np.asarray(node)
    if array.dtype.kind in "OUSMm":
        raise ValueError(
            f"parameters: {_name(at)} is {type(node).__name__}, expected an array of numbers"
        )
    yield at, array


def _name(path: Path) -> str:
    return "/".join(path)


def _some(given: Mapping[Path, Any]) -> str:
    """A few of their names."""
    names = [_name(path)[:120] for path in given]
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
