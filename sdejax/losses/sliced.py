"""Sliced score matching: the implicit objective along random directions v of unit covariance.

    SSM      v . J v + (v . s)^2 / 2
    SSM-VR   v . J v + |s|^2 / 2              J = ds/dx, the mean of (v . s)^2 taken in closed form
    FD-SSM   the same two from values at x + h v and x - h v, biased by O(h^2)

Their means over v are the implicit loss. The spread due to v is that of a quadratic form v . A v,
2 |A|^2 for normal v and 2 (|A|^2 - sum_i A_ii^2) for entries of +-1, with A the symmetric part of J
(VR) or of J + s s^T / 2. So signs beat normal entries, and VR beats SSM wherever s s^T / 2 does not
cancel J: it may, in few dimensions (d = 1, N(0, 1), normal v: 2 against 1.5), and does not in many.

Everything is forward mode: one call, K tangents.

Reference: Song et al. 2019, arXiv:1905.07088, eq. 8 and 9; Pang et al. 2020, arXiv:2007.03317.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sdejax.divergence import hutchinson
from sdejax.losses.score_matching import LogProbFn, ScoreFn, implicit_loss
from sdejax.types import Data, Key, Scalar


def sliced_loss(
    key: Key, score_fn: ScoreFn, x: Data, probes: int = 1, kind: str = "gaussian"
) -> Scalar:
    """SSM, the mean over K directions of ``v . J v + (v . s)^2 / 2``.

    Args:
        key: of the directions.
        score_fn: the score s.
        x: a draw from p [*event].
        probes: K.
        kind: "gaussian" or "rademacher".

    Returns:
        The loss [], of either sign.

    Raises:
        ValueError: for less than one direction or an unknown kind.

    Reference: Song et al. 2019, arXiv:1905.07088, eq. 8.
    """
    score, jvp = jax.linearize(score_fn, x)

    def along(v):
        return jnp.sum(v * jvp(v)) + 0.5 * jnp.sum(v * score) ** 2

    return jnp.mean(jax.vmap(along)(hutchinson(probes, kind).draw(key, x)))


def sliced_vr_loss(
    key: Key, score_fn: ScoreFn, x: Data, probes: int = 1, kind: str = "rademacher"
) -> Scalar:
    """SSM with reduced variance, the mean over K directions of ``v . J v + |s|^2 / 2``.

    This is the implicit loss with Hutchinson's trace.

    Args:
        key: of the directions.
        score_fn: the score s.
        x: a draw from p [*event].
        probes: K.
        kind: "rademacher" or "gaussian".

    Returns:
        The loss [], of either sign.

    Raises:
        ValueError: for less than one direction or an unknown kind.

    Reference: Song et al. 2019, arXiv:1905.07088, eq. 9.
    """
    return implicit_loss(key, score_fn, x, hutchinson(probes, kind))


def finite_difference_loss(
    key: Key,
    score_fn: ScoreFn,
    x: Data,
    step: Scalar | float = 1e-2,
    probes: int = 1,
    kind: str = "rademacher",
) -> Scalar:
    """FD-SSM-VR of a score, ``|s+ + s-|^2 / 8 + v . (s+ - s-) / (2 h)``; 2 K calls, no tangents.

    Args:
        key: of the directions.
        score_fn: the score s; s+ and s- are its values at x + h v and x - h v.
        x: a draw from p [*event].
        step: h, small beside the scale on which s varies; rounding grows as 1/h.
        probes: K.
        kind: "rademacher" or "gaussian".

    Returns:
        The loss [], of either sign; biased by O(h^2).

    Raises:
        ValueError: for less than one direction or an unknown kind.

    Reference: Pang et al. 2020, arXiv:2007.03317, section 4.
    """
    h = jnp.asarray(step, x.dtype)

    def along(v):
        ahead, behind = score_fn(x + h * v), score_fn(x - h * v)
        slope = jnp.sum(v * (ahead - behind)) / (2.0 * h)
        return jnp.sum((ahead + behind) ** 2) / 8.0 + slope

    return jnp.mean(jax.vmap(along)(hutchinson(probes, kind).draw(key, x)))


def finite_difference_energy_loss(
    key: Key,
    log_prob_fn: LogProbFn,
    x: Data,
    step: Scalar | float = 1e-1,
    probes: int = 1,
    kind: str = "rademacher",
) -> Scalar:
    """FD-SSM of an energy, ``(l+ - 2 l + l-) / h^2 + (l+ - l-)^2 / (8 h^2)``; 2 K + 1 calls.

    No derivative in x is taken, so training costs one backward pass and not two.

    Args:
        key: of the directions.
        log_prob_fn: l, the log-density up to a constant, i.e. minus the energy; l+ and l- are its
            values at x + h v and x - h v.
        x: a draw from p [*event].
        step: h; rounding grows as |l|/h^2, so float32 wants about a tenth of the scale of x.
        probes: K.
        kind: "rademacher" or "gaussian".

    Returns:
        The loss [], of either sign; biased by O(h^2).

    Raises:
        ValueError: for less than one direction or an unknown kind.

    Reference: Pang et al. 2020, arXiv:2007.03317, section 4.
    """
    h, here = jnp.asarray(step, x.dtype), log_prob_fn(x)

    def along(v):
        ahead, behind = log_prob_fn(x + h * v) - here, log_prob_fn(x - h * v) - here
        return (ahead + behind) / h**2 + (ahead - behind) ** 2 / (8.0 * h**2)

    return jnp.mean(jax.vmap(along)(hutchinson(probes, kind).draw(key, x)))
