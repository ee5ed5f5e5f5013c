"""The differential equations that carry noise to data, as functions and as diffrax terms.

All processes

    dx = [v(x, t) - w(t)^2 score(x, t) / 2] dt + w(t) dW    (t running down),

share the marginals p_t for any w(t) >= 0, with v the velocity of the probability-flow ODE: w = 0
is that ODE and w = g the reverse SDE (Anderson 1982; Song et al. 2021, arXiv:2011.13456, eq. 6 and
13; Karras et al. 2022, arXiv:2206.00364, appendix B.5; Albergo et al. 2023, arXiv:2303.08797).
As diffrax terms they may be written in other coordinates, without their linear part
(``sdejax.coordinates``). diffrax integrates SDEs forward only, so the step variable of a reverse
process increases: natively it is tau = t_max - t.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import diffrax as dfx
import jax
import jax.numpy as jnp
import lineax as lx

from sdejax import coordinates
from sdejax.coordinates import Coordinates, Frame
from sdejax.prediction import Denoiser, Estimate, to_velocity
from sdejax.sde import SDE, Coefficients, as_time, coefficients, diffusion
from sdejax.types import Data, Scalar, Time

Noise = Callable[[SDE, Time], Scalar]  # w(t)


def no_noise(sde: SDE, t: Time) -> Scalar:
    """w = 0: the probability-flow ODE."""
    return jnp.zeros_like(as_time(t))


def sigma_noise(sde: SDE, t: Time) -> Scalar:
    """``w^2 = 2 sigma``, finite on the linear path, whose g is infinite at t = 1.

    Reference: Ma et al. 2024, arXiv:2401.08740, section 3 (w_t = sigma_t).
    """
    return jnp.sqrt(2.0 * jnp.asarray(sde.sigma(as_time(t))))


def velocity(sde: SDE, denoiser: Denoiser, x: Data, t: Time) -> Data:
    """The velocity of the probability-flow ODE, ``alpha' E[x0|x] + sigma' E[eps|x]``.

    Args:
        sde: the process.
        denoiser: (x, t) -> ``Estimate``.
        x: state [*event].
        t: time [].

    Returns:
        dx/dt [*event].
    """
    return to_velocity(denoiser(x, t), coefficients(sde, t))


def reverse_drift(sde: SDE, denoiser: Denoiser, x: Data, t: Time, noise: Noise = diffusion) -> Data:
    """The drift ``v - w^2 score / 2`` of the reverse process, from one denoiser call.

    Args:
        sde: the process.
        denoiser: (x, t) -> ``Estimate``.
        x: state [*event].
        t: time [].
        noise: w(t).

    Returns:
        The coefficient of dt (t running down) [*event].
    """
    c = coefficients(sde, t)
    estimate = denoiser(x, t)
    half = (noise(sde, t) ** 2 / (2.0 * c.sigma)).astype(x.dtype)
    return to_velocity(estimate, c) + half * estimate.eps


def ode_term(
    sde: SDE, denoiser: Denoiser, coordinates: Coordinates = coordinates.native
) -> dfx.ODETerm:
    """The probability-flow ODE as a diffrax term, ``dy/du = a x0 + b eps``.

    Args:
        sde: the process.
        denoiser: (x, t) -> ``Estimate``.
        coordinates: of the state y and of the step variable u.

    Returns:
        A term to be integrated from u(t_max) to u(t_min), in whichever direction that is.
    """
    frame = coordinates.flow

    def rate(u, y, args):
        t, c, x = _native(frame, sde, jnp.asarray(u), y)
        return _combine(frame.rate(c, jnp.zeros_like(t)), denoiser(x, t))

    return dfx.ODETerm(rate)


def sde_term(
    sde: SDE,
    denoiser: Denoiser,
    noise: Noise,
    path: dfx.AbstractBrownianPath,
    coordinates: Coordinates = coordinates.native,
) -> dfx.MultiTerm:
    """A reverse process as diffrax terms, ``dy = (a x0 + b eps) du + k dW_u``.

    The diffusion is a ``DiagonalLinearOperator``: a bare array would be contracted over
    [*event, *event].

    Args:
        sde: the process.
        denoiser: (x, t) -> ``Estimate``.
        noise: w(t).
        path: Brownian motion in u with the event's shape.
        coordinates: of the state y and of the step variable u; in native ones u = t_max - t.

    Returns:
        Terms to be integrated forward in u.

    Raises:
        ValueError: for a noise that the coordinates do not serve.
    """
    frame = coordinates.reverse
    require_noise(coordinates, noise)

    def rate(u, y, args):
        t, c, x = _native(frame, sde, u, y)
        return _combine(frame.rate(c, jnp.asarray(noise(sde, t), u.dtype)), denoiser(x, t))

    def spread(u, y, args):
        t = frame.time(sde, u)
        k = frame.spread(coefficients(sde, t), jnp.asarray(noise(sde, t), u.dtype))
        return lx.DiagonalLinearOperator(jnp.full_like(y, k))

    return dfx.MultiTerm(dfx.ODETerm(rate), dfx.ControlTerm(spread, path))


def _native(frame: Frame, sde: SDE, u: Scalar, y: Data) -> tuple[Scalar, Coefficients, Data]:
    """The time, its coefficients and the state x that belong to y at u."""
    t = frame.time(sde, u)
    c = coefficients(sde, t)
    return t, c, frame.scale(c).astype(y.dtype) * y


def _combine(pair: tuple[Scalar, Scalar], estimate: Estimate) -> Data:
    """a x0 + b eps."""
    a, b = (k.astype(estimate.x0.dtype) for k in pair)
    return a * estimate.x0 + b * estimate.eps


def require_noise(coordinates: Coordinates, noise: Noise) -> None:
    """Refuses a w(t) for which coordinates have no closed form.

    Args:
        coordinates: of a reverse process.
        noise: w(t).

    Raises:
        ValueError: for another noise than the one the coordinates are made for.
    """
    only = coordinates.reverse.only
    if only is not None and noise is not only:
        raise ValueError(
            f"coordinates {coordinates.name!r}: got noise {getattr(noise, '__name__', noise)!r}; "
            f"their closed form holds for {getattr(only, '__name__', only)!r} alone; use "
            "coordinates.noise, log_noise or native"
        )


def require_finite_noise(noise: Noise, sde: SDE, t: Time) -> None:
    """Refuses a w(t) that is infinite where a solver starts; traced values are let through.

    Args:
        noise: w(t).
        sde: the process.
        t: the first time of the solve.

    Raises:
        ValueError: where w(t) is not finite, e.g. w = g on the linear path at t = 1.
    """
    w = noise(sde, t)
    if not isinstance(w, jax.core.Tracer) and not math.isfinite(float(w)):
        raise ValueError(
            f"noise {getattr(noise, '__name__', noise)!r}: got w({float(t)}) = {float(w)} for "
            f"{type(sde).__name__}; use dynamics.sigma_noise, or a process with a smaller t_max"
        )
