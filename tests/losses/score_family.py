"""Densities in the plane written in NumPy, and a family of scores that no symmetry helps.

The densities are mixtures of normals, noised by x = x0 + sigma eps; integrals over them are sums on
a grid, which converge faster than any power of its spacing. The family is
``s(x) = A x + b + c tanh(B x)`` with A and B not symmetric.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

SIGMA = 0.5
TARGETS = {  # weights, means, covariances of x0
    "gaussian": ([1.0], [[1.0, -0.5]], [[[0.5, 0.2], [0.2, 1.2]]]),
    "mixture": (
        [0.3, 0.7],
        [[1.5, -0.5], [-0.5, 0.8]],
        [[[0.3, 0.2], [0.2, 0.5]], [[0.6, 0.0], [0.0, 0.2]]],
    ),
}


class Grid(NamedTuple):
    """Points, their probabilities under the noised density and its score there."""

    x: np.ndarray
    p: np.ndarray
    score: np.ndarray


def noised(name, sigma=SIGMA):
    weights, means, covs = (np.asarray(part) for part in TARGETS[name])
    return weights, means, covs + sigma**2 * np.eye(2)


def grid(name, sigma=SIGMA, span=11.0, n=401):
    """A grid over the plane with the density and score of x0 + sigma eps, by their formulas."""
    axis = np.linspace(-span, span, n)
    x = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    total, slope = 0.0, 0.0
    for w, m, c in zip(*noised(name, sigma), strict=True):
        pull = np.linalg.solve(c, (x - m).T).T
        density = w * np.exp(-0.5 * np.sum((x - m) * pull, -1))
        density /= 2 * np.pi * np.sqrt(np.linalg.det(c))
        total, slope = total + density, slope - density[:, None] * pull
    # Far out both underflow; those points weigh nothing.
    return Grid(x, total * (axis[1] - axis[0]) ** 2, slope / np.maximum(total, 1e-290)[:, None])


def draw(name, n, seed=0):
    """n draws of x0 and eps, in NumPy."""
    rng = np.random.default_rng(seed)
    weights, means, covs = (np.asarray(part) for part in TARGETS[name])
    k = rng.choice(len(weights), size=n, p=weights)
    roots = np.linalg.cholesky(covs)
    x0 = means[k] + np.einsum("nij,nj->ni", roots[k], rng.standard_normal((n, 2)))
    return x0, rng.standard_normal((n, 2))


def params(seed, dtype=np.float64):
    """Parameters of the family, near a plausible score."""
    rng = np.random.default_rng(seed)
    near = {"A": -0.8 * np.eye(2), "b": np.zeros(2), "B": np.eye(2), "c": np.zeros(2)}
    return {k: jnp.asarray((v + 0.4 * rng.normal(size=v.shape)).astype(dtype))
            for k, v in near.items()}  # fmt: skip


def score(theta, x):
    return theta["A"] @ x + theta["b"] + theta["c"] * jnp.tanh(theta["B"] @ x)


def explicit(theta, g):
    """ESM by quadrature: the mean of |s - grad log p|^2 / 2."""
    error = jax.vmap(lambda x: score(theta, x))(jnp.asarray(g.x)) - jnp.asarray(g.score)
    return 0.5 * jnp.sum(jnp.asarray(g.p) * jnp.sum(error**2, axis=-1))
