"""Do the scores at different times belong together? The Fokker-Planck residual.

The density of the process obeys d_t log p = -div v - <v, score>, with v the velocity of the
probability-flow ODE, so its score s obeys the score Fokker-Planck equation, and a network's leaves

    r = d_t s + grad(div v + <v, s>)
      = d_t s - grad(g^2/2 (div s + |s|^2) - <f x, s> - div f).

The two are equal for v = f x - g^2 s/2; the first, in terms of the pair (x0, eps), is finite where
f and g are not. Only its size matters, and E(u.r)^2 = |r|^2 for probes u of unit covariance, so all
of it is forward mode: u.r is one time derivative of s and one derivative of a trace along u.
With random traces u.r is noisy and its square is biased; a product of two independent ones is not,
and may be negative by chance.

``scaled`` is |sigma^3 r / g^2|^2: r of the noise prediction with time in log-SNR, which does not
depend on the units of x and t. A score multiplied by 1 + c leaves r = -c (1 + c) g^2 grad|s|^2/2.

Reference: Lai et al. 2022, arXiv:2210.04296 (the score FPE and its residual).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sdejax import divergence
from sdejax.diagnostics.levels import ConditionalDenoiser, Levels, Mean, log_snrs, mean, over_levels
from sdejax.prediction import to_score, to_velocity
from sdejax.sde import SDE, coefficients
from sdejax.types import Cond, Key


class Residual(NamedTuple):
    """The Fokker-Planck residual of a score, per entry of the event, at m times."""

    t: Levels
    log_snr: Levels
    square: Mean  # |r|^2; ideally 0
    scaled: Mean  # |sigma^3 r / g^2|^2; ideally 0


def residual(
    key: Key,
    denoiser: ConditionalDenoiser,
    sde: SDE,
    x0: Float[Array, "n *event"],
    ts: Levels,
    cond: Cond = None,
    *,
    probes: int | None = None,
    chunk: int = 256,
) -> Residual:
    """The mean square of what the score leaves of its Fokker-Planck equation.

    Args:
        key: key of noise and probes.
        denoiser: (x, t) -> ``Estimate``, or (x, t, cond) where ``cond`` is given; twice
            differentiable in x and once in t.
        sde: the process.
        x0: data [n, *event], n >= 2.
        ts: times with sigma > 0, inside (0, t_max] [m].
        cond: conditions, with leaves [n, ...], or None.
        probes: K random directions an example, each with two one-probe traces: 2 K tangents of
            tangents; by default all directions with exact traces, d^2 of them.
        chunk: examples to hold in memory at once.

    Returns:
        ``Residual`` of [m].

    Raises:
        ValueError: for no probes, fewer than two examples, no times, or a chunk below 1.

    Reference: Lai et al. 2022, arXiv:2210.04296.
    """
    if probes is not None and probes < 1:
        raise ValueError(f"residual: got probes={probes}; expected at least 1, or None for all")
    method = divergence.exact() if probes is None else divergence.hutchinson(1)

    def single(key, at, x, eps, t):
        def fields(y, t):
            c, pair = coefficients(sde, t), at(y, t)
            return to_velocity(pair, c), to_score(pair, c)

        _, moving = jax.jvp(lambda t: fields(x, t)[1], (t,), (jnp.ones_like(t),))

        def along(u, trace_key):
            """u . r, from one draw of the trace's probes."""
            drawn = method.draw(trace_key, x)

            def potential(y):
                (v, s), jvp = jax.linearize(lambda z: fields(z, t), y)
                trace = jnp.mean(method.traces(lambda w: jvp(w)[0], drawn, y))
                return trace + jnp.sum(v * s)

            return jnp.sum(u * moving) + jax.jvp(potential, (x,), (u,))[1]

        if probes is None:
            basis = jnp.eye(x.size, dtype=x.dtype).reshape(x.size, *x.shape)
            return jnp.sum(jax.vmap(lambda u: along(u, key))(basis) ** 2) / x.size

        def product(key):
            direction_key, *trace_keys = jax.random.split(key, 3)
            u = jax.random.rademacher(direction_key, x.shape, x.dtype)
            return along(u, trace_keys[0]) * along(u, trace_keys[1])

        return jnp.mean(jax.vmap(product)(jax.random.split(key, probes))) / x.size

    square = over_levels(key, single, denoiser, sde, x0, ts, cond, chunk)
    factor = jax.vmap(lambda t: _scale(sde, t))(ts.astype(x0.dtype))[:, None]
    return Residual(ts, log_snrs(sde, ts), mean(square), mean(factor**2 * square))


def _scale(sde, t):
    """``sigma^3 / g^2 = sigma alpha / (2 (alpha sigma'/sigma - alpha'))``, 0 where alpha = 0."""
    c = coefficients(sde, t)
    return 0.5 * c.sigma * c.alpha / (c.alpha * c.dsigma / c.sigma - c.dalpha)
