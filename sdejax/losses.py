"""Training objectives, for one example and for a batch.

Denoising score matching minimises ``E_t w(t) E|eps_hat(x_t, t) - eps|^2`` over (x0, eps); its
minimiser is the posterior mean E[eps | x_t], i.e. the score of p_t times -sigma (Vincent 2011;
Song et al. 2021, arXiv:2011.13456, eq. 7). The error is taken in the space of the network's own
output, where it is finite, and ``w alpha^2 / det^2`` makes the objective the same for all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sdejax.denoiser import Model
from sdejax.prediction import Estimate, determinant, encode
from sdejax.sde import SDE, coefficients, perturb
from sdejax.times import TimeSampling, objective, stratified, uniform
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
    c = coefficients(sde, t)
    x = perturb(sde, x0, eps, t)
    inputs = model.scaling(c).astype(x.dtype) * x
    output = model.train_apply(params, inputs, model.conditioning(sde, t), cond, key)
    target = encode(model.prediction, c, Estimate(x0, eps))
    mse = jnp.mean((output.astype(x.dtype) - target) ** 2)
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

    All randomness of an example comes from ``fold_in(key, position)``, its place in the global
    batch, so a batch gives the same losses on any number of devices. Times are stratified over
    the global batch.

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
    if not 0.0 <= label_drop <= 1.0:
        raise ValueError(f"make_loss: got label_drop={label_drop}; expected a probability")
    if label_drop > 0.0 and null_label is None:
        raise ValueError(f"make_loss: got label_drop={label_drop} without a null_label; give one")
    times = objective(uniform(sde)) if times is None else times

    def one(params, key, x0, position, label):
        time_key, example_key = jax.random.split(key)
        noise_key, dropout_key, label_key = jax.random.split(
            jax.random.fold_in(example_key, position), 3
        )
        t = times.density.quantile(stratified(time_key, position, batch_size))
        t = jax.lax.stop_gradient(t)
        if null_label is not None and label is not None:
            label = jnp.where(jax.random.bernoulli(label_key, label_drop), null_label, label)
        eps = jax.random.normal(noise_key, x0.shape, x0.dtype)
        loss, aux = denoising_loss(
            dropout_key, model, params, sde, x0, eps, t, label, weight=weight
        )
        return times.factor(t).astype(loss.dtype) * loss, aux

    def loss_fn(params, key, batch):
        label = batch.get("label")
        axes = (None, None, 0, 0, None if label is None else 0)
        return jax.vmap(one, in_axes=axes)(params, key, batch["x"], batch["position"], label)

    return loss_fn
