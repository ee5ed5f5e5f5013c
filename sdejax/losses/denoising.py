"""Training objectives, for one example and for a batch.

Denoising score matching minimises ``E_t w(t) E|eps_hat(x_t, t) - eps|^2`` over (x0, eps); its
minimiser is the posterior mean E[eps | x_t], i.e. the score of p_t times -sigma (Vincent 2011;
Song et al. 2021, arXiv:2011.13456, eq. 7). The error is taken in the space of the network's own
output, where it is finite, and ``w alpha^2 / det^2`` makes the objective the same for all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from jaxtyping import Key as KeyArray

from sdejax.denoiser import Model
from sdejax.losses.draws import make_draw
from sdejax.prediction import Estimate, determinant, encode
from sdejax.sde import SDE, coefficients, perturb
from sdejax.times import TimeSampling, objective, uniform
from sdejax.types import Cond, Data, Key, Params, Scalar, Time
from sdejax.weights import Weight, simple

LossFn = Callable[[Params, Key, dict[str, Any]], tuple[Any, dict[str, Any]]]


def denoising_loss(
    key: Key,
    model: Model,
    params: Params,
    sde: SDE,
    x0: Data,
    eps: Data,
    t: Time,
    cond: Cond = None,
    *,
    weight: Weight = simple,
) -> tuple[Scalar, dict[str, Scalar]]:
    """The denoising loss ``w(t) mean|eps_hat - eps|^2`` of one example; one network call.

    Args:
        key: key of the network's dropout.
        model: network and prediction type.
        params: its parameters.
        sde: the process.
        x0: data [*event].
        eps: standard normal noise [*event].
        t: time [].
        cond: condition, or None.
        weight: weighting of the squared error of the noise (``sdejax.weights``).

    Returns:
        The loss, a mean over the event [], and {"output_mse": the unweighted error of the output}.
    """
    output = model.train_apply(params, *_inputs(model, sde, x0, eps, t), cond, key)
    return _error(model, sde, x0, eps, t, output, weight)


def _inputs(model: Model, sde: SDE, x0: Data, eps: Data, t: Time) -> tuple[Data, Scalar]:
    """What the network of one example sees: the scaled x_t and the noise level."""
    x = perturb(sde, x0, eps, t)
    return model.scaling(coefficients(sde, t)).astype(x.dtype) * x, model.conditioning(sde, t)


def _outputs(
    model: Model,
    params: Params,
    x: Float[Array, "n *event"],
    t: Float[Array, " n"],
    cond: Cond,
    keys: KeyArray[Array, " n"],
) -> Float[Array, "n *event"]:
    """The network in training for a batch, one call of it where it is written batch first.

    That takes a network that draws nothing from its key. With dropout each example has its own
    key, hence its own call under ``vmap``; the unit axes of these calls make the gradient of
    convolutions a quarter slower on a CPU, where XLA then computes the input of each a second time.
    """
    if model.batch_train_apply is not None:
        with contextlib.suppress(ValueError):  # of out_axes: the output depends on the keys
            once = jax.vmap(model.batch_train_apply, (None, None, None, None, 0), None)
            return once(params, x, t, cond, keys)
    return jax.vmap(model.train_apply, (None, 0, 0, 0, 0))(params, x, t, cond, keys)


def _error(
    model: Model, sde: SDE, x0: Data, eps: Data, t: Time, output: Data, weight: Weight
) -> tuple[Scalar, dict[str, Scalar]]:
    """The weighted error of the network's output for one example."""
    c = coefficients(sde, t)
    target = encode(model.prediction, c, Estimate(x0, eps))
    mse = jnp.mean((output.astype(x0.dtype) - target) ** 2)
    det = determinant(model.prediction, c)
    # At a singular end (measure zero) the error says nothing of both halves: it counts nothing.
    regular = jnp.isfinite(det) & (det != 0)
    factor = jnp.where(regular, weight(c) / jnp.where(regular, det, 1.0) ** 2, 0.0)
    return factor.astype(mse.dtype) * mse, {"output_mse": mse}


def make_loss(
    model: Model,
    sde: SDE,
    batch_size: int,
    *,
    times: TimeSampling | None = None,
    weight: Weight = simple,
    label_drop: float = 0.0,
    null_label: int | None = None,
) -> LossFn:
    """The loss of a batch for the trainer: draws times and noise, and calls the network.

    A batch gives the same losses on any number of devices (``sdejax.losses.draws``).

    Args:
        model: network and prediction type.
        sde: the process.
        batch_size: global batch size, over which times are stratified.
        times: density of times and its role; by default uniform, as part of the objective.
        weight: weighting of the squared error of the noise.
        label_drop: probability of replacing a label by ``null_label``.
        null_label: the label that stands for "no label".

    Returns:
        ``loss_fn(params, key, batch)`` with batch {"x": [n, *event], "position": [n], and
        "label": [n] for a conditional network}, giving losses [n] and auxiliary values [n].

    Raises:
        ValueError: for a label_drop outside [0, 1], or above 0 without a null_label.
    """
    times = objective(uniform(sde)) if times is None else times
    draw = make_draw(batch_size, times, label_drop, null_label)

    def error(example, output):
        loss, aux = _error(model, sde, example.x0, example.eps, example.t, output, weight)
        return times.factor(example.t).astype(loss.dtype) * loss, aux

    def loss_fn(params, key, batch):
        draws = jax.vmap(draw, in_axes=(None, 0, 0, 0))
        drawn = draws(key, batch["x"], batch["position"], batch.get("label"))
        inputs = jax.vmap(partial(_inputs, model, sde))(drawn.x0, drawn.eps, drawn.t)
        return jax.vmap(error)(drawn, _outputs(model, params, *inputs, drawn.label, drawn.key))

    return loss_fn
