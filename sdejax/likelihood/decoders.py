"""The last step of a bound, from the state at t_min to data: ``E log r(x | x_t)`` given x.

The reverse process ends at t_min with a noisy state. What is made of it is part of the model: a
decoder r, here a Gaussian of standard deviation s about one of two means,

    x_t / alpha,    which needs no network,        x_t = alpha x + sigma eps, or
    x0_hat(x_t),    one more call, of smaller error.

Real data take its density. Integers take its mass on a bin of one level, the first and the last
bins reaching to infinity, so the masses of all levels add up to one and the bound is on a
probability: no dequantisation, and no scale to correct for (Ho et al. 2020, arXiv:2006.11239,
eq. 13).

By default s = sigma/alpha, the error of x_t/alpha. About x0_hat the best s is the posterior's
standard deviation, which is smaller; for Gaussian data r is then the exact posterior.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from sdejax.likelihood.terms import coefficients_as
from sdejax.prediction import Denoiser
from sdejax.sde import SDE, Coefficients, perturb
from sdejax.types import Data, Key, Scalar, Time


class Decoder(NamedTuple):
    """How the state at t_min becomes data."""

    draw: Callable[[Key, SDE, Denoiser, Data, Time], Scalar]  # estimates E log r(x | x_t), nats
    calls: int  # of the network, a draw


def gaussian(std: float | None = None, denoise: bool = False) -> Decoder:
    """r(x | x_t) = N(mean, s^2 I), for real data.

    About x_t/alpha the expectation is closed, -d/2 (log 2 pi s^2 + sigma^2/(alpha s)^2), and free
    of noise.

    Args:
        std: s, in units of x; by default sigma/alpha at t_min.
        denoise: whether the mean is x0_hat(x_t), or x_t/alpha.

    Returns:
        The decoder.

    Raises:
        ValueError: unless std > 0.
    """
    _require_std("gaussian", std)

    def closed(key: Key, sde: SDE, denoiser: Denoiser, x: Data, t: Time) -> Scalar:
        c = coefficients_as(sde, t, x)
        s = _std(std, c)
        return -x.size * (_log_scale(s) + 0.5 * (c.sigma / (c.alpha * s)) ** 2)

    def drawn(key: Key, sde: SDE, denoiser: Denoiser, x: Data, t: Time) -> Scalar:
        s = _std(std, coefficients_as(sde, t, x))
        mean = _mean(key, sde, denoiser, x, t, denoise=True)
        return -0.5 * jnp.sum(((x - mean) / s) ** 2) - x.size * _log_scale(s)

    return Decoder(drawn, 1) if denoise else Decoder(closed, 0)


def discretised(
    levels: int,
    *,
    scale: float | Sequence[float] | None = None,
    offset: float | Sequence[float] | None = None,
    std: float | None = None,
    denoise: bool = True,
) -> Decoder:
    """The mass of N(mean, s^2) on the bin of each integer, for data x = (integer - offset)/scale.

    A bin is 1/scale wide about its x, the first and the last reach to infinity. An x that is no
    such integer has no bin: the answer is NaN.

    Args:
        levels: the integers are 0 .. levels - 1.
        scale: levels per unit of x, a number or one per entry of the last axis; by default
            (levels - 1)/2, i.e. x in [-1, 1].
        offset: the integer at x = 0, likewise; by default (levels - 1)/2.
        std: s, in units of x; by default sigma/alpha at t_min.
        denoise: whether the mean is x0_hat(x_t), or x_t/alpha.

    Returns:
        The decoder, of a log-probability in nats, summed over entries.

    Raises:
        ValueError: for less than two levels, a scale or an std that is not positive.

    Reference: Ho et al. 2020, arXiv:2006.11239, eq. 13.
    """
    _require_std("discretised", std)
    if levels < 2:
        raise ValueError(f"discretised: got levels={levels}; expected at least 2")
    half = 0.5 * (levels - 1)
    scale, offset = (half if value is None else value for value in (scale, offset))
    if not min(scale if isinstance(scale, Sequence) else [scale]) > 0:
        raise ValueError(f"discretised: got scale={scale}; expected positive numbers")

    def draw(key: Key, sde: SDE, denoiser: Denoiser, x: Data, t: Time) -> Scalar:
        s = _std(std, coefficients_as(sde, t, x))
        mean = _mean(key, sde, denoiser, x, t, denoise=denoise)
        per_unit, zero = (
            jnp.broadcast_to(jnp.asarray(v, x.dtype), x.shape) for v in (scale, offset)
        )
        place = per_unit * x + zero
        level = jnp.rint(place)
        valid = (jnp.abs(place - level) < 0.05) & (level >= 0) & (level <= levels - 1)
        width = 0.5 / (per_unit * s)
        away = (x - mean) / s
        mass = _log_mass(away - width, away + width, level <= 0, level >= levels - 1)
        return jnp.sum(jnp.where(valid, mass, jnp.nan))

    return Decoder(draw, int(denoise))


def _log_mass(
    lower: Data, upper: Data, first: Bool[Array, "*event"], last: Bool[Array, "*event"]
) -> Data:
    """log(Phi(upper) - Phi(lower)), with -inf for the lower end of the first, inf for the last."""
    log_ndtr = jax.scipy.special.log_ndtr
    # In the lower tail, where the two logarithms keep their digits.
    flip = lower + upper > 0
    a, b = jnp.where(flip, -upper, lower), jnp.where(flip, -lower, upper)
    low, high = log_ndtr(a), log_ndtr(b)
    inside = high + jnp.log(-jnp.expm1(low - high))
    return jnp.where(first, log_ndtr(upper), jnp.where(last, log_ndtr(-lower), inside))


def _mean(key: Key, sde: SDE, denoiser: Denoiser, x: Data, t: Time, *, denoise: bool) -> Data:
    """The decoder's mean at one draw of x_t given x."""
    state = perturb(sde, x, jax.random.normal(key, x.shape, x.dtype), t)
    return denoiser(state, t).x0 if denoise else state / coefficients_as(sde, t, x).alpha


def _std(std: float | None, c: Coefficients) -> Scalar:
    return c.sigma / c.alpha if std is None else jnp.asarray(std, c.sigma.dtype)


def _log_scale(std: Scalar) -> Scalar:
    return jnp.log(std) + 0.5 * math.log(2.0 * math.pi)


def _require_std(name: str, std: float | None) -> None:
    if std is not None and not std > 0:
        raise ValueError(f"{name}: got std={std}; expected a positive number, or None")
