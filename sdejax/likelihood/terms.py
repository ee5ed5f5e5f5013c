"""The integrands of the variational bounds, at one time and one draw of noise, in nats.

With x_t = alpha x0 + sigma eps from data, and x_t = k x + sigma_{t|s} z from a state x at t_min,

    data:   -lambda'/2 |eps_hat - eps|^2,
    state:  g^2 (|s|^2/2 + div s) - div f,    div s from tangents, or
    state:  g^2 (|s|^2/2 + s.z/sigma_{t|s}) - div f,    the same in the mean over z,

since E s.z = sigma_{t|s} E div s by parts. ``elbo`` averages them over times and noise. The part
of |s|^2 and s.z that |z|^2 alone makes is known for a reference score, and its excess over the
mean is taken off both: a control variate, without effect on the mean.

Reference: Kingma et al. 2021, arXiv:2107.00630, eq. 15; Song et al. 2021, arXiv:2101.09258,
theorem 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from sdejax.divergence import Divergence, value_and_trace
from sdejax.prediction import Denoiser, Estimate, to_score
from sdejax.sde import SDE, Coefficients, coefficients, perturb
from sdejax.types import Data, Key, Scalar, Time
from sdejax.weights import likelihood

LogDensity = Callable[[Data], Scalar]


def data_term(sde: SDE, denoiser: Denoiser, x0: Data, eps: Data, t: Time) -> Scalar:
    """``-lambda'/2 |eps_hat - eps|^2``: the integrand of the data bound.

    Args:
        sde: the process.
        denoiser: (x_t, t) -> ``Estimate``.
        x0: data [*event].
        eps: standard normal noise [*event].
        t: time [].

    Returns:
        Nats per unit of time, [].
    """
    c = coefficients_as(sde, t, x0)
    return likelihood(c) * pair_error(denoiser(perturb(sde, x0, eps, t), t), x0, eps, c)


def pair_error(estimate: Estimate, x0: Data, eps: Data, c: Coefficients) -> Scalar:
    """``|eps_hat - eps|^2 / alpha^2 = |x0_hat - x0|^2 / sigma^2``, finite at both ends.

    The two errors satisfy alpha dx0 + sigma deps = 0, so the quotient of their sum by
    alpha^2 + sigma^2 is that of either, and the larger of the two carries the digits.

    Args:
        estimate: the pair at x_t = alpha x0 + sigma eps.
        x0: data [*event].
        eps: noise [*event].
        c: coefficients at t.

    Returns:
        The error [].
    """
    square = jnp.sum((estimate.x0 - x0) ** 2) + jnp.sum((estimate.eps - eps) ** 2)
    return square / (c.alpha**2 + c.sigma**2)


def state_term(sde: SDE, denoiser: Denoiser, x: Data, z: Data, t: Time) -> Scalar:
    """The integrand of the state bound, ``g^2 (|s|^2/2 + s.z/sigma_{t|s}) - div f``, over z and -z.

    The pair makes the second term a difference quotient of the score, so it stays finite as t
    falls to t_min, where the variance of s.z/sigma_{t|s} alone is infinite. The excess of |z|^2
    over its mean is taken off (see the head of the module).

    Args:
        sde: the process.
        denoiser: (x_t, t) -> ``Estimate``.
        x: a state at t_min [*event].
        z: standard normal noise [*event].
        t: time [].

    Returns:
        Nats per unit of time, [].
    """
    c = coefficients_as(sde, t, x)
    scale, std = transition(sde, t, x)
    both = jnp.stack([scale * x + std * z, scale * x - std * z])
    score = jax.vmap(lambda y: to_score(denoiser(y, t), c))(both)
    trace = jnp.sum((score[0] - score[1]) * z) / (2.0 * std)
    in_square, in_trace = _excess(c, std, z)
    return _balance(c, 0.5 * jnp.sum(score**2) - in_square, trace - in_trace, x.size)


def implicit_term(
    key: Key,
    sde: SDE,
    denoiser: Denoiser,
    x: Data,
    z: Data,
    t: Time,
    divergence: Divergence,
) -> Scalar:
    """The integrand of the state bound by the divergence, ``g^2 (|s|^2/2 + div s) - div f``.

    Args:
        key: of the probes.
        sde: the process.
        denoiser: (x_t, t) -> ``Estimate``.
        x: a state at t_min [*event].
        z: standard normal noise [*event].
        t: time [].
        divergence: how the trace is had.

    Returns:
        Nats per unit of time, [].
    """
    c = coefficients_as(sde, t, x)
    scale, std = transition(sde, t, x)
    state = scale * x + std * z
    score, trace = value_and_trace(key, lambda y: to_score(denoiser(y, t), c), state, divergence)
    return _balance(c, jnp.sum(score**2) - _excess(c, std, z)[0], trace, x.size)


def prior_term(
    key: Key, sde: SDE, mean: Data, std: Scalar, prior_log_prob: LogDensity | None = None
) -> Scalar:
    """``E log prior(x_T)`` for x_T ~ N(mean, std^2 I): closed for the process's own prior.

    Args:
        key: of a pair of opposite draws, where there is no closed form.
        sde: the process.
        mean: [*event].
        std: [].
        prior_log_prob: [*event] -> [], or None for N(0, prior_std^2 I).

    Returns:
        Nats, [].
    """
    if prior_log_prob is None:
        width = jnp.asarray(sde.prior_std, mean.dtype)
        spread = math.log(2.0 * math.pi) + 2.0 * jnp.log(width) + (std / width) ** 2
        return -0.5 * (jnp.sum((mean / width) ** 2) + mean.size * spread)
    z = std * jax.random.normal(key, mean.shape, mean.dtype)
    return 0.5 * (prior_log_prob(mean + z) + prior_log_prob(mean - z))


def transition(sde: SDE, t: Time, x: Data) -> tuple[Scalar, Scalar]:
    """k and sigma_{t|s} of ``x_t = k x_s + sigma_{t|s} z`` from s = t_min.

    Args:
        sde: the process.
        t: time [].
        x: a state, for its dtype.

    Returns:
        The two; the second is kept above 0 at t = t_min.
    """
    start, c = coefficients_as(sde, sde.t_min, x), coefficients_as(sde, t, x)
    scale = c.alpha / start.alpha
    ratio = scale * start.sigma / c.sigma
    fresh = jnp.maximum((1.0 - ratio) * (1.0 + ratio), jnp.finfo(x.dtype).eps)
    return scale, c.sigma * jnp.sqrt(fresh)


def _excess(c: Coefficients, std: Scalar, z: Data) -> tuple[Scalar, Scalar]:
    """What |s|^2 and s.z/std have beyond their means because of |z|^2, for a reference score.

    That of Gaussian data of unit variance is s = -(k x + std z)/v with v = alpha^2 + sigma^2. Both
    numbers have mean 0 for any v, so to subtract them changes no bound; its variance falls by 4
    (by tangents) to 10 (by pairs) on a mixture in 16 dimensions.
    """
    away = jnp.sum(z**2) - z.size
    v = c.alpha**2 + c.sigma**2
    return away * (std / v) ** 2, -away / v


def _balance(c: Coefficients, square: Scalar, trace: Scalar, size: int) -> Scalar:
    """g^2 (|s|^2/2 + div s) - div f."""
    f = c.dalpha / c.alpha
    g2 = 2.0 * c.sigma * (c.dsigma - c.sigma * f)
    return g2 * (0.5 * square + trace) - size * f


def coefficients_as(sde: SDE, t: Time, x: Data) -> Coefficients:
    """The coefficients at t in the dtype of x."""
    return jax.tree.map(lambda k: k.astype(x.dtype), coefficients(sde, t))
