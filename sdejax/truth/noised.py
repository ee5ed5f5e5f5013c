"""A mixture under a process: density, posterior means, score, velocity, samples, flow.

If x_0 ~ sum_k w_k N(m_k, C_k), then x_t ~ sum_k w_k N(alpha m_k, V_k) with V_k = alpha^2 C_k +
sigma^2 I, and given x_t and its component

    E[x_0 | x_t, k] = m_k + alpha C_k V_k^-1 (x_t - alpha m_k),
    E[eps | x_t, k] = sigma V_k^-1 (x_t - alpha m_k).

V_k has the eigenvectors of C_k, so all of it is diagonal in the coordinates U_k^T (x_t - alpha m_k)
and in what is left outside of them. Score, velocity and denoiser follow for any process.

Answers have the dtype of x. With ``chunk`` components are visited so many at a time: the share of
a chunk is itself a sum over components, so chunks are pooled as components are.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sdejax.prediction import Denoiser, Estimate, to_score, to_velocity
from sdejax.sde import SDE, Coefficients, coefficients, perturb
from sdejax.truth.distributions import Mixture
from sdejax.types import Data, Key, Scalar, Time


def log_prob(dist: Mixture, sde: SDE, x: Data, t: Time, *, chunk: int | None = None) -> Scalar:
    """log p_t(x) in nats.

    Args:
        dist: the distribution of x_0.
        sde: the process.
        x: [*event].
        t: time [].
        chunk: number of components to hold in memory at once, by default all.

    Returns:
        The log-density, []; of no meaning where p_t has none, as for points at sigma = 0.

    Raises:
        ValueError: for a chunk below 1.
    """
    log_p = _posterior(dist, sde, x, t, chunk)[0]
    return log_p - 0.5 * math.log(2.0 * math.pi) * x.size


def estimate(dist: Mixture, sde: SDE, x: Data, t: Time, *, chunk: int | None = None) -> Estimate:
    """The posterior means E[x_0 | x_t] and E[eps | x_t].

    Finite at both ends. Of points at sigma = 0, x0 is the nearest to x_t/alpha and eps is 0: there
    alpha x0 + sigma eps = x_t holds on the points only.

    Args:
        dist: the distribution of x_0.
        sde: the process.
        x: x_t [*event].
        t: time [].
        chunk: number of components to hold in memory at once, by default all.

    Returns:
        ``Estimate`` of [*event].

    Raises:
        ValueError: for a chunk below 1.

    Reference: Efron 2011, Tweedie's formula and selection bias.
    """
    _, x0, eps = _posterior(dist, sde, x, t, chunk)
    return Estimate(x0.reshape(x.shape), eps.reshape(x.shape))


def denoiser(dist: Mixture, sde: SDE, *, chunk: int | None = None) -> Denoiser:
    """The exact denoiser, in place of a network's.

    Args:
        dist: the distribution of x_0.
        sde: the process.
        chunk: number of components to hold in memory at once, by default all.

    Returns:
        (x_t, t) -> ``Estimate``.
    """
    return lambda x, t: estimate(dist, sde, x, t, chunk=chunk)


def score(dist: Mixture, sde: SDE, x: Data, t: Time, *, chunk: int | None = None) -> Data:
    """grad_x log p_t(x).

    Args:
        dist: the distribution of x_0.
        sde: the process.
        x: [*event].
        t: time [], with sigma > 0.
        chunk: number of components to hold in memory at once, by default all.

    Returns:
        The score [*event].
    """
    return to_score(estimate(dist, sde, x, t, chunk=chunk), coefficients(sde, t))


def velocity(dist: Mixture, sde: SDE, x: Data, t: Time, *, chunk: int | None = None) -> Data:
    """The velocity of the probability-flow ODE.

    Args:
        dist: the distribution of x_0.
        sde: the process.
        x: [*event].
        t: time [].
        chunk: number of components to hold in memory at once, by default all.

    Returns:
        dx/dt [*event].
    """
    return to_velocity(estimate(dist, sde, x, t, chunk=chunk), coefficients(sde, t))


def sample(key: Key, dist: Mixture) -> Data:
    """One draw of x_0.

    Args:
        key: one example's key.
        dist: the distribution of x_0.

    Returns:
        x_0 [*event].
    """
    component_key, normal_key = jax.random.split(key)
    k = jax.random.categorical(component_key, dist.log_weights)
    component = jax.tree.map(lambda leaf: leaf[k], dist)
    z = jax.random.normal(normal_key, component.means.shape, component.means.dtype)
    return component.means + _scale(component, component.stds, component.floors, z)


def sample_at(key: Key, dist: Mixture, sde: SDE, t: Time) -> Data:
    """One draw of x_t = alpha x_0 + sigma eps, from p_t itself and not from the prior.

    Args:
        key: one example's key.
        dist: the distribution of x_0.
        sde: the process.
        t: time [].

    Returns:
        x_t [*event].
    """
    data_key, noise_key = jax.random.split(key)
    x0 = sample(data_key, dist)
    return perturb(sde, x0, jax.random.normal(noise_key, x0.shape, x0.dtype), t)


def gaussian_flow(dist: Mixture, sde: SDE, z: Data, t: Time) -> Data:
    """The probability-flow map of a Gaussian, exact for every example.

    x_t = alpha m + (alpha^2 C + sigma^2 I)^(1/2) z follows the ODE for one and the same z at
    every t, since each axis of C evolves on its own.

    Args:
        dist: a mixture of one component.
        sde: the process.
        z: standardised coordinates [*event].
        t: time [].

    Returns:
        x_t [*event].

    Raises:
        ValueError: for a mixture of several components, whose flow has no closed form.
    """
    if dist.means.shape[0] != 1:
        raise ValueError(f"gaussian_flow: got {dist.means.shape[0]} components; expected 1")
    c = _cast(coefficients(sde, t), z.dtype)
    component = jax.tree.map(lambda leaf: leaf[0], _cast(dist, z.dtype))
    stds, floor = (_noised(std, c) for std in (component.stds, component.floors))
    return c.alpha * component.means + _scale(component, stds, floor, z)


def _posterior(dist: Mixture, sde: SDE, x: Data, t: Time, chunk: int | None):
    """log p_t(x) but for its constant, [], and the posterior means of x0 and eps, [d] each."""
    c, dist, x = _cast(coefficients(sde, t), x.dtype), _cast(dist, x.dtype), x.ravel()
    k, r = dist.stds.shape
    dist = dist._replace(
        means=dist.means.reshape(k, x.size), bases=dist.bases.reshape(k, x.size, r)
    )
    if chunk is None:
        return _pool(_components(dist, c, x))
    if chunk < 1:
        raise ValueError(f"chunk: got {chunk}; expected at least 1")
    groups = -(-k // chunk)
    # The last chunk is filled up with components of no weight.
    index = jnp.minimum(jnp.arange(groups * chunk), k - 1).reshape(groups, chunk)
    weightless = jnp.arange(groups * chunk).reshape(groups, chunk) >= k

    def visit(group):
        index, weightless = group
        part: Mixture = jax.tree.map(lambda leaf: leaf[index], dist)
        log_weights = jnp.where(weightless, -jnp.inf, part.log_weights)
        return _pool(_components(part._replace(log_weights=log_weights), c, x))

    return _pool(jax.lax.map(visit, (index, weightless)))


def _components(dist: Mixture, c: Coefficients, x: Float[Array, " d"]):
    """log w_k p_k(x_t) but for a constant, [k], and the means of x0 and eps given k, [k, d]."""
    stds, floors = _noised(dist.stds, c), _noised(dist.floors, c)[:, None]
    away = x[None] - c.alpha * dist.means
    inside = jnp.einsum("kdr,kd->kr", dist.bases, away)
    outside = (away - jnp.einsum("kdr,kr->kd", dist.bases, inside)) / floors
    inside = inside / stds

    def assemble(along, across):
        return jnp.einsum("kdr,kr->kd", dist.bases, along * inside) + across * outside

    x0 = dist.means + assemble(
        c.alpha * dist.stds**2 / stds, c.alpha * dist.floors[:, None] ** 2 / floors
    )
    eps = assemble(c.sigma / stds, c.sigma / floors)
    square = jnp.sum(inside**2, axis=-1) + jnp.sum(outside**2, axis=-1)
    others = x.size - stds.shape[-1]
    log_det = jnp.sum(jnp.log(stds), axis=-1) + others * jnp.log(floors[:, 0])
    return dist.log_weights - log_det - 0.5 * square, x0, eps


def _pool(parts):
    """The mixture of parts (logits [k], x0 [k, d], eps [k, d]) as one part."""
    logits, x0, eps = parts
    share = jax.nn.softmax(logits)
    return jax.nn.logsumexp(logits), share @ x0, share @ eps


def _noised(std: Array, c: Coefficients) -> Array:
    """sqrt(alpha^2 std^2 + sigma^2), kept so far above 0 that its square can be divided by."""
    least = float(jnp.finfo(std.dtype).tiny) ** 0.75
    return jnp.sqrt(jnp.maximum((c.alpha * std) ** 2 + c.sigma**2, least))


def _scale(component: Mixture, stds: Float[Array, " r"], floor: Scalar, z: Data) -> Data:
    """The symmetric root of a component's covariance, with other eigenvalues, times z."""
    basis = component.bases.reshape(z.size, stds.shape[-1])
    inside = basis.T @ z.ravel()
    root = basis @ ((stds - floor) * inside) + floor * z.ravel()
    return root.reshape(z.shape)


def _cast(tree, dtype):
    """Every leaf in ``dtype``, so that an answer has the dtype of its question."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)
