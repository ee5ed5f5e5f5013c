"""Score matching: three forms of one distance, for one example.

The distance between a score s and the score of a density p is Fisher's,

    explicit    ESM(s) = E_p |s - grad log p|^2 / 2.

Integration by parts takes the unknown score out of it, conditioning on clean data makes it known:

    implicit    ISM(s) = E_p [|s|^2 / 2 + tr ds/dx]                    = ESM - C1
    denoising   DSM(s) = E |s(x0 + sigma eps) + eps / sigma|^2 / 2     = ESM + C2

with C1 = E_p |grad log p|^2 / 2, and C2 = d / (2 sigma^2) - C1 where p is the density of
x0 + sigma eps. Neither constant depends on s: values differ by them, gradients agree.

Reference: Hyvarinen 2005, Estimation of non-normalized statistical models by score matching, eq. 4;
Vincent 2011, A connection between score matching and denoising autoencoders, section 4.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from sdejax.denoiser import Model, make_denoiser
from sdejax.divergence import Divergence, exact, value_and_trace
from sdejax.prediction import to_score
from sdejax.sde import SDE, as_time, coefficients
from sdejax.types import Cond, Data, Key, Params, Scalar, Time

ScoreFn = Callable[[Data], Data]
LogProbFn = Callable[[Data], Scalar]


def model_score(
    model: Model, params: Params, sde: SDE, t: Time, cond: Cond = None, key: Key | None = None
) -> ScoreFn:
    """The score of a model at one time, ``x -> -eps_hat(x, t) / sigma(t)``, for any prediction.

    Args:
        model: network and prediction type.
        params: its parameters.
        sde: the process.
        t: time [], with alpha and sigma above 0.
        cond: the condition of this example, or None.
        key: of the network's dropout; None for the network in evaluation.

    Returns:
        x [*event] -> score [*event].
    """
    if key is not None:
        model = model._replace(apply=lambda p, x, t, c: model.train_apply(p, x, t, c, key))
    denoiser, t = make_denoiser(model, params, sde, cond), as_time(t)
    return lambda x: to_score(denoiser(x, t), coefficients(sde, t))


def explicit_loss(score_fn: ScoreFn, target_fn: ScoreFn, x: Data) -> Scalar:
    """Explicit score matching, ``|s(x) - grad log p(x)|^2 / 2``; one call.

    Args:
        score_fn: the score s.
        target_fn: the known one: ``jax.grad(log_prob)``, or that of ``sdejax.truth``.
        x: a draw from p [*event].

    Returns:
        The loss [], at least 0.

    Reference: Hyvarinen 2005, eq. 2.
    """
    return 0.5 * jnp.sum((score_fn(x) - target_fn(x)) ** 2)


def implicit_loss(
    key: Key, score_fn: ScoreFn, x: Data, divergence: Divergence | None = None
) -> Scalar:
    """Implicit score matching, ``|s(x)|^2 / 2 + tr ds/dx``; one call and the tangents of the trace.

    Args:
        key: of the probes.
        score_fn: the score s.
        x: a draw from p [*event].
        divergence: how the trace is had, by default exactly; ``hutchinson`` makes it sliced score
            matching with reduced variance (``sdejax.losses.sliced``).

    Returns:
        The loss [], of either sign.

    Reference: Hyvarinen 2005, eq. 4.
    """
    score, trace = value_and_trace(key, score_fn, x, divergence or exact())
    return 0.5 * jnp.sum(score**2) + trace


def denoising_score_loss(score_fn: ScoreFn, x0: Data, eps: Data, sigma: Scalar | float) -> Scalar:
    """Denoising score matching at one level, ``|s(x0 + sigma eps) + eps / sigma|^2 / 2``; one call.

    Args:
        score_fn: the score s.
        x0: data [*event].
        eps: standard normal noise [*event].
        sigma: the noise level, above 0.

    Returns:
        The loss [], at least 0.

    Reference: Vincent 2011, section 4.2.
    """
    sigma = jnp.asarray(sigma, x0.dtype)
    return 0.5 * jnp.sum((score_fn(x0 + sigma * eps) + eps / sigma) ** 2)
