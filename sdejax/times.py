"""The densities that training times are drawn from.

A density is its quantile function and its log-density, so stratified times are the quantiles of
stratified uniforms and nothing else has to know about them.

A density that is part of the objective (EDM's log-normal, SD3's logit-normal) changes what is
minimised. An importance sampler leaves the objective as it is and only lowers the variance of its
estimate, by the factor ``p_objective(t) / p_proposal(t)``. ``objective`` and ``importance`` say
which of the two is meant.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sdejax.sde import SDE, coefficients, log_snr
from sdejax.types import Index, Key, Scalar, Time


class TimeDensity(NamedTuple):
    """A distribution of times on [t_min, t_max]."""

    quantile: Callable[[Scalar], Scalar]  # u in [0, 1) -> t
    log_density: Callable[[Time], Scalar]  # t -> log p(t), per unit of t


class TimeSampling(NamedTuple):
    """How training draws times: a density, and the factor that its loss is multiplied by."""

    density: TimeDensity
    factor: Callable[[Time], Scalar]


def objective(density: TimeDensity) -> TimeSampling:
    """Times whose density is part of the objective, ``E_{t ~ p} w(t) E(t)``: factor 1."""
    return TimeSampling(density, lambda t: jnp.ones_like(jnp.asarray(t)))


def importance(proposal: TimeDensity, target: TimeDensity) -> TimeSampling:
    """Times from ``proposal`` for the objective of ``target``: factor target(t)/proposal(t).

    The expected loss and its gradient are those of ``objective(target)``, provided the proposal
    reaches every time that the target does; times beyond the target count nothing.

    Args:
        proposal: the density to draw from; positive wherever the target is.
        target: the density of the objective.

    Returns:
        The sampling.

    Reference: Song et al. 2021, arXiv:2101.09258, section 5.
    """
    return TimeSampling(
        proposal, lambda t: jnp.exp(target.log_density(t) - proposal.log_density(t))
    )


def uniform(sde: SDE, t_min: float | None = None) -> TimeDensity:
    """Uniform on [t_min, t_max].

    Args:
        sde: the process.
        t_min: smallest time, by default the process's own (Song et al. 2021 train VP from 1e-5
            and sample to 1e-3).

    Returns:
        The density.
    """
    low = sde.t_min if t_min is None else t_min
    width = sde.t_max - low
    return TimeDensity(
        quantile=lambda u: low + width * u,
        log_density=lambda t: _inside(t, low, sde.t_max, -jnp.log(width)),
    )


def levels(sde: SDE, num: int = 1000) -> TimeDensity:
    """Uniform over ``num`` times, evenly from t_min to t_max: training at a chain's levels alone.

    Under VE the noise levels are geometric, as in NCSN and NCSNv2. Sampling visits the same times
    with the uniform grid of num - 1 steps.

    Args:
        sde: the process.
        num: number of levels, those at both ends included.

    Returns:
        The density. It has no values per unit of t: its ``log_density`` raises ValueError, so it
        is an objective and no importance sampler.

    Raises:
        ValueError: for fewer than two levels.

    Reference: Song and Ermon 2019, arXiv:1907.05600, eq. 6; Ho et al. 2020, arXiv:2006.11239.
    """
    if num < 2:
        raise ValueError(f"levels: got num={num}; expected at least 2")

    def quantile(u):
        index = jnp.minimum(jnp.floor(num * u), num - 1)  # num u can round up to num
        r = index / (num - 1)
        return (1.0 - r) * sde.t_min + r * sde.t_max

    def log_density(t):
        raise ValueError(
            "levels: these times have probabilities but no density, so they cannot be an "
            "importance sampler; make them the objective (times_role='objective')"
        )

    return TimeDensity(quantile, log_density)


def log_normal_sigma(sde: SDE, mean: float = -1.2, std: float = 1.2) -> TimeDensity:
    """log(sigma/alpha) ~ N(mean, std^2), truncated to [t_min, t_max].

    Args:
        sde: the process.
        mean: mean of the log noise level.
        std: its standard deviation.

    Returns:
        The density.

    Reference: Karras et al. 2022, arXiv:2206.00364, table 1 (P_mean, P_std).
    """
    norm = jax.scipy.stats.norm

    def level(t):
        return (-0.5 * log_snr(sde, t) - mean) / std

    def bounds(dtype):
        low, high = jnp.asarray(sde.t_min, dtype), jnp.asarray(sde.t_max, dtype)
        return norm.cdf(level(low)), norm.cdf(level(high))

    def quantile(u):
        low, high = bounds(u.dtype)
        z = norm.ppf(low + (high - low) * u)
        t = sde.time_of_log_snr(-2.0 * (mean + std * z))
        return jnp.clip(t, sde.t_min, sde.t_max)

    def log_density(t):
        t = jnp.asarray(t)
        z, slope = jax.jvp(level, (t,), (jnp.ones_like(t),))
        low, high = bounds(t.dtype)
        return _inside(
            t, sde.t_min, sde.t_max, norm.logpdf(z) + jnp.log(slope) - jnp.log(high - low)
        )

    return TimeDensity(quantile, log_density)


def logit_normal(sde: SDE, mean: float = 0.0, std: float = 1.0) -> TimeDensity:
    """logit of the relative time (t - t_min)/(t_max - t_min) ~ N(mean, std^2).

    Args:
        sde: the process.
        mean: location; positive values favour noise.
        std: scale.

    Returns:
        The density.

    Reference: Esser et al. 2024, arXiv:2403.03206, eq. 19 (lognorm(m, s)).
    """
    width = sde.t_max - sde.t_min

    def quantile(u):
        tiny = jnp.finfo(u.dtype).tiny
        z = mean + std * jax.scipy.stats.norm.ppf(jnp.clip(u, tiny, 1.0))
        return sde.t_min + width * jax.nn.sigmoid(z)

    def log_density(t):
        r = (jnp.asarray(t) - sde.t_min) / width
        z = (jnp.log(r) - jnp.log1p(-r) - mean) / std
        value = jax.scipy.stats.norm.logpdf(z) - jnp.log(std * width * r * (1.0 - r))
        return jnp.where((r > 0) & (r < 1), value, -jnp.inf)

    return TimeDensity(quantile, log_density)


def uniform_log_snr(sde: SDE) -> TimeDensity:
    """Uniform in log-SNR, p(t) proportional to -lambda'(t).

    The optimal proposal for the likelihood weighting where E is flat: it cancels that weight.

    Args:
        sde: the process, with finite log-SNR at both ends.

    Returns:
        The density.

    Raises:
        ValueError: where the log-SNR at t_max is infinite.

    Reference: Song et al. 2021, arXiv:2101.09258, section 5; Kingma et al. 2021, arXiv:2107.00630.
    """
    first = log_snr(sde, sde.t_max)
    if not isinstance(first, jax.core.Tracer) and not math.isfinite(float(first)):
        raise ValueError(
            f"uniform_log_snr: got t_max={float(sde.t_max)}, where alpha = 0 and the log-SNR is "
            "infinite; use another density, or a process with a smaller t_max"
        )

    def ends(dtype):
        high, low = (log_snr(sde, jnp.asarray(t, dtype)) for t in (sde.t_min, sde.t_max))
        return high, low

    def quantile(u):
        high, low = ends(u.dtype)
        return jnp.clip(sde.time_of_log_snr(high + u * (low - high)), sde.t_min, sde.t_max)

    def log_density(t):
        t = jnp.asarray(t)
        c = coefficients(sde, t)
        high, low = ends(t.dtype)
        slope = 2.0 * (c.dsigma / c.sigma - c.dalpha / c.alpha)
        return _inside(t, sde.t_min, sde.t_max, jnp.log(slope) - jnp.log(high - low))

    return TimeDensity(quantile, log_density)


def information(sde: SDE, sigma_data: float = 1.0) -> TimeDensity:
    """p(t) proportional to the rate at which noise takes information from Gaussian data.

    For data N(m, s^2) the likelihood weighting times the ideal error of the noise is, for each
    entry, ``-lambda'/2 alpha^2 s^2 / (alpha^2 s^2 + sigma^2)``, the derivative of
    ``-1/2 log(1 + s^2 alpha^2/sigma^2)``: times uniform in that logarithm make the integrand of the
    variational bound flat, and unlike ``uniform_log_snr`` they end where alpha = 0.

    Args:
        sde: the process.
        sigma_data: s, the standard deviation of the data.

    Returns:
        The density.

    Raises:
        ValueError: unless sigma_data > 0.

    Reference: Guo, Shamai and Verdu 2005, arXiv:cs/0412108, theorem 1 (information and mean squared
    error); Kingma et al. 2021, arXiv:2107.00630, appendix I.
    """
    if not sigma_data > 0:
        raise ValueError(f"information: got sigma_data={sigma_data}; expected a positive number")

    def ends(dtype):
        c = [coefficients(sde, jnp.asarray(t, dtype)) for t in (sde.t_min, sde.t_max)]
        return tuple(jnp.log1p((sigma_data * k.alpha / k.sigma) ** 2) for k in c)

    def quantile(u):
        high, low = ends(u.dtype)
        level = jnp.log(jnp.expm1(low + (1.0 - u) * (high - low))) - 2.0 * math.log(sigma_data)
        return jnp.clip(sde.time_of_log_snr(level), sde.t_min, sde.t_max)

    def log_density(t):
        t = jnp.asarray(t)
        c = coefficients(sde, t)
        high, low = ends(t.dtype)
        lost = 2.0 * sigma_data**2 * c.alpha * (c.alpha * c.dsigma - c.dalpha * c.sigma)
        rate = lost / (c.sigma * (c.sigma**2 + (sigma_data * c.alpha) ** 2))
        return _inside(t, sde.t_min, sde.t_max, jnp.log(rate) - jnp.log(high - low))

    return TimeDensity(quantile, log_density)


def _inside(t: Time, low: Time, high: Time, value: Scalar) -> Scalar:
    """A log-density: ``value`` on [low, high], -inf outside."""
    t = jnp.asarray(t)
    return jnp.where((t >= low) & (t <= high), value, -jnp.inf)


def stratified(key: Key, position: Index, size: int) -> Scalar:
    """One example's share of a stratified batch of uniforms, ``frac(u + position/size)``.

    Every example computes its own value from the step's key, so the batch is stratified over any
    number of devices without communication.

    Args:
        key: the key of the step, the same for the whole batch.
        position: the example's place in the global batch.
        size: the global batch size.

    Returns:
        A uniform number in [0, 1), [].

    Reference: Kingma et al. 2021, arXiv:2107.00630, appendix I.1.
    """
    u = jax.random.uniform(key)
    return (u + jnp.asarray(position, u.dtype) / size) % 1.0
