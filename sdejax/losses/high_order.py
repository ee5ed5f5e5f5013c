"""Second-order denoising score matching: the Jacobian of the score learns from noise as well.

Given x_t = alpha x0 + sigma eps, l = sigma grad log p_t(x_t) + eps has mean 0 and

    E[l l^T | x_t] = I + sigma^2 Hess log p_t(x_t),

so the Jacobian J of a score is drawn to the Hessian by squaring parts of the matrix

    M = sigma^2 J + I - l l^T:   E (tr M)^2  or  E (v . M v)^2 along random directions v.

The first has its minimum where tr J is the trace of the Hessian, the second where the symmetric
part of J is the Hessian. l is taken with the first-order score as it stands, without a gradient; an
error e of that score moves the minimum by |e|^2 only.

Reference: Lu et al. 2022, arXiv:2206.08265, section 4; Meng et al. 2021, arXiv:2111.04726.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sdejax.divergence import Divergence, LinearMap, exact
from sdejax.losses.score_matching import ScoreFn
from sdejax.types import Data, Key, Scalar


def second_order_loss(
    key: Key,
    score_fn: ScoreFn,
    x: Data,
    eps: Data,
    sigma: Scalar | float,
    divergence: Divergence | None = None,
    first_fn: ScoreFn | None = None,
) -> Scalar:
    """Second-order denoising score matching, the mean square of the estimates of tr M.

    Args:
        key: of the probes.
        score_fn: the score whose Jacobian learns.
        x: x_t = alpha x0 + sigma eps [*event].
        eps: the noise in it [*event].
        sigma: its level, above 0.
        divergence: by default ``exact``: (tr M)^2, for d tangents. ``hutchinson(K)`` gives
            the mean of (v . M v)^2 over K directions, for K tangents.
        first_fn: the score that l is made with, by default ``score_fn``.

    Returns:
        The loss [], at least 0; of the exact score about 2 d at a low level of noise.

    Reference: Lu et al. 2022, arXiv:2206.08265, section 4.
    """
    score, jvp = jax.linearize(score_fn, x)
    first = score if first_fn is None else first_fn(x)
    return _mean_square(key, jvp, first, x, eps, sigma, divergence or exact())


def high_order_loss(
    key: Key,
    score_fn: ScoreFn,
    x: Data,
    eps: Data,
    sigma: Scalar | float,
    factor: float = 1.0,
    divergence: Divergence | None = None,
) -> Scalar:
    """Both orders together, ``(|sigma s + eps|^2 + factor mean (tr M)^2) / d``; one call.

    The first term is 2 sigma^2/d times ``denoising_score_loss``; both are of order 1 at any level.

    Args:
        key: of the probes.
        score_fn: the score s.
        x: x_t = alpha x0 + sigma eps [*event].
        eps: the noise in it [*event].
        sigma: its level, above 0.
        factor: what the second order counts.
        divergence: as in ``second_order_loss``.

    Returns:
        The loss [], at least 0.

    Reference: Lu et al. 2022, arXiv:2206.08265, section 5.
    """
    score, jvp = jax.linearize(score_fn, x)
    first = jnp.sum((jnp.asarray(sigma, x.dtype) * score + eps) ** 2)
    second = _mean_square(key, jvp, score, x, eps, sigma, divergence or exact())
    return (first + factor * second) / x.size


def _mean_square(
    key: Key,
    jvp: LinearMap,
    first: Data,
    x: Data,
    eps: Data,
    sigma: Scalar | float,
    divergence: Divergence,
) -> Scalar:
    """The mean square of the numbers that a divergence makes of M."""
    sigma = jnp.asarray(sigma, x.dtype)
    error = jax.lax.stop_gradient(sigma * first + eps)

    def matrix(v):
        return sigma**2 * jvp(v) + v - error * jnp.sum(error * v)

    return jnp.mean(divergence.traces(matrix, divergence.draw(key, x), x) ** 2)
