"""Gotta Go Fast: adaptive steps for reverse processes by extrapolation, per example.

One attempt of length h from t to s = t - h, for dx = b(x, t) dt + w(t) dW with t running down and
D = W(s) - W(t):

    x'  = x - h b(x, t) + w(t) D                     (Euler-Maruyama)
    x~  = x - h b(x', s) + w(s) D
    x'' = (x' + x~) / 2                              (stochastic improved Euler)
    E   = |(x' - x'') / delta| / sqrt(d),   delta = max(eps_abs, eps_rel max(|x'|, |x'_prev|)).

Where E <= 1 the step is taken, to x'' (extrapolation), and in any case the next attempt has
h <- min(t - t_min, theta h E^-r). The noise is additive, so the second stage needs no correction
for Ito's calculus.

The paper draws D afresh after a rejection. What is accepted is then no longer normal, since E
depends on D: little on images, where E averages over thousands of numbers, but a wrong limit in few
dimensions (on a line the variance comes out far too large, at every tolerance). Here D belongs to
one Brownian path that a rejection does not change. The path is rough, and rounding changes the
times at which it is read: on other hardware, or in another batch, a sample is the same up to the
error that the tolerances allow, not to rounding.
"""

from __future__ import annotations

from typing import NamedTuple

import diffrax as dfx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sdejax.dynamics import Noise, no_noise, require_finite_noise, reverse_drift
from sdejax.prediction import Denoiser
from sdejax.samplers.base import MAX_STEPS, NOT_FINITE, SUCCESS, Method, Stats, finite
from sdejax.samplers.solvers import SHORTEST
from sdejax.sde import SDE, diffusion
from sdejax.types import Data, Key, Scalar, Time


class Tolerances(NamedTuple):
    """When a step is taken, and how long the next one is."""

    eps_abs: float
    eps_rel: float
    safety: float  # theta
    exponent: float  # r


class Attempt(NamedTuple):
    """Where a solve stands before an attempt."""

    x: Data
    t: Scalar
    h: Scalar
    previous: Data  # x' of the last step that was taken
    brownian: Data  # W at t, from its value 0 at t_max
    attempts: Int[Array, ""]
    broken: Bool[Array, ""]  # whether the last attempt met a value that is not finite


def gotta_go_fast(
    noise: Noise = diffusion,
    *,
    eps_abs: float = 0.0078,
    eps_rel: float = 0.02,
    first: float = 0.01,
    safety: float = 0.9,
    exponent: float = 0.9,
    max_steps: int = 4096,
    denoise: bool = True,
) -> Method:
    """Gotta Go Fast, two evaluations an attempt; steps of its own for each example.

    Args:
        noise: w(t), by default g(t), the reverse SDE; ``dynamics.no_noise`` for the
            probability-flow ODE.
        eps_abs: absolute tolerance in units of the data; by default 2/256, one level of 8-bit
            images in [-1, 1] (in [0, 1] the paper takes 1/256).
        eps_rel: relative tolerance; the paper compares 0.01 to 0.5.
        first: the first step, as a part of t_max - t_min.
        safety: theta.
        exponent: r of the step-size rule, in (0.5, 1].
        max_steps: most attempts, rejected ones included.
        denoise: end with x0 as estimated at t_min, one more evaluation.

    Returns:
        The method.

    Raises:
        ValueError: for a tolerance, step, safety or exponent that is not positive; by
            ``make_sampler``'s function, where w is infinite at t_max or sigma(t_min) is 0.

    Reference: Jolicoeur-Martineau et al. 2021, arXiv:2105.14080, algorithm 1.
    """
    given = {"eps_abs": eps_abs, "eps_rel": eps_rel, "first": first, "max_steps": max_steps}
    for name, value in {**given, "safety": safety, "exponent": exponent}.items():
        if not value > 0:
            raise ValueError(f"gotta_go_fast: got {name}={value}; expected a positive number")
    tolerances = Tolerances(eps_abs, eps_rel, safety, exponent)

    def run(key: Key, sde: SDE, denoiser: Denoiser, x: Data) -> tuple[Data, Stats]:
        start, end = (jnp.asarray(t, x.dtype) for t in (sde.t_max, sde.t_min))
        path = _path(key, noise, start - end, x)

        def unfinished(at):
            # Shorter attempts at a value that is not finite would meet it as well.
            hopeless = at.broken & (at.h < SHORTEST * (start - end))
            return (at.t > end) & (at.attempts < max_steps) & ~hopeless

        def attempt(at):
            return _attempt(tolerances, sde, denoiser, noise, path, (start, end), at)

        zero = jnp.zeros_like(x)
        state = Attempt(
            x, start, first * (start - end), x, zero, jnp.zeros((), jnp.int32), jnp.asarray(False)
        )
        last = jax.lax.while_loop(unfinished, attempt, state)
        out = denoiser(last.x, end).x0 if denoise else last.x
        short = jnp.where(last.broken, NOT_FINITE, MAX_STEPS)
        result = jnp.where(last.t > end, short, SUCCESS).astype(jnp.int32)
        result = jnp.maximum(result, finite(out))
        return out, Stats(2 * last.attempts + int(denoise), result)

    def require(sde: SDE, t: Time) -> None:
        require_finite_noise(noise, sde, t)
        if not abs(float(sde.sigma(sde.t_min))) > 0:
            raise ValueError(
                f"gotta_go_fast: got sigma(t_min={float(sde.t_min)}) = 0, where its second stage "
                "evaluates the score; use a process with a larger t_min"
            )

    return Method(run, require)


