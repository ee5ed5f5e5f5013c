"""Variational bounds of the reverse SDE in continuous time: ``log_p <= log p(x)``.

The model draws x_T from the prior and runs the reverse SDE with the learned score to t_min. Its
density has no closed form; by Girsanov's theorem it has bounds. With lambda the log-SNR,

    data,  x at t = 0:   log p(x) >= E log r(x | x_tmin) - KL(q(x_T | x) || prior)
                                     - int -lambda'/2 E|eps_hat - eps|^2 dt,
    state, x at t_min:   log p_tmin(x) >= E log prior(x_T)
                                     - int E[g^2 (|s|^2/2 + div s) - div f] dt,

integrals from t_min to t_max, s the score, r a decoder (``decoders``), x_t drawn by the forward
process from x, of which ``E div s = E s.z/sigma_{t|s}`` for x_t = k x + sigma_{t|s} z.

The state bound lies below log p_tmin by KL(q(x_T) || prior) and half the integral of
g^2 E|s - s*|^2, in the mean over x: with the exact score and the exact p_T it is an equality for
every x. The data bound further loses the KL from the posterior p(x | x_tmin) to r.

The integrals are means over K draws of a time and its noise. Times are (k + u_k)/K through the
quantile function of a density, so they are stratified and any density gives the same mean. The
standard error comes from differences of neighbouring draws, which leave out most of what stratified
times have removed, and never less than that: se^2 = sum (y_{k+1} - y_k)^2 / (2 K (K - 1)).

Reference: Kingma et al. 2021, arXiv:2107.00630, eq. 11-18; Song et al. 2021, arXiv:2101.09258,
theorem 3, eq. 12 and appendix C; Huang et al. 2021, arXiv:2106.02808.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sdejax import times as densities
from sdejax.divergence import Divergence
from sdejax.likelihood.decoders import Decoder, gaussian
from sdejax.likelihood.quantisation import bits_per_dim
from sdejax.likelihood.terms import (
    LogDensity,
    coefficients_as,
    data_term,
    implicit_term,
    prior_term,
    state_term,
    transition,
)
from sdejax.prediction import Denoiser
from sdejax.samplers.base import finite
from sdejax.sde import SDE, diffusion
from sdejax.times import TimeDensity
from sdejax.types import Data, Key, Scalar


class Bound(NamedTuple):
    """A lower bound of the log-likelihood of each example, and its parts, in nats."""

    log_p: Float[Array, "*batch"]  # prior + diffusion + reconstruction
    bits_per_dim: Float[Array, "*batch"]  # -log_p / (d log 2), in the units of x
    standard_error: Float[Array, "*batch"]  # of log_p over the K draws; NaN for one
    prior: Float[Array, "*batch"]
    diffusion: Float[Array, "*batch"]
    reconstruction: Float[Array, "*batch"]
    nfe: Int[Array, "*batch"]  # calls of the denoiser
    result: Int[Array, "*batch"]  # SUCCESS or NOT_FINITE, as of samplers


def data_bound(
    key: Key,
    sde: SDE,
    denoiser: Denoiser,
    x: Data,
    *,
    samples: int = 1,
    times: TimeDensity | None = None,
    decoder: Decoder | None = None,
    prior_log_prob: LogDensity | None = None,
    chunk: int | None = None,
) -> Bound:
    """The bound on log p(x) for data x, by the error of the noise.

    It needs no derivative of the denoiser, and no finite g: on the linear path the integrand goes
    to 0 at alpha = 0, provided x0_hat is finite there. An eps network has no such x0; the true
    bound of one that is wrong there is minus infinity, so give it a t_max below 1.

    Args:
        key: one example's key.
        sde: the process.
        denoiser: (x_t, t) -> ``Estimate``.
        x: data [*event].
        samples: K, draws of time and noise: network calls, but for those of the decoder.
        times: density of the times, by default ``times.information(sde)``.
        decoder: r(x | x_tmin), by default ``decoders.gaussian()``, closed and without a call.
        prior_log_prob: log-density at t_max, [*event] -> []; by default that of
            N(0, prior_std^2 I), whose part is closed.
        chunk: draws to evaluate at once, by default all.

    Returns:
        The ``Bound``; differentiable in x and in whatever the denoiser depends on.

    Raises:
        ValueError: for less than one sample.

    Reference: Kingma et al. 2021, arXiv:2107.00630, eq. 11-18.
    """
    _require_samples("data_bound", samples)
    density = densities.information(sde) if times is None else times
    decoder = gaussian() if decoder is None else decoder
    end = coefficients_as(sde, sde.t_max, x)
    entropy = x.size * (jnp.log(end.sigma) + 0.5 * math.log(2.0 * math.pi * math.e))

    def draw(key, t, per_density):
        noise_key, prior_key, decoder_key = jax.random.split(key, 3)
        eps = jax.random.normal(noise_key, x.shape, x.dtype)
        return (
            prior_term(prior_key, sde, end.alpha * x, end.sigma, prior_log_prob) + entropy,
            -per_density * data_term(sde, denoiser, x, eps, t),
            decoder.draw(decoder_key, sde, denoiser, x, sde.t_min),
        )

    parts = _draws(key, sde, density, draw, samples, chunk, x)
    return _report(parts, x, samples * (1 + decoder.calls))


def state_bound(
    key: Key,
    sde: SDE,
    denoiser: Denoiser,
    x: Data,
    *,
    samples: int = 1,
    times: TimeDensity | None = None,
    divergence: Divergence | None = None,
    prior_log_prob: LogDensity | None = None,
    chunk: int | None = None,
) -> Bound:
    """The bound on log p_tmin(x) for a state x at t_min, by the score and its divergence.

    An equality for the exact score and the exact p_T as prior.

    Args:
        key: one example's key.
        sde: the process, with finite g at t_max.
        denoiser: (x_t, t) -> ``Estimate``.
        x: a state at t_min [*event].
        samples: K, draws of time and noise.
        times: density of the times, by default ``times.uniform_log_snr(sde)``.
        divergence: how div s is had, one call a draw and its tangents; by default by
            s.z/sigma_{t|s} on a pair of opposite z, two calls a draw.
        prior_log_prob: log-density at t_max, [*event] -> []; by default that of
            N(0, prior_std^2 I), whose part is closed.
        chunk: draws to evaluate at once, by default all.

    Returns:
        The ``Bound``, with no reconstruction.

    Raises:
        ValueError: for less than one sample; where g(t_max) is infinite, as on the linear path at
            t = 1.

    Reference: Song et al. 2021, arXiv:2101.09258, theorem 3.
    """
    _require_samples("state_bound", samples)
    _require_finite_diffusion(sde)
    density = densities.uniform_log_snr(sde) if times is None else times
    scale, std = transition(sde, sde.t_max, x)

    def draw(key, t, per_density):
        noise_key, prior_key, trace_key = jax.random.split(key, 3)
        z = jax.random.normal(noise_key, x.shape, x.dtype)
        if divergence is None:
            term = state_term(sde, denoiser, x, z, t)
        else:
            term = implicit_term(trace_key, sde, denoiser, x, z, t, divergence)
        prior = prior_term(prior_key, sde, scale * x, std, prior_log_prob)
        return prior, -per_density * term, jnp.zeros_like(prior)

    parts = _draws(key, sde, density, draw, samples, chunk, x)
    return _report(parts, x, samples * (2 if divergence is None else 1))


def strata(key: Key, samples: int, dtype: Any) -> Float[Array, " samples"]:
    """K increasing uniforms (k + u_k)/K, one in each K-th of [0, 1), with a u_k of its own.

    Were u shared, a trend of the integrand would move all draws together, by more than the
    differences between neighbours tell.

    Args:
        key: of the u_k.
        samples: K.
        dtype: floating dtype.

    Returns:
        The uniforms [K].
    """
    u = (jnp.arange(samples, dtype=dtype) + jax.random.uniform(key, (samples,), dtype)) / samples
    return jnp.minimum(u, 1.0 - jnp.finfo(dtype).epsneg)  # rounding may reach 1


def successive_error(values: Float[Array, " k"]) -> Scalar:
    """The standard error of the mean of K numbers in the order of their strata; NaN for one.

    Args:
        values: [K].

    Returns:
        sqrt(sum (y_{k+1} - y_k)^2 / (2 K (K - 1))), [].

    Reference: Wolter 2007, Introduction to Variance Estimation, section 8.2, estimator v2.
    """
    count = values.shape[0]
    if count < 2:
        return jnp.full_like(values[0], jnp.nan)
    return jnp.sqrt(jnp.sum(jnp.diff(values) ** 2) / (2 * count * (count - 1)))


def _draws(
    key: Key,
    sde: SDE,
    density: TimeDensity,
    draw: Callable[[Key, Scalar, Scalar], tuple[Scalar, Scalar, Scalar]],
    samples: int,
    chunk: int | None,
    x: Data,
) -> tuple[Array, Array, Array]:
    """The parts [K] of K draws, at times of the density with the factor 1/density."""
    time_key, draw_key = jax.random.split(key)
    t = jax.vmap(density.quantile)(strata(time_key, samples, x.dtype))
    factor = densities.importance(density, densities.uniform(sde)).factor
    per_density = (sde.t_max - sde.t_min) * jax.vmap(factor)(t)
    draws = (jax.random.split(draw_key, samples), t, per_density)
    if chunk is None:
        return jax.vmap(draw)(*draws)
    return jax.lax.map(lambda row: draw(*row), draws, batch_size=chunk)


def _report(parts: tuple[Array, Array, Array], x: Data, calls: int) -> Bound:
    prior, diffused, reconstruction = map(jnp.mean, parts)
    log_p = prior + diffused + reconstruction
    return Bound(
        log_p,
        bits_per_dim(log_p, x.size),
        successive_error(parts[0] + parts[1] + parts[2]),
        prior,
        diffused,
        reconstruction,
        jnp.asarray(calls, jnp.int32),
        finite(log_p),
    )


def _require_samples(name: str, samples: int) -> None:
    if samples < 1:
        raise ValueError(f"{name}: got samples={samples}; expected at least 1")


def _require_finite_diffusion(sde: SDE) -> None:
    with jax.ensure_compile_time_eval():
        g = diffusion(sde, sde.t_max)
    if not isinstance(g, jax.core.Tracer) and not math.isfinite(float(g)):
        raise ValueError(
            f"state_bound: got t_max={float(sde.t_max)}, where g of {type(sde).__name__} is "
            "infinite; use data_bound, or a process with a smaller t_max"
        )
