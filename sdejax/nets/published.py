"""Weights of published checkpoints, into this library's parameter trees.

A published PyTorch network holds its layers in one list, ``all_modules``, in the order in which
they run. So no table of names is kept here: the network is traced once, and the k-th of its own
layers to run is ``all_modules.k``. Within a block the names agree; kernel and scale are ``weight``
there, a convolution is [out, in, height, width] and a linear map [out, in]. NIN maps (``W``, ``b``)
are stored as here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sdejax.nets.unet import UNet, geometric_levels

Path = tuple[str, ...]


class Slot(NamedTuple):
    """Where a published tensor goes: our path, the axes to transpose by, the published shape."""

    path: Path
    axes: tuple[int, ...]
    shape: tuple[int, ...]


def _shapes(config: Mapping[str, Any]) -> tuple[dict[Path, tuple[int, ...]], list[Path]]:
    """Shape of every parameter by its path, and paths of the modules in the order they run."""
    for key in ("image_size", "out_channels"):
        if config.get(key) is None:
            raise ValueError(
                f"config_kwargs: {key} is missing; give the one the network was built for"
            )
    if config.get("num_classes") is not None:
        raise ValueError(
            "config_kwargs: num_classes must be None; published networks have no labels"
        )
    order: list[Path] = []

    def record(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        order.append(context.module.path)
        return call(*args, **kwargs)

    net = UNet(**{**config, "remat": False})
    side, channels = config["image_size"], config["out_channels"]
    x = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.float32)
    with nn.intercept_methods(record):
        tree = jax.eval_shape(net.init, jax.random.key(0), x, t)["params"]
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {tuple(k.key for k in path): leaf.shape for path, leaf in flat}, order


def _leaf(owner: str, leaf: str, rank: int) -> tuple[str, tuple[int, ...]]:
    """Published name of a parameter, and the axes that take the published array to ours."""
    if owner.startswith("NIN"):
        return {"kernel": "W", "bias": "b"}[leaf], tuple(range(rank))
    axes = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[rank]
    return {"kernel": "weight", "scale": "weight"}.get(leaf, leaf), axes


def parameter_slots(config_kwargs: Mapping[str, Any]) -> dict[str, Slot]:
    """Where each published parameter goes, by its published name.

    The order is that of ``model.parameters()``, in which published averages are stored.

    Args:
        config_kwargs: keyword arguments of `UNet`, such as a preset's.

    Raises:
        ValueError: if ``image_size`` or ``out_channels`` is missing.
    """
    shapes, order = _shapes(config_kwargs)
    owned: dict[Path, list[str]] = {}
    for path in shapes:
        owned.setdefault(path[:-1], []).append(path[-1])
    owners = [path for path in dict.fromkeys(order) if path in owned]
    layers = {name: k for k, name in enumerate(dict.fromkeys(path[0] for path in owners))}
    table = {}
    for owner in owners:
        for leaf in sorted(owned[owner], key="bias".__eq__):
            shape = shapes[(*owner, leaf)]
            name, axes = _leaf(owner[-1], leaf, len(shape))
            published = ".".join(["all_modules", str(layers[owner[0]]), *owner[1:], name])
            theirs = tuple(shape[axes.index(i)] for i in range(len(axes)))
            table[published] = Slot((*owner, leaf), axes, theirs)
    return table


def from_state_dict(
    config_kwargs: Mapping[str, Any], state_dict: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Parameters of a published DDPM, DDPM++ or NCSN++ network, for ``UNet(**config_kwargs)``.

    Args:
        config_kwargs: keyword arguments of `UNet`, such as a preset's, ``image_size`` and
            ``out_channels`` among them.
        state_dict: published arrays by their names (``all_modules.0.weight`` ...), without a prefix
            ``module.``. The buffer ``sigmas`` may be there; it is compared with ``sigma_levels``.

    Returns:
        The tree to give to ``UNet.apply`` as {"params": tree}; dtypes are those of the arrays.

    Raises:
        ValueError: naming a tensor that is missing, not expected, or of another shape.

    Reference: Song et al. 2021 (arXiv:2011.13456); github.com/yang-song/score_sde_pytorch.
    """
    table = parameter_slots(config_kwargs)
    given = {name: np.asarray(array) for name, array in state_dict.items()}
    _check_levels(config_kwargs.get("sigma_levels"), given.pop("sigmas", None))
    return placed(table, given)


def placed(table: Mapping[str, Slot], given: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """A parameter tree of published arrays.

    Args:
        table: where each parameter goes, by its published name.
        given: published arrays by the same names.

    Returns:
        The tree; dtypes are those of the arrays.

    Raises:
        ValueError: naming a tensor that is missing, not expected, or of another shape.
    """
    params: dict[str, Any] = {}
    for name, (path, axes, want) in table.items():
        if name not in given:
            raise ValueError(
                f"state_dict: {name} is missing (for {'/'.join(path)}); is this the "
                "configuration that the checkpoint was trained with?"
            )
        if given[name].shape != want:
            raise ValueError(
                f"state_dict: {name} has shape {given[name].shape}, expected {want} (for "
                f"{'/'.join(path)}); is this the right configuration?"
            )
        node = params
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = np.ascontiguousarray(given[name].transpose(axes))
    surplus = sorted(set(given) - set(table))
    if surplus:
        raise ValueError(
            f"state_dict: {surplus[0]} and {len(surplus) - 1} more have no place in this network; "
            "is this the right configuration?"
        )
    return params


def _check_levels(levels: tuple[float, float, int] | None, sigmas: np.ndarray | None) -> None:
    """Refuse a checkpoint whose table of noise levels is not the configured one."""
    if levels is None or sigmas is None:
        return
    want = geometric_levels(*levels)
    if sigmas.shape != want.shape or not np.allclose(sigmas, want, rtol=1e-5, atol=0):
        raise ValueError(
            f"state_dict: sigmas has {sigmas.size} levels from {sigmas[0]:g} to {sigmas[-1]:g}, "
            f"expected sigma_levels={levels}; change sigma_levels in config_kwargs"
        )
