"""The variational bound of a discrete chain: DDPM's L_0 .. L_T, for the levels of any process.

On T decreasing times t_T > ... > t_1 the model draws x_{t_T} from the prior, then each
x_s ~ p(x_s | x_t) = N(mu(x_t, x0_hat), v I), then data from a decoder r(x | x_{t_1}):

    -log p(x) <= L_T + sum L_{i-1} + L_0,    L_T = KL(q(x_{t_T} | x) || prior),
    L_{i-1} = E KL(q(x_s | x_t, x) || p(x_s | x_t)),    L_0 = -E log r(x | x_{t_1}).

The forward chain is Gaussian, x_t = k x_s + sqrt(beta) z with k = alpha_t/alpha_s and
beta = sigma_t^2 - k^2 sigma_s^2, and by Bayes q(x_s | x_t, x) is N(mu(x_t, x), beta~ I) with

    mu = (k sigma_s^2 x_t + alpha_s beta x) / sigma_t^2,    beta~ = beta sigma_s^2 / sigma_t^2.

So with v = beta~ (sigma_t/sigma_s)^(2 nu), i.e. beta~ at nu = 0 and beta at nu = 1,

    L_{i-1} = (beta~/v) (SNR_s - SNR_t)/2 E|x0_hat - x|^2 + d/2 (beta~/v - 1 - log(beta~/v)).

As T grows the sum at nu = 0 becomes the integral of ``elbo.data_bound``; the error falls as 1/T.

Reference: Ho et al. 2020, arXiv:2006.11239, eq. 5-7 and 13; Nichol and Dhariwal 2021,
arXiv:2102.09672, eq. 4-7 and 15; Kingma et al. 2021, arXiv:2107.00630, eq. 13.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sdejax.grids import require_decreasing
from sdejax.likelihood.decoders import Decoder, gaussian
from sdejax.likelihood.elbo import strata, successive_error
from sdejax.likelihood.quantisation import bits_per_dim
from sdejax.likelihood.terms import coefficients_as, pair_error, prior_term
from sdejax.prediction import Denoiser
from sdejax.samplers.base import finite
from sdejax.sde import SDE, Coefficients, coefficients, perturb
from sdejax.types import Data, Key, Scalar, Time, Times


class ChainBound(NamedTuple):
    """The bound of each example and its terms, in nats."""

    log_p: Float[Array, "*batch"]  # minus the sum of the terms
    bits_per_dim: Float[Array, "*batch"]  # -log_p / (d log 2), in the units of x
    standard_error: Float[Array, "*batch"]  # over K drawn transitions; NaN where all are visited
    terms: Float[Array, "*batch n"]  # L_0 .. L_T, [T + 1]
    nfe: Int[Array, "*batch"]  # calls of the denoiser
    result: Int[Array, "*batch"]  # SUCCESS or NOT_FINITE, as of samplers


class Posterior(NamedTuple):
    """q(x_s | x_t, x) = N(along_x x_t + along_x0 x, variance I)."""

    along_x: Scalar
    along_x0: Scalar
    variance: Scalar  # beta~


def posterior(sde: SDE, t: Time, s: Time) -> Posterior:
    """The forward chain from data x to x_t, looked at on its way at s < t.

    Args:
        sde: the process.
        t: time of the known state [].
        s: an earlier time [].

    Returns:
        The ``Posterior``; finite at alpha_t = 0.

    Reference: Ho et al. 2020, arXiv:2006.11239, eq. 6-7.
    """
    at_t, at_s = coefficients(sde, t), coefficients(sde, s)
    scale = at_t.alpha / at_s.alpha
    fresh = _fresh(at_t, at_s)
    back = (at_s.sigma / at_t.sigma) ** 2
    return Posterior(scale * back, at_s.alpha * fresh, at_s.sigma**2 * fresh)


def chain_bound(
    key: Key,
    sde: SDE,
    denoiser: Denoiser,
    x: Data,
    ts: Times,
    *,
    decoder: Decoder | None = None,
    variance: float = 0.0,
    samples: int | None = None,
    probabilities: Float[Array, " m"] | None = None,
    chunk: int | None = None,
) -> ChainBound:
    """The bound on log p(x) of the chain on a grid, all of it or K of its transitions.

    A full pass visits one transition after the other (memory does not grow with T) with one draw
    of noise each. K draws of a transition, stratified and with probabilities in proportion to its
    term for Gaussian data, give each term without bias: many are then 0, the rest large.

    Args:
        key: one example's key.
        sde: the process.
        denoiser: (x_t, t) -> ``Estimate``.
        x: data [*event]; integers, scaled, for a discretised decoder.
        ts: the T levels, decreasing, the last with sigma > 0, e.g. of ``sdejax.grids``.
        decoder: r(x | x_{t_1}), by default ``decoders.gaussian()``, closed and without a call.
        variance: nu, 0 for beta~, 1 for beta, between them for geometric means.
        samples: K, or None for all T - 1 transitions.
        probabilities: of the T - 1 transitions in the order of ts, to draw them by; only with
            samples.
        chunk: transitions to evaluate at once; by default 1 in a full pass, all K of samples.

    Returns:
        The ``ChainBound``; differentiable in x and in whatever the denoiser depends on.

    Raises:
        ValueError: for less than two levels or one sample, levels that do not decrease or end at
            sigma = 0, probabilities of another number.

    Reference: Ho et al. 2020, arXiv:2006.11239, eq. 5.
    """
    steps = ts.shape[0] - 1
    _require(sde, ts, samples, probabilities)
    decoder = gaussian() if decoder is None else decoder
    decoder_key, step_key = jax.random.split(key)
    ts = ts.astype(x.dtype)
    rows = ts[:-1], ts[1:]

    def error(key, t, s):
        noise = jax.random.normal(key, x.shape, x.dtype)
        return transition_term(sde, denoiser, x, noise, t, s, variance)

    if samples is None:
        draws = (jax.random.split(step_key, steps), rows[0], rows[1])
        drawn = jax.lax.map(lambda row: error(*row), draws, batch_size=chunk)
        spread = jnp.full((), jnp.nan, x.dtype)
    else:
        if probabilities is None:
            probabilities = jax.vmap(lambda t, s: _expected(sde, t, s, x))(*rows)
        probabilities = (probabilities / jnp.sum(probabilities)).astype(x.dtype)
        index_key, step_key = jax.random.split(step_key)
        u = strata(index_key, samples, x.dtype)
        total = jnp.cumsum(probabilities)
        index = jnp.searchsorted(total, u * total[-1], side="right").clip(0, steps - 1)
        draws = (jax.random.split(step_key, samples), rows[0][index], rows[1][index])
        chunk = samples if chunk is None else chunk
        values = jax.lax.map(lambda row: error(*row), draws, batch_size=chunk)
        values = values / probabilities[index]
        drawn = jnp.zeros((steps,), x.dtype).at[index].add(values / samples)
        spread = successive_error(values)

    end = coefficients_as(sde, ts[0], x)
    entropy = x.size * (jnp.log(end.sigma) + 0.5 * math.log(2.0 * math.pi * math.e))
    first = -decoder.draw(decoder_key, sde, denoiser, x, ts[-1])
    last = -prior_term(key, sde, end.alpha * x, end.sigma) - entropy
    widths = jax.vmap(lambda t, s: _width_term(sde, t, s, x, variance))(*rows)
    terms = jnp.concatenate([first[None], (drawn + widths)[::-1], last[None]])
    log_p = -jnp.sum(terms)
    nfe = jnp.asarray((steps if samples is None else samples) + decoder.calls, jnp.int32)
    return ChainBound(log_p, bits_per_dim(log_p, x.size), spread, terms, nfe, finite(log_p))


def transition_term(
    sde: SDE, denoiser: Denoiser, x: Data, eps: Data, t: Time, s: Time, variance: float = 0.0
) -> Scalar:
    """``(beta~/v) (SNR_s - SNR_t)/2 |x0_hat - x|^2``: what a wrong mean costs from t to s.

    Args:
        sde: the process.
        denoiser: (x_t, t) -> ``Estimate``.
        x: data [*event].
        eps: standard normal noise [*event], of x_t.
        t: time [].
        s: the earlier time stepped to [].
        variance: nu, 0 for beta~ and 1 for beta.

    Returns:
        Nats, [].
    """
    at_t, at_s = (coefficients_as(sde, time, x) for time in (t, s))
    error = pair_error(denoiser(perturb(sde, x, eps, t), t), x, eps, at_t)
    return _quotient(at_t, at_s, variance) * _drop(at_t, at_s) * error


def _drop(t: Coefficients, s: Coefficients) -> Scalar:
    """sigma_t^2 (SNR_s - SNR_t)/2."""
    return 0.5 * (s.alpha * t.sigma / s.sigma) ** 2 * _fresh(t, s)


def _fresh(t: Coefficients, s: Coefficients) -> Scalar:
    """beta / sigma_t^2 = 1 - SNR_t/SNR_s, the part of the noise at t that s has not."""
    ratio = t.alpha * s.sigma / (s.alpha * t.sigma)
    return (1.0 - ratio) * (1.0 + ratio)


def _quotient(t: Coefficients, s: Coefficients, variance: float) -> Scalar:
    """beta~/v."""
    return (s.sigma / t.sigma) ** (2.0 * variance)


def _width_term(sde: SDE, t: Time, s: Time, x: Data, variance: float) -> Scalar:
    """d/2 (beta~/v - 1 - log(beta~/v)): what a wrong variance costs."""
    at_t, at_s = (coefficients_as(sde, time, x) for time in (t, s))
    log = 2.0 * variance * (jnp.log(at_s.sigma) - jnp.log(at_t.sigma))
    return 0.5 * x.size * (jnp.expm1(log) - log)


def _expected(sde: SDE, t: Time, s: Time, x: Data) -> Scalar:
    """The term of Gaussian data of unit variance, with the exact denoiser: in proportion to it."""
    at_t, at_s = (coefficients_as(sde, time, x) for time in (t, s))
    return _drop(at_t, at_s) / (at_t.alpha**2 + at_t.sigma**2)


def _require(
    sde: SDE, ts: Times, samples: int | None, probabilities: Float[Array, " m"] | None
) -> None:
    levels = ts.shape[0]
    if levels < 2:
        raise ValueError(f"chain_bound: got {levels} levels in ts; expected at least 2")
    if samples is not None and samples < 1:
        raise ValueError(
            f"chain_bound: got samples={samples}; expected at least 1, or None for all"
        )
    if probabilities is not None and (samples is None or len(probabilities) != levels - 1):
        raise ValueError(
            f"chain_bound: got {len(probabilities)} probabilities for {levels - 1} transitions and "
            f"samples={samples}; expected one for each, and a number of samples"
        )
    require_decreasing(ts)
    if not isinstance(ts, jax.core.Tracer):
        with jax.ensure_compile_time_eval():
            sigma = sde.sigma(ts[-1])
        if not isinstance(sigma, jax.core.Tracer) and not float(sigma) > 0:
            raise ValueError(
                f"chain_bound: got ts that end at {float(ts[-1])}, where sigma = {float(sigma)}; "
                "expected noise there, which the decoder removes: end at t_min"
            )
