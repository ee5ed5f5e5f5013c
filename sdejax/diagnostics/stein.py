"""Does the score fit the data it is taken at? Stein's identity.

For the score s of p_t, integration by parts gives E[|s|^2 + div s] = 0 under p_t (Stein 1981;
Hyvarinen 2005), or in units of the noise, per entry of the event,

    gap = E|eps_hat|^2 - sigma E div eps_hat = 0.

For any smooth field it is E<s, s - score>, weighted by sigma^2: it says whether the size of the
score fits, as the slope of the calibration does, but without the noise that made x_t. The same by
parts over eps instead of x holds for *any* smooth network,

    agreement = E<eps_hat, eps> - sigma E div eps_hat = 0,

which is the equality of denoising and implicit score matching (Vincent 2011): DSM - 1 = ISM with
DSM = E|eps_hat - eps|^2 and ISM = sigma^2 E[|s|^2 + 2 div s]. Where ``agreement`` is off, the
numbers themselves are: the network is not smooth at the scale sigma, or depends on more than x_t.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sdejax import divergence
from sdejax.diagnostics.levels import ConditionalDenoiser, Levels, Mean, log_snrs, mean, over_levels
from sdejax.sde import SDE
from sdejax.types import Cond, Key


class Stein(NamedTuple):
    """Means over data and noise, per entry of the event, at m times."""

    t: Levels
    log_snr: Levels
    gap: Mean  # |eps_hat|^2 - sigma div eps_hat; ideally 0
    agreement: Mean  # <eps_hat, eps> - sigma div eps_hat; 0 for any smooth network
    dsm: Mean  # |eps_hat - eps|^2 - 1, denoising score matching but for its constant
    ism: Mean  # |eps_hat|^2 - 2 sigma div eps_hat, implicit score matching


def stein(
    key: Key,
    denoiser: ConditionalDenoiser,
    sde: SDE,
    x0: Float[Array, "n *event"],
    ts: Levels,
    cond: Cond = None,
    *,
    probes: int | None = None,
    chunk: int = 256,
) -> Stein:
    """The balance of the score's size and its divergence.

    Args:
        key: key of noise and probes.
        denoiser: (x, t) -> ``Estimate``, or (x, t, cond) where ``cond`` is given.
        sde: the process.
        x0: data [n, *event], n >= 2.
        ts: times with sigma > 0 [m].
        cond: conditions, with leaves [n, ...], or None.
        probes: of Hutchinson's trace; by default the exact one, d tangents an example.
        chunk: examples to hold in memory at once.

    Returns:
        ``Stein`` of [m]; the standard errors include the probes.

    Raises:
        ValueError: for no probes, fewer than two examples, no times, or a chunk below 1.

    Reference: Stein 1981, Annals of Statistics 9, lemma 1; Hyvarinen 2005, JMLR 6, theorem 1;
    Vincent 2011, Neural Computation 23.
    """
    method = divergence.exact() if probes is None else divergence.hutchinson(probes)

    def single(key, at, x, eps, t):
        guess, trace = divergence.value_and_trace(key, lambda y: at(y, t).eps, x, method)
        trace = jnp.asarray(sde.sigma(t), x.dtype) * trace
        square, overlap = jnp.sum(guess**2), jnp.sum(guess * eps)
        error = square - 2.0 * overlap  # of eps, but for |eps|^2
        parts = square - trace, overlap - trace, error, square - 2.0 * trace
        return jax.tree.map(lambda part: part / x.size, parts)

    found = over_levels(key, single, denoiser, sde, x0, ts, cond, chunk)
    return Stein(ts, log_snrs(sde, ts), *map(mean, found))
