"""The differential equations that carry noise to data, as functions and as diffrax terms.

All processes

    dx = [v(x, t) - w(t)^2 score(x, t) / 2] dt + w(t) dW    (t running down),

share the marginals p_t for any w(t) >= 0, with v the velocity of the probability-flow ODE: w = 0
is that ODE and w = g the reverse SDE (Anderson 1982; Song et al. 2021, arXiv:2011.13456, eq. 6 and
13; Karras et al. 2022, arXiv:2206.00364, appendix B.5; Albergo et al. 2023, arXiv:2303.08797).
diffrax integrates SDEs forward only, so their terms run in tau = t_max - t.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import diffrax as dfx
import jax
import jax.numpy as jnp
import lineax as lx

from sdejax.prediction import Denoiser, to_velocity
from sdejax.sde import SDE, as_time, coefficients, diffusion
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


def ode_term(sde: SDE, denoiser: Denoiser) -> dfx.ODETerm:
    """The probability-flow ODE as a diffrax term in t.

    Args:
        sde: the process.
        denoiser: (x, t) -> ``Estimate``.

    Returns:
        A term to be integrated from t_max down to t_min.
    """
    return dfx.ODETerm(lambda t, x, args: velocity(sde, denoiser, x, jnp.asarray(t)))


def sde_term(
    sde: SDE, denoiser: Denoiser, noise: Noise, path: dfx.AbstractBrownianPath
) -> dfx.MultiTerm:
    """The reverse process as diffrax terms in tau = t_max - t.

    The diffusion is a ``DiagonalLinearOperator``: a bare array would be contracted over
    [*event, *event].

    Args:
        sde: the process.
        denoiser: (x, t) -> ``Estimate``.
        noise: w(t).
        path: Brownian motion in tau with the event's shape.

    Returns:
        Terms to be integrated forward in tau.
    """

    def time(tau):
        return jnp.asarray(sde.t_max, tau.dtype) - tau

    def drift_in_tau(tau, x, args):
        return -reverse_drift(sde, denoiser, x, time(tau), noise)

    def noise_in_tau(tau, x, args):
        return lx.DiagonalLinearOperator(jnp.full_like(x, noise(sde, time(tau))))

    return dfx.MultiTerm(dfx.ODETerm(drift_in_tau), dfx.ControlTerm(noise_in_tau, path))


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
