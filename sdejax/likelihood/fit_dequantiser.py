"""Fitting the noise of variational dequantisation to a density, by gradient ascent on its bound.

The parameters phi of q maximise the mean over data of

    E_q[ log p(y(k, u)) + log |dy/du| - log q_phi(u | k) ],

with u a differentiable function of phi and of noise that is not (Ho et al. 2019, arXiv:1902.00275,
eq. 12). The density stays as it is. Whatever bound on log p is differentiated, the result is a
distribution like any other: noise that was fitted to the ELBO serves the ODE's likelihood too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from tqdm import tqdm

from sdejax.likelihood.dequantisation import Dequantiser, LogDensity, discrete_bound
from sdejax.likelihood.quantisation import Quantisation, require_levels
from sdejax.numpy_files import read_npz
from sdejax.types import Key, Params, Scalar
from sdejax.untrusted import parse_json

ABOUT = "about"  # the name in a file of what is no array
DEEPEST = 16  # modules within modules


class History(NamedTuple):
    """Bits per dimension during a fit; the first row is before it."""

    step: Int[np.ndarray, " checks"]
    training: Float[np.ndarray, " checks"]  # mean over the steps since the last row; NaN in row 0
    held_out: Float[np.ndarray, " checks"]  # of the same draws every time


def fit_dequantiser(
    key: Key,
    dequantiser: Dequantiser,
    params: Params,
    log_density_fn: LogDensity,
    q: Quantisation,
    train: Any,
    held_out: Any,
    *,
    iterations: int = 2000,
    batch: int = 64,
    learning_rate: float = 2e-3,
    samples: int = 1,
    checks: int = 20,
    progress: bool = False,
) -> tuple[Params, History]:
    """Parameters of a dequantiser fitted to a density (Adam, cosine schedule, clipped gradients).

    Args:
        key: of the mini-batches and of all noise.
        dequantiser: ``variational(...)``.
        params: where to start.
        log_density_fn: differentiable (key, y) -> nats []; an ELBO of one draw, one call of the
            network, is enough. A ``jax.tree_util.Partial`` keeps the arrays it holds out of the
            compiled program.
        q: how the integers are scaled.
        train: integers [n, *event], anything that an integer array indexes.
        held_out: integers [m, *event]; all of them are evaluated at each check.
        iterations: gradient steps.
        batch: examples a step.
        learning_rate: the first one.
        samples: K of the bound that is fitted.
        checks: how often the held-out bound is looked at.
        progress: show a bar with it.

    Returns:
        The parameters that were best on the held-out data, which are therefore slightly flattered
        by them, and the history.

    Raises:
        ValueError: for too little of anything, or data that are not integers of 0 .. L-1.
        FloatingPointError: naming the step at which the bound was no longer finite.

    Reference: Ho et al. 2019, arXiv:1902.00275, section 3.1.
    """
    if min(iterations, batch, samples, checks, len(train), len(held_out)) < 1:
        raise ValueError(
            f"fit_dequantiser: got iterations={iterations}, batch={batch}, samples={samples}, "
            f"checks={checks}, {len(train)} examples and {len(held_out)} held out; expected at "
            "least 1 of each"
        )
    unseen = jnp.asarray(require_levels(q, held_out[np.arange(len(held_out))]))
    batch_key, train_key, check_key = jax.random.split(key, 3)
    density = _as_argument(log_density_fn)
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adam(optax.cosine_decay_schedule(learning_rate, iterations)),
    )

    def bits(params: Params, density: LogDensity, key: Key, k: Array) -> Scalar:
        found = discrete_bound(
            key, density, q, k, dequantiser=dequantiser, params=params, samples=samples
        )
        return found.bits_per_dim

    @jax.jit
    def step(params, opt_state, density, key, rows):
        def loss(params):
            keys = jax.random.split(key, batch)
            return jnp.mean(jax.vmap(bits, (None, None, 0, 0))(params, density, keys, rows))

        value, gradient = jax.value_and_grad(loss)(params)
        updates, opt_state = tx.update(gradient, opt_state)
        return optax.apply_updates(params, updates), opt_state, value

    @jax.jit
    def check(params, density):
        keys = jax.random.split(check_key, len(unseen))
        each = lambda pair: bits(params, density, *pair)  # noqa: E731
        size = min(batch, len(unseen))
        return jnp.mean(jax.lax.map(each, (keys, unseen), batch_size=size))

    every, opt_state, best, since = -(-iterations // checks), tx.init(params), params, []
    history = [(0, np.nan, _finite(check(params, density), 0))]
    bar = tqdm(range(1, iterations + 1), desc="fitting the noise", disable=not progress)
    for index in bar:
        rows = np.asarray(
            jax.random.randint(jax.random.fold_in(batch_key, index), (batch,), 0, len(train))
        )
        rows = require_levels(q, train[rows])
        draw_key = jax.random.fold_in(train_key, index)
        params, opt_state, value = step(params, opt_state, density, draw_key, rows)
        since.append(value)
        if index % every == 0 or index == iterations:
            now = _finite(check(params, density), index)
            best = params if now <= min(row[2] for row in history) else best
            history.append((index, float(np.mean(jax.device_get(since))), now))
            bar.set_postfix(start=f"{history[0][2]:.4f}", now=f"{now:.4f}", unit="bits/dim")
            since = []
    steps, training, unseen_bits = zip(*history, strict=True)
    return best, History(np.asarray(steps), np.asarray(training), np.asarray(unseen_bits))


def _finite(value: Scalar, step: int) -> float:
    if not np.isfinite(value):
        raise FloatingPointError(
            f"fit_dequantiser: the held-out bound is {float(value)} after {step} steps; "
            + ("is the density finite on the data?" if step == 0 else "lower the learning rate")
        )
    return float(value)


def _as_argument(function: Callable) -> Any:
    """A function that ``jit`` takes as an argument, with the arrays of a ``Partial`` as leaves."""
    return (
        function if isinstance(function, jax.tree_util.Partial) else jax.tree_util.Partial(function)
    )


def save_noise(
    path: str | os.PathLike, params: Params, about: Mapping[str, Any] | None = None
) -> None:
    """Writes the parameters of a dequantiser as ``.npz``.

    Args:
        path: the file.
        params: a sequence of nested dicts of arrays, one entry a layer.
        about: what else belongs to them, of JSON's kinds: shapes, levels, sizes of the network.
    """
    arrays: dict[str, Any] = {ABOUT: np.asarray(json.dumps(dict(about or {})))}
    for place, layer in enumerate(params):
        for route, leaf in jax.tree_util.tree_leaves_with_path(layer):
            arrays["/".join([str(place), *(entry.key for entry in route)])] = np.asarray(leaf)
    with open(path, "wb") as file:  # a path by name would be given another suffix
        np.savez(file, **arrays)


def load_noise(path: str | os.PathLike) -> tuple[tuple[dict[str, Any], ...], dict[str, Any]]:
    """Reads the parameters of a dequantiser.

    Args:
        path: a file of ``save_noise``.

    Returns:
        The parameters, a tuple of nested dicts, and what was said about them.

    Raises:
        ValueError: for a file that holds none, or numbers that are not finite.
        FileNotFoundError: where there is none.
    """
    layers: dict[int, dict[str, Any]] = {}
    try:
        arrays = read_npz(path)
        about = parse_json(str(arrays.pop(ABOUT)), ABOUT)
        if not isinstance(about, dict):
            raise ValueError(f"{ABOUT} is {type(about).__name__}, expected a dict")
        for name, leaf in arrays.items():
            place, *route = name.split("/")
            if leaf.dtype.kind != "f":
                raise ValueError(f"{name!r} is {leaf.dtype}, expected floating point")
            _hang(layers.setdefault(int(place), {}), name, route, jnp.asarray(leaf))
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(
            f"{path}: no dequantiser ({error}); expected an .npz of save_noise"
        ) from error
    params = tuple(layers[place] for place in sorted(layers))
    if not all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(params)):
        raise ValueError(f"{path}: got parameters that are not finite; fit the dequantiser again")
    return params, about


def _hang(tree: dict[str, Any], name: str, route: list[str], leaf: Array) -> None:
    """Puts a leaf where its route says; a file may not overwrite one, or nest without end."""
    *parents, last = route or [""]
    for part in parents:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise ValueError(f"{name[:200]!r} lies under an array")
    if len(route) > DEEPEST or last in tree:
        raise ValueError(f"{name[:200]!r} is nested too deeply, or twice there")
    tree[last] = leaf
