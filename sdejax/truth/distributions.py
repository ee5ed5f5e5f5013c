"""One representation for all the distributions that are known exactly.

A mixture of K Gaussians whose covariances are kept by their eigenvectors,

    C_k = U_k diag(s_k^2) U_k^T + tau_k^2 (I - U_k U_k^T),    U_k [d, r] with orthonormal columns,

so each component has r directions with standard deviations of their own and one, the floor tau_k,
in all others. Everything costs O(K d r) and no d x d array is made. r = d is any covariance, r = 0
an isotropic one, and r = 0 with tau = 0 a point: points of equal weight are the empirical measure
of a data set. The events may have any shape; inner products run over all of their axes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sdejax.types import Data, Scalar


class Mixture(NamedTuple):
    """A mixture of K Gaussians; K = 1 is a Gaussian."""

    log_weights: Float[Array, " k"]
    means: Float[Array, "k *event"]
    bases: Float[Array, "k *event r"]  # orthonormal eigenvectors, along the last axis
    stds: Float[Array, "k r"]  # standard deviations along them
    floors: Float[Array, " k"]  # standard deviation in every other direction


def gaussian(mean: Float[Array, " d"], cov: Float[Array, "d d"]) -> Mixture:
    """N(mean, cov).

    Args:
        mean: [d].
        cov: positive semi-definite covariance [d, d].

    Returns:
        A mixture of one component.
    """
    return mixture(jnp.ones((1,), mean.dtype), mean[None], cov[None])


def mixture(
    weights: Float[Array, " k"], means: Float[Array, "k d"], covs: Float[Array, "k d d"]
) -> Mixture:
    """sum_k weights_k N(means_k, covs_k).

    Args:
        weights: at least 0, normalised here [k].
        means: [k, d].
        covs: positive semi-definite covariances [k, d, d].

    Returns:
        The mixture.

    Raises:
        ValueError: for weights that are negative or all zero, or shapes that do not fit.
    """
    _require("mixture", means, {"weights": (weights, 1), "covs": (covs, 3)})
    if means.ndim != 2 or covs.shape[1:] != (means.shape[1],) * 2:
        raise ValueError(
            f"mixture: got means {means.shape} and covs {covs.shape}; expected [k, d] and [k, d, d]"
        )
    values, bases = jnp.linalg.eigh(covs)
    stds = jnp.sqrt(jnp.maximum(values, 0.0))
    # Nothing but rounding is outside of d eigenvectors: this floor keeps it small.
    return Mixture(_log(weights), means, bases, stds, jnp.max(stds, axis=-1))


def low_rank(
    weights: Float[Array, " k"],
    means: Float[Array, "k *event"],
    factors: Float[Array, "k *event r"],
    floors: Float[Array, " k"],
) -> Mixture:
    """sum_k weights_k N(means_k, F_k F_k^T + floors_k^2 I), with F_k [d, r] and r <= d.

    Args:
        weights: at least 0, normalised here [k].
        means: [k, *event].
        factors: F_k, of any columns [k, *event, r].
        floors: standard deviation of the isotropic part [k].

    Returns:
        The mixture.

    Raises:
        ValueError: for weights that are negative or all zero, or more columns than dimensions.

    Reference: Tipping and Bishop 1999, Probabilistic principal component analysis, eq. 4.
    """
    _require("low_rank", means, {"weights": (weights, 1), "floors": (floors, 1)})
    k, r = factors.shape[0], factors.shape[-1]
    if factors.shape[:-1] != means.shape:
        raise ValueError(
            f"low_rank: got means {means.shape} and factors {factors.shape}; expected [k, *event] "
            "and [k, *event, r]"
        )
    flat = factors.reshape(k, math.prod(factors.shape[1:-1]), r)
    if r > flat.shape[1]:
        raise ValueError(
            f"low_rank: got factors of {r} columns in {flat.shape[1]} dimensions; expected at most "
            "as many columns as dimensions; use mixture for full covariances"
        )
    bases, singular, _ = jnp.linalg.svd(flat, full_matrices=False)
    stds = jnp.sqrt(singular**2 + floors[:, None] ** 2)
    outside = floors if r < flat.shape[1] else jnp.max(stds, axis=-1)
    return Mixture(_log(weights), means, bases.reshape(factors.shape), stds, outside)


def isotropic(
    weights: Float[Array, " k"], means: Float[Array, "k *event"], stds: Float[Array, " k"]
) -> Mixture:
    """sum_k weights_k N(means_k, stds_k^2 I).

    Args:
        weights: at least 0, normalised here [k].
        means: [k, *event].
        stds: standard deviations [k]; zero for points.

    Returns:
        The mixture.

    Raises:
        ValueError: for weights that are negative or all zero.
    """
    _require("isotropic", means, {"weights": (weights, 1), "stds": (stds, 1)})
    bases = jnp.zeros_like(means, shape=(*means.shape, 0))
    return Mixture(_log(weights), means, bases, jnp.zeros_like(stds, shape=(*stds.shape, 0)), stds)


def empirical(points: Float[Array, "n *event"]) -> Mixture:
    """The empirical measure of a data set, each point with weight 1/n.

    Its score is the one that a network learns by heart: the posterior mean is the average of the
    points with weights softmax(-|x_t - alpha x_i|^2 / (2 sigma^2)), the nearest one as sigma -> 0.
    It has a density at every sigma > 0.

    Args:
        points: the data [n, *event].

    Returns:
        A mixture of n points.

    Raises:
        ValueError: for no points.

    Reference: Karras et al. 2022, arXiv:2206.00364, appendix B.3; Gu et al. 2023,
    arXiv:2310.02664, section 2.
    """
    if not points.shape[0]:
        raise ValueError("empirical: got 0 points; expected at least 1")
    ones = jnp.ones_like(points, shape=points.shape[:1])
    return isotropic(ones, points, jnp.zeros_like(ones))


def _require(name: str, means: Array, others: dict[str, tuple[Array, int]]) -> None:
    """Refuses arrays that do not have one entry, of so many axes, for each component."""
    for what, (array, axes) in others.items():
        if array.ndim != axes or array.shape[:1] != means.shape[:1]:
            raise ValueError(
                f"{name}: got {what} of shape {array.shape} for means of shape {means.shape}; "
                "expected one for each of the k components"
            )


def reshaped(dist: Mixture, shape: tuple[int, ...]) -> Mixture:
    """The same distribution over events of another shape, e.g. images [h, w, c] out of vectors.

    Args:
        dist: a distribution.
        shape: event shape with as many entries, read in row-major order.

    Returns:
        The distribution over ``shape``.

    Raises:
        ValueError: for a shape with another number of entries.
    """
    old = dist.means.shape[1:]
    if math.prod(old) != math.prod(shape):
        raise ValueError(
            f"reshaped: got shape {shape} of {math.prod(shape)} entries for events {old}; "
            f"expected {math.prod(old)}"
        )
    k, r = dist.stds.shape
    return dist._replace(
        means=dist.means.reshape(k, *shape), bases=dist.bases.reshape(k, *shape, r)
    )


def mean(dist: Mixture) -> Data:
    """E[x_0].

    Args:
        dist: the distribution of x_0.

    Returns:
        The mean [*event].
    """
    return jnp.tensordot(jnp.exp(dist.log_weights), dist.means, 1)


def covariance(dist: Mixture) -> Float[Array, "d d"]:
    """Cov[x_0] = sum_k w_k (C_k + (m_k - m)(m_k - m)^T), over events in row-major order.

    Args:
        dist: the distribution of x_0.

    Returns:
        The covariance [d, d].
    """
    k, r = dist.stds.shape
    weights = jnp.exp(dist.log_weights)
    away = (dist.means - mean(dist)[None]).reshape(k, -1)
    bases = dist.bases.reshape(k, away.shape[1], r)
    excess = weights[:, None] * (dist.stds**2 - dist.floors[:, None] ** 2)
    floor = (weights @ dist.floors**2) * jnp.eye(away.shape[1], dtype=away.dtype)
    within = jnp.einsum("kir,kr,kjr->ij", bases, excess, bases) + floor
    return within + jnp.einsum("k,ki,kj->ij", weights, away, away)


def sigma_data(dist: Mixture) -> Scalar:
    """The standard deviation of x_0 over all of its entries, sqrt(trace Cov[x_0] / d).

    Args:
        dist: the distribution of x_0.

    Returns:
        The standard deviation [], EDM's sigma_data where the mean is 0.

    Reference: Karras et al. 2022, arXiv:2206.00364, table 1.
    """
    k, r = dist.stds.shape
    away = (dist.means - mean(dist)[None]).reshape(k, -1)
    d = away.shape[1]
    within = jnp.sum(dist.stds**2, axis=-1) + (d - r) * dist.floors**2
    return jnp.sqrt(jnp.exp(dist.log_weights) @ (within + jnp.sum(away**2, axis=-1)) / d)


def _log(weights: Float[Array, " k"]) -> Float[Array, " k"]:
    """Logarithms of the normalised weights; concrete ones are checked."""
    total = jnp.sum(weights)
    if not isinstance(weights, jax.core.Tracer) and not (jnp.all(weights >= 0) and total > 0):
        raise ValueError(f"weights: got {weights}; expected numbers >= 0 that are not all 0")
    return jnp.log(weights) - jnp.log(total)
