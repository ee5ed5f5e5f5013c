"""Noise for the bins of one data set: scaling, network, fit and file together.

``fit`` learns the noise of variational dequantisation for a density, ``save`` and ``load`` keep it
beside a model, and ``likelihood.discrete_bound`` uses it:

    noise, history = fit(key, log_density_fn, scaling, train, held_out)
    discrete_bound(key, log_density_fn, quantisation_of(scaling), k,
                   dequantiser=noise.dequantiser, params=noise.params, samples=K)
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any, NamedTuple

import jax

from sdejax.data.scaling import Scaling
from sdejax.likelihood.dequantisation import Dequantiser, LogDensity, variational
from sdejax.likelihood.fit_dequantiser import History, fit_dequantiser, load_noise, save_noise
from sdejax.likelihood.quantisation import Quantisation, quantisation
from sdejax.nets.dequantiser import NoiseConditioner, init_noise_network, noise_network
from sdejax.types import Key, Params

SIZES = ("layers", "features", "depth")


class Noise(NamedTuple):
    """A dequantiser with its parameters, and what they are for."""

    dequantiser: Dequantiser
    params: Params
    about: dict[str, Any]  # event_shape, levels, offset, scale and the sizes of the network


def quantisation_of(scaling: Scaling) -> Quantisation:
    """The bins of a data set.

    Args:
        scaling: of the data.

    Returns:
        The quantisation.

    Raises:
        ValueError: for real-valued data, which have no bins.
    """
    return quantisation(scaling.offset, scaling.scale, scaling.levels)


def uniform_noise(
    key: Key,
    scaling: Scaling,
    event_shape: tuple[int, ...],
    *,
    layers: int = 4,
    features: int = 32,
    depth: int = 3,
) -> Noise:
    """A flow that has not been fitted: uniform noise, whatever its parameters' key is.

    Args:
        key: of the parameters.
        scaling: of the data.
        event_shape: shape of one example.
        layers: couplings.
        features: channels of the network of each, or hidden units.
        depth: hidden layers.

    Returns:
        The noise.

    Raises:
        ValueError: for real-valued data or a size below 1.
    """
    q = quantisation_of(scaling)
    if min(layers, features, depth) < 1:
        raise ValueError(
            f"dequantiser: got layers={layers}, features={features}, depth={depth}; expected at "
            "least 1 of each"
        )
    module = NoiseConditioner(features, depth)
    about = _identity(q, event_shape) | dict(zip(SIZES, (layers, features, depth), strict=True))
    params = init_noise_network(key, module, event_shape, layers)
    return Noise(variational(noise_network(module), q.levels, layers), params, about)


def fit(
    key: Key,
    log_density_fn: LogDensity,
    scaling: Scaling,
    train: Any,
    held_out: Any,
    *,
    layers: int = 4,
    features: int = 32,
    depth: int = 3,
    **options: Any,
) -> tuple[Noise, History]:
    """Noise fitted to a density on a data set.

    Args:
        key: of parameters, mini-batches and noise.
        log_density_fn: differentiable (key, y) -> nats [], e.g. an ELBO of one draw.
        scaling: of the data.
        train: stored integers [n, *event], e.g. the column ``Dataset.x``.
        held_out: stored integers [m, *event] that choose the best parameters; a few hundred,
            and not those that are reported on.
        layers: couplings.
        features: channels of the network of each, or hidden units.
        depth: hidden layers.
        **options: of ``fit_dequantiser``: iterations, batch, learning_rate, samples, checks,
            progress.

    Returns:
        The noise and the history of the bound in bits per dimension, whose first held-out value is
        that of uniform noise.

    Raises:
        ValueError: for real-valued data, values that are no levels, or too little of anything.
        FloatingPointError: where the bound is not finite.
    """
    start_key, fit_key = jax.random.split(key)
    noise = uniform_noise(
        start_key, scaling, tuple(train.shape[1:]), layers=layers, features=features, depth=depth
    )
    params, history = fit_dequantiser(
        fit_key, noise.dequantiser, noise.params, log_density_fn, quantisation_of(scaling),
        train, held_out, **options,
    )  # fmt: skip
    return noise._replace(params=params), history


def save(path: str | os.PathLike, noise: Noise) -> None:
    """Writes fitted noise as ``.npz``.

    Args:
        path: the file.
        noise: of ``fit``.
    """
    save_noise(path, noise.params, noise.about)


def load(path: str | os.PathLike, scaling: Scaling, event_shape: tuple[int, ...]) -> Noise:
    """Reads fitted noise for a data set.

    Args:
        path: a file of ``save``.
        scaling: of the data that it is to be used on.
        event_shape: shape of one example of them.

    Returns:
        The noise.

    Raises:
        ValueError: for a file that holds none, or one for other data.
        FileNotFoundError: where there is none.
    """
    params, about = load_noise(path)
    wanted = _identity(quantisation_of(scaling), event_shape)
    for name, value in wanted.items():
        if about.get(name) != value:
            raise ValueError(
                f"{path}: got noise for data of {name} {about.get(name)}; expected {value}; fit "
                "the dequantiser on this data set"
            )
    sizes: dict[str, Any] = {name: about.get(name) for name in SIZES}
    if not all(isinstance(size, int) and size >= 1 for size in sizes.values()):
        raise ValueError(f"{path}: got {sizes}; expected the sizes of a network; fit it again")
    # Nothing is made of a size that the parameters in the file do not show.
    if sizes["layers"] != len(params) or max(sizes.values()) > _largest(params):
        raise ValueError(f"{path}: got parameters of another network than {sizes}; fit it again")
    make = partial(uniform_noise, scaling=scaling, event_shape=event_shape, **sizes)
    expected = jax.eval_shape(lambda key: make(key).params, jax.random.key(0))
    shapes = [jax.tree.map(lambda leaf: leaf.shape, tree) for tree in (params, expected)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"{path}: got parameters of another network than {sizes}; fit it again")
    return make(jax.random.key(0))._replace(params=params)


def _largest(params: Params) -> int:
    """No layer count or width of a network exceeds this."""
    leaves = jax.tree.leaves(params)
    return max([len(leaves), *(size for leaf in leaves for size in leaf.shape)])


def _identity(q: Quantisation, event_shape: tuple[int, ...]) -> dict[str, Any]:
    """What noise has to agree on with the data, of JSON's kinds."""
    return {
        "event_shape": list(event_shape),
        "levels": q.levels,
        "offset": q.offset.tolist(),
        "scale": q.scale.tolist(),
    }
