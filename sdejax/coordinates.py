"""Coordinates in which the linear part of the equations that carry noise to data is gone.

A change of variables y = x / S over a step variable u turns each equation into

    dy/du = a x0 + b eps   (+ k dW_u),

with coefficients of the process alone, so that any solver becomes an exponential integrator. With
r = sigma/alpha, R = alpha/sigma, w the noise of a reverse process and q = w^2/g^2, where
g^2 = alpha^2 d(r^2)/dt:

| coordinates | ODE: S, u | a, b | SDE: S, u | a, b | k^2 |
|---|---|---|---|---|---|
| native | 1, t | alpha', sigma' | 1, -t | -alpha', -(sigma' + w^2/(2 sigma)) | w^2 |
| noise | alpha, r | 0, 1 | alpha, -r^2 | 0, -(1 + q)/(2 r) | q |
| log_noise | alpha, log r | 0, r | alpha, -log r | 0, -(1 + q) r | 2 q r^2 |
| data | sigma, R | 1, 0 | sigma^2/alpha, R^2 | 1, 0 | 1 |
| log_data | sigma, log R | R, 0 | sigma^2/alpha, log R | 2 R^2, 0 | 2 R^2 |
| angle | s, theta | -sigma/(s sd), alpha sd/s | s, -theta | -a, -b - q' | w^2/(s^2 theta') |

The last has s^2 = alpha^2 sd^2 + sigma^2 and theta = arctan(r/sd) with sd the data's standard
deviation: dy/dtheta is minus EDM's F, data of covariance sd^2 stand still, it is finite at both
ends, and it reads the same for every process; q' = w^2/(2 sigma s theta').

Where k is 1, the noise of a step is exact as well. The data columns of the SDE hold for w = g:
there x/S runs as dy = x0 d(SNR) + dW_SNR, which is stochastic localisation. (For w = eta g the
scale would be sigma r^(eta^2), and drift and noise would have different clocks.) The step variable
of an SDE increases from noise to data, since diffrax integrates SDEs forward only. The logarithmic
forms have the same y; their steps suit adaptive solvers, since u spans few units.

Reference: Song et al. 2020, arXiv:2010.02502, eq. 14 (noise); Lu et al. 2022, arXiv:2206.00927 and
2211.01095 (both, deterministic and stochastic); El Alaoui and Montanari 2022, arXiv:2109.05525;
Salimans and Ho 2022, arXiv:2202.00512, appendix D, and Lu and Song 2024, arXiv:2410.11081, eq. 5
(angle).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sdejax import prediction
from sdejax.sde import SDE, Coefficients, as_time, diffusion
from sdejax.types import Scalar, Time

Pair = tuple[Scalar, Scalar]  # a, b


class Frame(NamedTuple):
    """One equation in new variables: y = x / scale over the step variable u."""

    scale: Callable[[Coefficients], Scalar]
    variable: Callable[[SDE, Time], Scalar]  # u(t)
    time: Callable[[SDE, Scalar], Scalar]  # t(u)
    rate: Callable[[Coefficients, Scalar], Pair]  # (coefficients, w) -> a, b
    spread: Callable[[Coefficients, Scalar], Scalar]  # (coefficients, w) -> k
    needs: tuple[str, ...] = ()  # which of alpha and sigma may not be 0 at the ends
    only: Callable[[SDE, Time], Scalar] | None = None  # the one w it holds for; None for any
    clock: int = 0  # 1: u > 0 spans decades, as a variance does; -1: u < 0 does, towards 0


class Coordinates(NamedTuple):
    """A name, and how the probability-flow ODE and the reverse processes read there."""

    name: str
    flow: Frame
    reverse: Frame


def _of(ratio: Callable[[Scalar, Scalar], Scalar]) -> Callable[[SDE, Time], Scalar]:
    """u(t) as a function of alpha and sigma."""

    def variable(sde: SDE, t: Time) -> Scalar:
        t = as_time(t)
        return ratio(jnp.asarray(sde.alpha(t), t.dtype), jnp.asarray(sde.sigma(t), t.dtype))

    return variable


def _at(log_snr: Callable[[Scalar], Scalar]) -> Callable[[SDE, Scalar], Scalar]:
    """t(u) from the log-SNR as a function of u."""
    return lambda sde, u: sde.time_of_log_snr(log_snr(u))


def require_ends(coordinates: Coordinates, frame: Frame, sde: SDE, *ends: Time) -> None:
    """Refuses coordinates that are not finite where a solve starts or ends; tracers pass.

    Args:
        coordinates: whose name the message gives.
        frame: their ``flow`` or ``reverse``.
        sde: the process.
        *ends: the first and the last time.

    Raises:
        ValueError: where alpha or sigma is 0 and may not be.
    """
    for t in ends:
        with jax.ensure_compile_time_eval():
            values = {"alpha": sde.alpha(t), "sigma": sde.sigma(t)}
        if any(isinstance(value, jax.core.Tracer) for value in values.values()):
            continue
        for name in frame.needs:
            if not abs(float(values[name])) > 0:
                raise ValueError(
                    f"coordinates {coordinates.name!r}: got {name}({float(t)}) = "
                    f"{float(values[name])} for {type(sde).__name__}, where they are not finite; "
                    + _REMEDY[name]
                )


_REMEDY = {
    "alpha": "use coordinates.data (of the ODE) or native, or a process with a smaller t_max",
    "sigma": "use coordinates.noise (of the ODE) or native, or a grid that ends at a larger time",
}


def _no_spread(c: Coefficients, w: Scalar) -> Scalar:
    """An ODE has no noise."""
    return jnp.zeros_like(c.alpha)


def _r(c: Coefficients) -> Scalar:
    return c.sigma / c.alpha


def _q(c: Coefficients, w: Scalar) -> Scalar:
    """w^2 / g^2."""
    return w**2 / (2.0 * c.sigma * (c.dsigma - c.sigma * c.dalpha / c.alpha))


def _zero(c: Coefficients) -> Scalar:
    return jnp.zeros_like(c.alpha)


_BOTH = ("alpha", "sigma")

native = Coordinates(
    "native",
    Frame(
        scale=lambda c: jnp.ones_like(c.alpha),
        variable=lambda sde, t: as_time(t),
        time=lambda sde, u: u,
        rate=lambda c, w: prediction.velocity(c),
        spread=_no_spread,
    ),
    Frame(
        scale=lambda c: jnp.ones_like(c.alpha),
        variable=lambda sde, t: jnp.asarray(sde.t_max, as_time(t).dtype) - t,
        time=lambda sde, u: jnp.asarray(sde.t_max, u.dtype) - u,
        rate=lambda c, w: (-c.dalpha, -(c.dsigma + w**2 / (2.0 * c.sigma))),
        spread=lambda c, w: w,
    ),
)

noise = Coordinates(
    "noise",
    Frame(
        scale=lambda c: c.alpha,
        variable=_of(lambda alpha, sigma: sigma / alpha),
        time=_at(lambda r: -2.0 * jnp.log(r)),
        rate=lambda c, w: prediction.eps(c),
        spread=_no_spread,
        needs=("alpha",),
    ),
    Frame(
        scale=lambda c: c.alpha,
        variable=_of(lambda alpha, sigma: -((sigma / alpha) ** 2)),
        time=_at(lambda u: -jnp.log(-u)),
        rate=lambda c, w: (_zero(c), -(1.0 + _q(c, w)) / (2.0 * _r(c))),
        spread=lambda c, w: jnp.sqrt(_q(c, w)),
        needs=_BOTH,
        clock=-1,
    ),
)

log_noise = Coordinates(
    "log_noise",
    Frame(
        scale=lambda c: c.alpha,
        variable=_of(lambda alpha, sigma: jnp.log(sigma) - jnp.log(alpha)),
        time=_at(lambda u: -2.0 * u),
        rate=lambda c, w: (_zero(c), _r(c)),
        spread=_no_spread,
        needs=_BOTH,
    ),
    Frame(
        scale=lambda c: c.alpha,
        variable=_of(lambda alpha, sigma: jnp.log(alpha) - jnp.log(sigma)),
        time=_at(lambda u: 2.0 * u),
        rate=lambda c, w: (_zero(c), -(1.0 + _q(c, w)) * _r(c)),
        spread=lambda c, w: jnp.sqrt(2.0 * _q(c, w)) * _r(c),
        needs=_BOTH,
    ),
)

data = Coordinates(
    "data",
    Frame(
        scale=lambda c: c.sigma,
        variable=_of(lambda alpha, sigma: alpha / sigma),
        time=_at(lambda u: 2.0 * jnp.log(u)),
        rate=lambda c, w: prediction.x0(c),
        spread=_no_spread,
        needs=("sigma",),
    ),
    Frame(
        scale=lambda c: c.sigma**2 / c.alpha,
        variable=_of(lambda alpha, sigma: (alpha / sigma) ** 2),
        time=_at(jnp.log),
        rate=lambda c, w: prediction.x0(c),
        spread=lambda c, w: jnp.ones_like(c.alpha),
        needs=_BOTH,
        only=diffusion,
        clock=1,
    ),
)

log_data = Coordinates(
    "log_data",
    Frame(
        scale=lambda c: c.sigma,
        variable=_of(lambda alpha, sigma: jnp.log(alpha) - jnp.log(sigma)),
        time=_at(lambda u: 2.0 * u),
        rate=lambda c, w: (1.0 / _r(c), _zero(c)),
        spread=_no_spread,
        needs=_BOTH,
    ),
    Frame(
        scale=lambda c: c.sigma**2 / c.alpha,
        variable=_of(lambda alpha, sigma: jnp.log(alpha) - jnp.log(sigma)),
        time=_at(lambda u: 2.0 * u),
        rate=lambda c, w: (2.0 / _r(c) ** 2, _zero(c)),
        spread=lambda c, w: jnp.sqrt(2.0 * jnp.ones_like(c.alpha)) / _r(c),
        needs=_BOTH,
        only=diffusion,
    ),
)


def angle(sigma_data: float = 0.5) -> Coordinates:
    """y = x/s over the angle between data and noise, ``theta = arctan(sigma/(alpha sigma_data))``.

    The linear part that is gone is that of N(0, sigma_data^2 I), so what is left to integrate is
    how the data differ from it: fewest steps for a given accuracy wherever data are scaled to it.

    Args:
        sigma_data: standard deviation of the data.

    Returns:
        The coordinates, finite at sigma = 0 and at alpha = 0.

    Raises:
        ValueError: unless sigma_data > 0.

    Reference: Lu and Song 2024, arXiv:2410.11081, eq. 5 (TrigFlow).
    """
    output = prediction.edm(sigma_data)

    def scale(c: Coefficients) -> Scalar:
        return jnp.sqrt((c.alpha * sigma_data) ** 2 + c.sigma**2)

    def clock(c: Coefficients) -> Scalar:  # dtheta/dt
        return sigma_data * (c.dsigma * c.alpha - c.sigma * c.dalpha) / scale(c) ** 2

    def time(sde: SDE, u: Scalar) -> Scalar:
        # Rounding can put cos(pi/2) below 0.
        cos, sin = (jnp.maximum(k, jnp.finfo(u.dtype).tiny) for k in (jnp.cos(u), jnp.sin(u)))
        return sde.time_of_log_snr(2.0 * (jnp.log(cos) - jnp.log(sin) - math.log(sigma_data)))

    def forward(c: Coefficients, w: Scalar) -> Pair:
        a, b = output(c)
        return -a, -b

    def backward(c: Coefficients, w: Scalar) -> Pair:
        a, b = output(c)
        return a, b - w**2 / (2.0 * c.sigma * scale(c) * clock(c))

    theta = _of(lambda alpha, sigma: jnp.arctan2(sigma, sigma_data * alpha))
    return Coordinates(
        "angle",
        Frame(scale, theta, time, forward, _no_spread),
        Frame(
            scale,
            lambda sde, t: -theta(sde, t),
            lambda sde, u: time(sde, -u),
            backward,
            lambda c, w: w / (scale(c) * jnp.sqrt(clock(c))),
        ),
    )


ALL = (native, noise, log_noise, data, log_data, angle())
