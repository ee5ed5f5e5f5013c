"""Trajectories of the probability-flow ODE where it has no closed form, in float64.

    dx/dt = alpha'(t) E[x0 | x] + sigma'(t) E[eps | x]

is integrated from each time of a list to the next, so the states asked for are ends of steps and
never interpolated. The method is extrapolation: the modified midpoint rule with n = 2, 4, ..., 12
substeps has an error in even powers of 1/n, and the polynomial in 1/n^2 through the six results is
read at 0, which gives order 12. It owes nothing to the solvers that are judged by it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sdejax.prediction import Denoiser, to_velocity
from sdejax.sde import SDE, coefficients
from sdejax.types import Data, Times

SUBSTEPS = (2, 4, 6, 8, 10, 12)


def reference(
    sde: SDE,
    denoiser: Denoiser,
    x: Data,
    ts: Times,
    *,
    tolerance: float = 1e-12,
    max_steps: int = 4096,
) -> Float[Array, "m *event"]:
    """The states of one example at given times, to 1e-10, in float64 under any setting.

    Steps of error 1e-12 leave 1e-13 in the median, and up to 1e-10 in the example of a batch that
    passes closest to the edge between two modes.

    Args:
        sde: the process.
        denoiser: (x, t) -> ``Estimate``, called in float64; those of ``truth.denoiser`` answer in
            kind. One that computes in float32 needs a tolerance it can meet, 1e-5 say.
        x: state at ``ts[0]``, [*event].
        ts: times to visit in turn, [m], either way along the trajectory.
        tolerance: error of a step, relative to 1 + |x|.
        max_steps: most steps between two times, rejected ones included.

    Returns:
        The states [m, *event] in float64, the first of them x; NaN from where the solve failed.

    Reference: Song et al. 2021, arXiv:2011.13456, eq. 13; Hairer, Norsett and Wanner 1993, II.9.
    """
    with jax.enable_x64(True):
        sde, x, ts = jax.tree.map(
            lambda leaf: jax.lax.convert_element_type(leaf, jnp.float64), (sde, x, ts)
        )

        def slope(x, t):
            return to_velocity(denoiser(x, t), coefficients(sde, t))

        def advance(x, ends):
            x = _solve(slope, x, ends[0], ends[1], tolerance, max_steps)
            return x, x

        _, states = jax.lax.scan(advance, x, (ts[:-1], ts[1:]))
        return jnp.concatenate([x[None], states])


def _solve(slope, x, start, end, tolerance, max_steps):
    """x at ``end`` by steps whose lengths keep their errors at the tolerance."""

    def unfinished(carry):
        _, done, _, count = carry
        return (done < 1.0) & (count < max_steps)

    def attempt(carry):
        x, done, length, count = carry
        last = length >= 1.0 - done
        length = jnp.minimum(length, 1.0 - done)
        new, lower = _extrapolated(slope, x, start + done * (end - start), length * (end - start))
        error = jnp.max(jnp.abs(new - lower) / (tolerance * (1.0 + jnp.abs(x))))
        error = jnp.where(jnp.isfinite(error), jnp.maximum(error, 1e-12), 1e12)
        accept = error <= 1.0
        done = jnp.where(accept, jnp.where(last, 1.0, done + length), done)
        # The lower of the two has a local error of order 11.
        factor = jnp.clip(0.9 * error ** (-1.0 / 11.0), 0.2, 4.0)
        return jnp.where(accept, new, x), done, length * factor, count + 1

    first = (x, jnp.zeros_like(start), jnp.full_like(start, 0.1), 0)
    x, done, _, _ = jax.lax.while_loop(unfinished, attempt, first)
    return jnp.where(done < 1.0, jnp.nan, x)


def _extrapolated(slope, x, t, length):
    """One step of order 12 and its companion of order 10."""
    at_start = slope(x, t)

    def midpoint(n):
        h = length / n.astype(length.dtype)

        def leap(i, pair):
            before, here = pair
            return here, before + 2.0 * h * slope(here, t + i.astype(h.dtype) * h)

        return jax.lax.fori_loop(1, n, leap, (x, x + h * at_start))[1]

    counts = jnp.asarray(SUBSTEPS)
    table, squares = jax.lax.map(midpoint, counts), counts.astype(x.dtype) ** 2
    for level in range(1, len(SUBSTEPS)):  # Aitken and Neville
        ratio = squares[level:] / squares[:-level] - 1.0
        lower = table[-1]
        table = table[1:] + (table[1:] - table[:-1]) / ratio.reshape(-1, *(1,) * x.ndim)
    return table[-1], lower
