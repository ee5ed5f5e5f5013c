"""Distributions whose noised densities are known exactly: Gaussians and Gaussian mixtures.

If x_0 ~ sum_k w_k N(m_k, C_k), then under any process x_t ~ sum_k w_k N(alpha m_k, alpha^2 C_k +
sigma^2 I), and given x_t and its component

    E[x_0 | x_t, k] = m_k + alpha C_k (alpha^2 C_k + sigma^2 I)^-1 (x_t - alpha m_k),
    E[eps | x_t, k] = sigma (alpha^2 C_k + sigma^2 I)^-1 (x_t - alpha m_k).

Score, velocity and denoiser follow, so any sampler, loss or likelihood can be held against them.
Covariances are kept as eigenvectors and standard deviations: every formula is diagonal there.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sdejax.prediction import Denoiser, Estimate, to_score, to_velocity
from sdejax.sde import SDE, coefficients
from sdejax.types import Key, Scalar, Time

Vector = Float[Array, " d"]


class Mixture(NamedTuple):
    """A mixture of K Gaussians in d dimensions; K = 1 is a Gaussian."""

    log_weights: Float[Array, " k"]
    means: Float[Array, "k d"]
    bases: Float[Array, "k d d"]  # orthonormal eigenvectors, as columns
    stds: Float[Array, "k d"]  # square roots of the eigenvalues


def gaussian(mean: Vector, cov: Float[Array, "d d"]) -> Mixture:
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
        weights: positive, normalised here [k].
        means: [k, d].
        covs: positive semi-definite covariances [k, d, d].

    Returns:
        The mixture.
    """
    values, bases = jnp.linalg.eigh(covs)
    log_weights = jnp.log(weights) - jnp.log(jnp.sum(weights))
    return Mixture(log_weights, means, bases, jnp.sqrt(jnp.maximum(values, 0.0)))


def _components(dist: Mixture, sde: SDE, x: Vector, t: Time):
    """Coefficients; per component the standardised residual, the stds and log w_k p_k(x_t)."""
    c = coefficients(sde, t)
    stds = jnp.sqrt((c.alpha * dist.stds) ** 2 + c.sigma**2)
    residual = jnp.einsum("kij,ki->kj", dist.bases, x[None] - c.alpha * dist.means) / stds
    norm = jnp.sum(jax.scipy.stats.norm.logpdf(residual) - jnp.log(stds), axis=-1)
    return c, residual, stds, dist.log_weights + norm


def log_prob(dist: Mixture, sde: SDE, x: Vector, t: Time) -> Scalar:
    """log p_t(x) in nats.

    Args:
        dist: the distribution of x_0.
        sde: the process.
        x: [d].
        t: time [].

    Returns:
        The log-density, [].
    """
    return jax.nn.logsumexp(_components(dist, sde, x, t)[-1])


def estimate(dist: Mixture, sde: SDE, x: Vector, t: Time) -> Estimate:
    """The posterior means E[x_0 | x_t] and E[eps | x_t].

    Args:
        dist: the distribution of x_0.
        sde: the process.
        x: x_t [d].
        t: time [].

    Returns:
        ``Estimate`` of [d].

    Reference: Efron 2011, Tweedie's formula and selection bias.
    """
    c, residual, stds, logits = _components(dist, sde, x, t)
    share = jax.nn.softmax(logits)
    x0 = dist.means + jnp.einsum("kij,kj->ki", dist.bases, c.alpha * dist.stds**2 / stds * residual)
    eps = jnp.einsum("kij,kj->ki", dist.bases, c.sigma / stds * residual)
    return Estimate(share @ x0, share @ eps)


def denoiser(dist: Mixture, sde: SDE) -> Denoiser:
    """The exact denoiser, in place of a network's.

    Args:
        dist: the distribution of x_0.
        sde: the process.

    Returns:
        (x_t, t) -> ``Estimate``.
    """
    return lambda x, t: estimate(dist, sde, x, t)


def score(dist: Mixture, sde: SDE, x: Vector, t: Time) -> Vector:
    """grad_x log p_t(x).

    Args:
        dist: the distribution of x_0.
        sde: the process.
        x: [d].
        t: time [].

    Returns:
        The score [d].
    """
    return to_score(estimate(dist, sde, x, t), coefficients(sde, t))


def velocity(dist: Mixture, sde: SDE, x: Vector, t: Time) -> Vector:
    """The velocity of the probability-flow ODE.

    Args:
        dist: the distribution of x_0.
        sde: the process.
        x: [d].
        t: time [].

    Returns:
        dx/dt [d].
    """
    return to_velocity(estimate(dist, sde, x, t), coefficients(sde, t))


def sample(key: Key, dist: Mixture) -> Vector:
    """One draw of x_0.

    Args:
        key: one example's key.
        dist: the distribution of x_0.

    Returns:
        x_0 [d].
    """
    component_key, normal_key = jax.random.split(key)
    k = jax.random.categorical(component_key, dist.log_weights)
    z = jax.random.normal(normal_key, dist.means.shape[1:], dist.means.dtype)
    return dist.means[k] + dist.bases[k] @ (dist.stds[k] * z)


def gaussian_flow(dist: Mixture, sde: SDE, z: Vector, t: Time) -> Vector:
    """The probability-flow map of a Gaussian, exact for every example.

    x_t = alpha m + (alpha^2 C + sigma^2 I)^(1/2) z follows the ODE for one and the same z at
    every t, since each axis of C evolves on its own.

    Args:
        dist: a mixture of one component.
        sde: the process.
        z: standardised coordinates [d].
        t: time [].

    Returns:
        x_t [d].

    Raises:
        ValueError: for a mixture of several components, whose flow has no closed form.
    """
    if dist.means.shape[0] != 1:
        raise ValueError(f"gaussian_flow: got {dist.means.shape[0]} components; expected 1")
    c = coefficients(sde, t)
    basis, stds = dist.bases[0], jnp.sqrt((c.alpha * dist.stds[0]) ** 2 + c.sigma**2)
    return c.alpha * dist.means[0] + basis @ (stds * (basis.T @ z))
