"""Affine couplings: some entries pass, and set scale and shift of the others.

With a mask m of the entries that pass,

    y = m x + (1 - m) (x exp(s) + t),    (t, s) = conditioner(m x, cond),
    log |det dy/dx| = sum (1 - m) s,

so the Jacobian is triangular, whatever the conditioner is, and the inverse costs what the map does.
The log-scale is bounded, s = b tanh(raw/b): an unbounded one overflows on inputs far from the data.

Reference: Dinh et al. 2017, arXiv:1605.08803, eq. 7 to 9 and section 3.4 (masks).
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from sdejax.flows.bijector import Bijector
from sdejax.types import Cond, Data, Params, Scalar

# (params, entries that pass or 0, cond) -> (shift, raw log-scale), of the event's shape each
Conditioner = Callable[[Params, Data, Cond], tuple[Data, Data]]


def checkerboard(event_shape: tuple[int, ...], parity: int = 0) -> Bool[np.ndarray, "*event"]:
    """The entries whose indices add up to an even number, or an odd one: alternating for a vector.

    All axes count, channels too, so the two halves of a pixel see each other.

    Args:
        event_shape: shape of one example.
        parity: 0 passes the even entries, 1 the odd ones.

    Returns:
        A mask of the shape, True where an entry passes.
    """
    return np.asarray(np.indices(event_shape).sum(axis=0) % 2 == parity % 2)


def affine_coupling(
    mask: Bool[np.ndarray, "*event"], conditioner: Conditioner, bound: float = 2.0
) -> Bijector:
    """A coupling layer of RealNVP; the identity where the conditioner gives zeros.

    Args:
        mask: True where an entry passes, [*event].
        conditioner: shift and raw log-scale from the entries that pass.
        bound: b, the largest size of a log-scale.

    Returns:
        The bijector, whose parameters are those of the conditioner.

    Raises:
        ValueError: unless bound > 0.
    """
    if not bound > 0:
        raise ValueError(f"affine_coupling: got bound={bound}; expected a positive number")

    def moved(params: Params, x: Data, cond: Cond) -> tuple[Data, Data]:
        shift, raw = conditioner(params, jnp.where(mask, x, 0.0), cond)
        log_scale = bound * jnp.tanh(raw / bound)
        return jnp.where(mask, 0.0, shift), jnp.where(mask, 0.0, log_scale)

    def forward(params: Params, x: Data, cond: Cond) -> tuple[Data, Scalar]:
        shift, log_scale = moved(params, x, cond)
        return x * jnp.exp(log_scale) + shift, jnp.sum(log_scale)

    def inverse(params: Params, y: Data, cond: Cond) -> tuple[Data, Scalar]:
        shift, log_scale = moved(params, y, cond)
        return (y - shift) * jnp.exp(-log_scale), -jnp.sum(log_scale)

    return Bijector(forward, inverse)
