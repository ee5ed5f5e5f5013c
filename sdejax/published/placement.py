"""Where the tensors of a checkpoint go in a network of this library, and which networks they fit.

The names and shapes of a network's published tensors come from the network itself, traced once
(``tensor_slots``); weights, average and both of Adam's moments are placed by the same table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from sdejax.nets import published_ncsn
from sdejax.nets.ncsn import NCSN
from sdejax.nets.ncsnv2 import NCSNv2
from sdejax.nets.published import Slot, parameter_slots, placed
from sdejax.published.contents import FROZEN, Contents
from sdejax.published.entries import Tensors
from sdejax.published.flax_names import to_state_dict

Slots = Mapping[str, Slot]


class Placed(NamedTuple):
    """Trees of float32 arrays, as the network takes them; moments are None where there are none."""

    params: dict[str, Any]
    average: dict[str, Any]
    first: dict[str, Any] | None
    second: dict[str, Any] | None


# Names of networks of ``sdejax.tables`` that have published weights, with the table of tensors.
NETWORKS: Mapping[str, Callable[[Mapping[str, Any]], Slots]] = {
    "unet": parameter_slots,
    "ncsn": lambda options: published_ncsn.parameter_slots(NCSN(**options)),
    "ncsnv2": lambda options: published_ncsn.parameter_slots(NCSNv2(**options)),
}


def tensor_slots(network: Mapping[str, Any]) -> Slots:
    """Where each published tensor goes, by its name in PyTorch.

    Args:
        network: its name and options, as ``config.network``.

    Returns:
        The table, in the order of ``model.parameters()``.

    Raises:
        ValueError: for a network without published weights.
    """
    options = {key: value for key, value in network.items() if key != "name"}
    if network["name"] not in NETWORKS:
        raise ValueError(
            f"network: got {network['name']!r}; published weights fit {', '.join(NETWORKS)}"
        )
    return NETWORKS[network["name"]](options)


def place(contents: Contents, network: Mapping[str, Any], slots: Slots) -> Placed:
    """Trees of a checkpoint.

    The frequencies of Fourier features take no gradient: their average is themselves, and their
    moments are zero, as are those of any tensor that had no gradient.

    Args:
        contents: of the checkpoint.
        network: name and options.
        slots: of ``tensor_slots``.

    Returns:
        The trees; the weights stand for an average that is not there.

    Raises:
        ValueError: naming a tensor that is missing, not expected, of another shape, or not finite.
    """

    def tree(what: str, tensors: Tensors, base: Mapping[str, np.ndarray]) -> dict[str, Any]:
        try:
            found = {**base, **_named(contents.layout, tensors, network, slots)}
            return placed(slots, {name: _float32(name, found[name]) for name in found})
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from None

    weights = average = tree("weights", contents.params, {})
    params = _named(contents.layout, contents.params, network, slots)
    if contents.layout == "score_sde_pytorch":
        _require_order(params, slots)
    if contents.average is not None:
        average = tree("average", contents.average, params)
    if contents.moments is None:
        return Placed(weights, average, None, None)
    zeros = {name: np.zeros(tensor.shape, np.float32) for name, tensor in params.items()}
    first, second = (
        tree("Adam's state", tensors, zeros)
        for tensors in (contents.moments.first, contents.moments.second)
    )
    for name, tensor in _named(contents.layout, contents.moments.second, network, slots).items():
        if np.min(tensor, initial=0) < 0:
            raise ValueError(f"Adam's state: {name}: a mean of squares is below 0; it is damaged")
    return Placed(weights, average, first, second)


def _require_order(params: Tensors, slots: Slots) -> None:
    """Refuses weights in another order than the network's, which lists without names follow."""
    for name, want in zip(params, slots, strict=True):
        if name != want:
            raise ValueError(
                f"weights: {name} stands where {want} does in the network, and the average and "
                "Adam's state have no names but follow that order; was the file written anew?"
            )


def fits(contents: Contents, network: Mapping[str, Any], slots: Slots) -> bool:
    """Whether the weights have the names and shapes of a network.

    Args:
        contents: of the checkpoint.
        network: name and options.
        slots: of ``tensor_slots``.

    Returns:
        True where each tensor has a place of its shape, and each place a tensor.
    """
    try:
        params = _named(contents.layout, contents.params, network, slots)
    except ValueError:
        return False
    shapes = {name: np.shape(tensor) for name, tensor in params.items()}
    return shapes == {name: slot.shape for name, slot in slots.items()}


def may_fit(contents: Contents, network: Mapping[str, Any]) -> bool:
    """Whether a network is of the kind that the names of the tensors tell; costs nothing.

    Args:
        contents: of the checkpoint.
        network: name and options.

    Returns:
        False where it cannot fit.
    """
    names = list(contents.params)
    if contents.layout == "score_sde":
        unet, fourier = True, any(name.startswith("GaussianFourier") for name in names)
    else:
        unet, fourier = names[0].startswith("all_modules."), FROZEN in names
    if network["name"] != "unet":
        conditional = any(name.endswith("embed.weight") for name in names)
        return not unet and conditional == (network["name"] == "ncsn")
    return unet and fourier == (network["embedding_type"] == "fourier")


def _named(
    layout: str, tensors: Tensors, network: Mapping[str, Any], slots: Slots
) -> Mapping[str, np.ndarray]:
    """Tensors by their names in PyTorch."""
    if layout != "score_sde":
        return tensors
    if network["name"] != "unet":
        raise ValueError(f"a checkpoint of score_sde is of a unet, not of {network['name']}")
    options = {key: value for key, value in network.items() if key != "name"}
    return to_state_dict(options, tensors, slots)


def _float32(name: str, tensor: np.ndarray) -> np.ndarray:
    """Finite numbers, and finite in float32 too."""
    if tensor.dtype.kind != "f":
        raise ValueError(f"{name}: got {tensor.dtype}, expected floating-point numbers")
    with np.errstate(over="ignore"):
        found = tensor.astype(np.float32, copy=False)
    if not np.all(np.isfinite(found)):
        raise ValueError(f"{name}: has values that are not finite; the training had diverged")
    return found