def _path(key: Key, noise: Noise, span: Scalar, x: Data) -> dfx.AbstractPath | None:
    """Brownian motion in t_max - t, the same whatever steps are tried; None without noise."""
    if noise is no_noise:
        return None
    return dfx.VirtualBrownianTree(
        jnp.zeros_like(span), span, span * 2.0**-20, jax.ShapeDtypeStruct(x.shape, x.dtype), key
    )


def _attempt(
    tolerances: Tolerances,
    sde: SDE,
    denoiser: Denoiser,
    noise: Noise,
    path: dfx.AbstractPath | None,
    ends: tuple[Scalar, Scalar],
    at: Attempt,
) -> Attempt:
    """One attempt of length h: the next state where it was good enough, and the next length."""
    start, end = ends
    arrives = at.h >= at.t - end
    s = jnp.where(arrives, end, at.t - at.h)
    h = at.t - s

    def slope(x, t):
        return reverse_drift(sde, denoiser, x, t, noise)

    def w(t):
        return jnp.asarray(noise(sde, t), at.x.dtype)

    brownian = at.brownian if path is None else path.evaluate(start - s)
    d = brownian - at.brownian
    euler = at.x - h * slope(at.x, at.t) + w(at.t) * d
    other = at.x - h * slope(euler, s) + w(s) * d
    improved = 0.5 * (euler + other)

    size = jnp.maximum(jnp.abs(euler), jnp.abs(at.previous))
    delta = jnp.maximum(tolerances.eps_abs, tolerances.eps_rel * size)
    error = _rms((euler - improved) / delta)
    taken = error <= 1.0
    # A value that is not finite says nothing of the length: a fifth of it is tried.
    factor = jnp.where(jnp.isfinite(error), tolerances.safety * error**-tolerances.exponent, 0.2)
    x, t, previous, brownian = jax.tree.map(
        lambda new, old: jnp.where(taken, new, old),
        (improved, s, euler, brownian),
        (at.x, at.t, at.previous, at.brownian),
    )
    return Attempt(x, t, h * factor, previous, brownian, at.attempts + 1, ~jnp.isfinite(error))


def _rms(x: Float[Array, "*event"]) -> Scalar:
    """The root mean square of all entries."""
    return jnp.sqrt(jnp.mean(x**2))
