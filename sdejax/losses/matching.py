"""Every objective of a score over the levels of a process, with the batch interface of the trainer.

An objective J(s) whose mean over p is ESM(s, p) less a constant of p is applied to p_t, the density
of x_t = alpha x0 + sigma eps, and to the score s_t of the network at t, and scaled so that all
levels count alike. With eps_hat = -sigma s_t the mean of

    w(t) (2 sigma^2 / d) J(s_t)(x_t)   is   w(t) E[mean|eps_hat - e(x_t)|^2 - mean|e(x_t)|^2],

e(x_t) = E[eps | x_t]. The denoising loss of the same w(t) is w(t) E[mean|eps_hat - eps|^2], so the
two differ by w(t), whatever the network: their expected gradients are the same and so is their
minimiser, for every prediction type, weighting and density of times. What differs is the spread of
an estimate, and that these never look at eps. Values are negative where the network is good.

Reference: Song et al. 2019, arXiv:1905.07088; Song and Ermon 2019, arXiv:1907.05600, section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from sdejax.denoiser import Model
from sdejax.divergence import exact, hutchinson
from sdejax.losses.denoising import LossFn
from sdejax.losses.draws import Draw, make_draw
from sdejax.losses.high_order import high_order_loss
from sdejax.losses.score_matching import ScoreFn, implicit_loss, model_score
from sdejax.losses.sliced import finite_difference_loss, sliced_loss, sliced_vr_loss
from sdejax.sde import SDE, coefficients, perturb
from sdejax.times import TimeSampling, objective, uniform
from sdejax.types import Data, Key, Scalar
from sdejax.weights import Weight, simple

Objective = Callable[[Key, ScoreFn, Data, Data, Scalar], Scalar]  # key, score_fn, x_t, eps, sigma
MakeLoss = Callable[..., LossFn]  # with the arguments of ``make_loss``


def make_score_loss(
    score_objective: Objective,
    model: Model,
    sde: SDE,
    batch_size: int,
    *,
    times: TimeSampling | None = None,
    weight: Weight = simple,
    label_drop: float = 0.0,
    null_label: int | None = None,
) -> LossFn:
    """The loss of a batch for the trainer, of any objective of a score.

    Draws times, noise and labels as ``make_loss`` does, so losses do not depend on how the batch is
    split over devices. Where alpha or sigma is 0 there is no such objective: such a time counts 0.

    Args:
        score_objective: (key, score_fn, x_t, eps, sigma) -> the loss at one level and per
            dimension, as the functions of this module make it.
        model: network and prediction type.
        sde: the process.
        batch_size: global batch size, over which times are stratified.
        times: density of times and its role; by default uniform, as part of the objective.
        weight: w(t), as that of ``make_loss``.
        label_drop: probability of replacing a label by ``null_label``.
        null_label: the label that stands for "no label".

    Returns:
        ``loss_fn(params, key, batch)`` as that of ``make_loss``, without auxiliary values.

    Raises:
        ValueError: for a label_drop outside [0, 1], or above 0 without a null_label.
    """
    sampling = objective(uniform(sde)) if times is None else times
    draw = make_draw(batch_size, sampling, label_drop, null_label)

    def one(params, example: Draw):
        x0, eps, t, label, key = example
        c = coefficients(sde, t)
        regular = (c.alpha > 0) & (c.sigma > 0)
        # The middle of the interval stands in, since NaN times 0 would be NaN in the gradient.
        t = jnp.where(regular, t, 0.5 * (sde.t_min + sde.t_max)).astype(t.dtype)
        c = coefficients(sde, t)
        objective_key, dropout_key = jax.random.split(key)
        score_fn = model_score(model, params, sde, t, label, dropout_key)
        loss = score_objective(objective_key, score_fn, perturb(sde, x0, eps, t), eps, c.sigma)
        factor = jnp.where(regular, sampling.factor(t) * weight(c) / c.alpha**2, 0.0)
        return factor.astype(loss.dtype) * loss

    def loss_fn(params, key, batch):
        draws = jax.vmap(draw, in_axes=(None, 0, 0, 0))
        examples = draws(key, batch["x"], batch["position"], batch.get("label"))
        return jax.vmap(one, in_axes=(None, 0))(params, examples), {}

    return loss_fn


def implicit(probes: int = 0, kind: str = "rademacher") -> MakeLoss:
    """Implicit score matching over levels.

    Args:
        probes: of Hutchinson's trace; 0 for the exact trace, d tangents.
        kind: "rademacher" or "gaussian".

    Returns:
        What makes the loss of a batch.

    Raises:
        ValueError: for a negative number of probes or an unknown kind.
    """
    divergence = hutchinson(probes, kind) if probes else exact()
    return _over_levels(partial(implicit_loss, divergence=divergence))


def sliced(probes: int = 1, kind: str = "gaussian") -> MakeLoss:
    """Sliced score matching over levels.

    Args:
        probes: directions.
        kind: "gaussian" or "rademacher".

    Returns:
        What makes the loss of a batch.
    """
    return _over_levels(partial(sliced_loss, probes=probes, kind=kind))


def sliced_vr(probes: int = 1, kind: str = "rademacher") -> MakeLoss:
    """Sliced score matching with reduced variance over levels.

    Args:
        probes: directions.
        kind: "rademacher" or "gaussian".

    Returns:
        What makes the loss of a batch.
    """
    return _over_levels(partial(sliced_vr_loss, probes=probes, kind=kind))


def finite_difference(step: float = 0.05, probes: int = 1, kind: str = "rademacher") -> MakeLoss:
    """Finite-difference sliced score matching over levels, biased by O(step^2).

    Args:
        step: h as a part of sigma(t), the scale on which the score of p_t varies.
        probes: directions, two network calls each.
        kind: "rademacher" or "gaussian".

    Returns:
        What makes the loss of a batch.

    Raises:
        ValueError: unless step > 0.
    """
    if not step > 0:
        raise ValueError(f"finite_difference: got step={step}; expected a positive number")

    def score_objective(key, score_fn, x, eps, sigma):
        h = step * sigma
        loss = finite_difference_loss(key, score_fn, x, h, probes, kind)
        return _scaled(loss, x, sigma)

    return partial(make_score_loss, score_objective)


def second_order(factor: float = 1.0, probes: int = 0, kind: str = "rademacher") -> MakeLoss:
    """Denoising score matching of first and second order over levels, ``high_order_loss``.

    It minimises w(t) times the denoising loss and factor times that of the Jacobian, so with factor
    = 0 it is the denoising loss itself.

    Args:
        factor: what the second order counts.
        probes: directions; 0 for the trace, d tangents.
        kind: "rademacher" or "gaussian".

    Returns:
        What makes the loss of a batch.

    Raises:
        ValueError: for a negative number of probes or an unknown kind.
    """
    divergence = hutchinson(probes, kind) if probes else exact()

    def score_objective(key, score_fn, x, eps, sigma):
        return high_order_loss(key, score_fn, x, eps, sigma, factor, divergence)

    return partial(make_score_loss, score_objective)


def _over_levels(loss: Callable[[Key, ScoreFn, Data], Scalar]) -> MakeLoss:
    """The loss of a batch from an objective that sees x_t alone."""

    def score_objective(key, score_fn, x, eps, sigma):
        return _scaled(loss(key, score_fn, x), x, sigma)

    return partial(make_score_loss, score_objective)


def _scaled(loss: Scalar, x: Data, sigma: Scalar) -> Scalar:
    """2 sigma^2 / d: from half a squared error of the score to the mean one of the noise."""
    return 2.0 * sigma.astype(loss.dtype) ** 2 / x.size * loss
