"""Is the predicted noise a posterior mean? Its size and its error, at each noise level.

For the posterior mean eps* = E[eps | x_t] the residual eps - eps* is orthogonal to every function
of x_t, so for a perfect network, per entry,

    E<eps_hat, eps - eps_hat> = 0,    E|eps_hat - eps|^2 = E|eps|^2 - E|eps_hat|^2 = 1 - norm,

and the regression of eps on eps_hat has slope 1. A network of slope c should be multiplied by c
there: below 1 it overshoots, above 1 it is too cautious. ``gap = mse - (1 - norm)`` is the same
in units of the loss: 2 E<eps_hat, eps_hat - eps>. What cannot be seen without the truth is the
error that no network can avoid; where the exact denoiser is known,

    E|eps_hat - eps|^2 = E|eps* - eps|^2 + E|eps_hat - eps*|^2 = irreducible + excess.

A calibrated network may still be poor: eps_hat = 0 is calibrated.
"""

from __future__ import annotations

from typing import NamedTuple

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
)
from sdejax.sde import SDE
from sdejax.types import Cond, Key


class Calibration(NamedTuple):
    """Means over data and noise, per entry of the event, at m times."""

    t: Levels
    log_snr: Levels
    norm: Mean  # |eps_hat|^2; ideally 1 - mse
    mse: Mean  # |eps_hat - eps|^2; ideally 1 - norm
    gap: Mean  # mse - (1 - norm); ideally 0
    slope: Mean  # of eps on eps_hat; ideally 1
    irreducible: Mean | None  # |eps* - eps|^2, where eps* is known
    excess: Mean | None  # |eps_hat - eps*|^2, likewise; ideally 0


def calibration(
    key: Key,
    denoiser: ConditionalDenoiser,
    sde: SDE,
    x0: Float[Array, "n *event"],
    ts: Levels,
    cond: Cond = None,
    *,
    exact: ConditionalDenoiser | None = None,
    chunk: int = 256,
) -> Calibration:
    """Size and error of the predicted noise against those of a posterior mean.

    Args:
        key: key of the noise.
        denoiser: (x, t) -> ``Estimate``, or (x, t, cond) where ``cond`` is given.
        sde: the process.
        x0: data that the network has not seen [n, *event], n >= 2.
        ts: times with sigma > 0 [m].
        cond: conditions, with leaves [n, ...], or None.
        exact: the exact denoiser where it is known, e.g. ``truth.denoiser``; called likewise.
        chunk: examples to hold in memory at once.

    Returns:
        ``Calibration`` of [m].

    Raises:
        ValueError: for fewer than two examples, no times, or a chunk below 1.

    Reference: Vincent 2011, Neural Computation 23; Kadkhodaie and Simoncelli 2020,
    arXiv:2007.13640 (the size of a denoiser's residual).
    """
    size = x0[0].size

    def per_entry(a, b):
        return jnp.sum(a * b) / size

    def noises(x, t, *given):
        best = None if exact is None else exact(x, t, *given).eps
        return denoiser(x, t, *given).eps, best

    def single(key, at, x, eps, t):
        guess, best = at(x, t)
        found = per_entry(guess, guess), per_entry(guess - eps, guess - eps), per_entry(guess, eps)
        if best is None:
            return *found, None, None
        return *found, per_entry(best - eps, best - eps), per_entry(guess - best, guess - best)

    norm, mse, overlap, *rest = over_levels(key, single, noises, sde, x0, ts, cond, chunk)
    irreducible, excess = (None if values is None else mean(values) for values in rest)
    return Calibration(
        ts,
        log_snrs(sde, ts),
        mean(norm),
        mean(mse),
        mean(2.0 * (norm - overlap)),
        ratio(overlap, norm),
        irreducible,
        excess,
    )
