"""Is the score a gradient? The antisymmetric part of its Jacobian.

The Jacobian J of a score is a Hessian, so it is symmetric; a network's need not be. With
J = H + K, H symmetric and K antisymmetric, and independent probes v, w of unit covariance,

    E(v.Jw - w.Jv)^2 = 4 |K|_F^2,    E(v.Jw + w.Jv)^2 = 4 |H|_F^2,

so forward mode is enough: K tangents give all of their pairs. A curl does not change the marginal
densities by itself, and a few per cent is what trained networks have; it is a measure of how far
the field is from any density, in the directions that the loss does not see.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sdejax.diagnostics.levels import (
    ConditionalDenoiser,
    Levels,
    Mean,
    log_snrs,
    mean,
    over_levels,
    ratio,
    root,
)
from sdejax.sde import SDE
from sdejax.types import Cond, Data, Key


class Asymmetry(NamedTuple):
    """The parts of sigma d eps_hat/dx = -sigma^2 d score/dx, per entry of the event, at m times."""

    t: Levels
    log_snr: Levels
    ratio: Mean  # sqrt(E|K|^2 / E|H|^2); ideally 0
    antisymmetric: Mean  # |K|_F^2
    symmetric: Mean  # |H|_F^2


def asymmetry(
    key: Key,
    denoiser: ConditionalDenoiser,
    sde: SDE,
    x0: Float[Array, "n *event"],
    ts: Levels,
    cond: Cond = None,
    *,
    probes: int | None = None,
    chunk: int = 256,
) -> Asymmetry:
    """How far the score's Jacobian is from a symmetric matrix, ``|J - J^T|_F / |J + J^T|_F``.

    Args:
        key: key of noise and probes.
        denoiser: (x, t) -> ``Estimate``, or (x, t, cond) where ``cond`` is given.
        sde: the process.
        x0: data [n, *event], n >= 2.
        ts: times with sigma > 0 [m].
        cond: conditions, with leaves [n, ...], or None.
        probes: random directions, K >= 2 tangents an example; by default all d, exactly.
        chunk: examples to hold in memory at once.

    Returns:
        ``Asymmetry`` of [m].

    Raises:
        ValueError: for one probe, fewer than two examples, no times, or a chunk below 1.

    Reference: Chao et al. 2022, arXiv:2209.12753 (the asymmetry of trained scores).
    """
    if probes is not None and probes < 2:
        raise ValueError(f"asymmetry: got probes={probes}; expected at least 2, or None for all")

    def single(key, at, x, eps, t):
        directions = _directions(key, x, probes)
        _, jvp = jax.linearize(lambda y: at(y, t).eps, x)
        rows = jax.vmap(lambda v: jvp(v.reshape(x.shape)).ravel())(directions)
        products = jnp.asarray(sde.sigma(t), x.dtype) * directions @ rows.T  # v_k . sigma J v_l
        parts = 0.5 * (products - products.T), 0.5 * (products + products.T)
        if probes is None:
            squares = tuple(jnp.sum(part**2) for part in parts)
        else:  # pairs of different probes
            pairs = probes * (probes - 1)
            squares = tuple((jnp.sum(p**2) - jnp.sum(jnp.diagonal(p) ** 2)) / pairs for p in parts)
        return tuple(square / x.size for square in squares)

    skew, even = over_levels(key, single, denoiser, sde, x0, ts, cond, chunk)
    return Asymmetry(ts, log_snrs(sde, ts), root(ratio(skew, even)), mean(skew), mean(even))


def _directions(key: Key, x: Data, probes: int | None) -> Float[Array, "k d"]:
    """All basis vectors, or random signs."""
    if probes is None:
        return jnp.eye(x.size, dtype=x.dtype)
    return jax.random.rademacher(key, (probes, x.size), x.dtype)
