"""Scores with a defect of known size, on data that are known exactly.

A Gaussian N(m, C) has eps* = sigma V^-1 (x - alpha m), V = alpha^2 C + sigma^2 I. A linear guess
eps_hat = K (x - b) has all of its means in closed form,

    E|eps_hat|^2 = tr K V K^T + |K (alpha m - b)|^2,    E<eps_hat, eps> = sigma tr K = sigma div.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from oracles import plane

from sdejax import truth
from sdejax.prediction import Estimate
from sdejax.sde import coefficients

MEAN, COV = np.asarray([0.8, -0.5]), np.asarray([[0.5, 0.2], [0.2, 0.3]])
CURL = np.asarray([[0.0, -1.0], [1.0, 0.0]])


def gaussian():
    return truth.gaussian(jnp.asarray(MEAN), jnp.asarray(COV))


@partial(jax.jit, static_argnums=1)
def draws(dist, n):
    return jax.vmap(lambda key: truth.sample(key, dist))(jax.random.split(jax.random.key(0), n))


def changed(denoiser, sde, change):
    """The denoiser with eps replaced by ``change(eps, x, t)``, and x0 to fit."""

    def answer(x, t):
        c = coefficients(sde, t)
        alpha, sigma = c.alpha.astype(x.dtype), c.sigma.astype(x.dtype)
        eps = change(denoiser(x, t).eps, x, t)
        return Estimate((x - sigma * eps) / alpha, eps)

    return answer


def exact(dist, sde):
    return truth.denoiser(dist, sde)


def scaled(dist, sde, factor=1.2):
    return changed(exact(dist, sde), sde, lambda eps, x, t: factor * eps)


def curled(dist, sde, size=0.3):
    """A curl added to the score: eps less sigma size R x."""

    def change(eps, x, t):
        return eps - jnp.asarray(sde.sigma(t), x.dtype) * size * (jnp.asarray(CURL, x.dtype) @ x)

    return changed(exact(dist, sde), sde, change)


def late(dist, sde, shift=0.05):
    """The noise of another time, from the state of this one."""
    there = exact(dist, sde)
    return changed(there, sde, lambda eps, x, t: there(x, t + shift).eps)


class Linear(NamedTuple):
    """eps_hat = matrix (x - centre)."""

    matrix: np.ndarray
    centre: np.ndarray


def _best(alpha, sigma, factor=1.0):
    matrix = factor * sigma * np.linalg.inv(alpha**2 * COV + sigma**2 * np.eye(2))
    return Linear(matrix, alpha * MEAN)


def linear(name, sde, t):
    """The same defects of the Gaussian as matrices."""
    alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
    best = _best(alpha, sigma)
    if name == "scaled":
        return _best(alpha, sigma, 1.2)
    if name == "late":
        return _best(float(sde.alpha(t + 0.05)), float(sde.sigma(t + 0.05)))
    if name == "curled":  # K x - K0 m' as K (x - centre)
        matrix = best.matrix - 0.3 * sigma * CURL
        return Linear(matrix, np.linalg.solve(matrix, best.matrix @ best.centre))
    return best


class Means(NamedTuple):
    norm: float
    overlap: float
    excess: float


def means(name, sde, t):
    """E|eps_hat|^2, E<eps_hat, eps> and E|eps_hat - eps*|^2 per entry, of a defect."""
    alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
    cov = alpha**2 * COV + sigma**2 * np.eye(2)
    guess, best = linear(name, sde, t), linear("exact", sde, t)
    at_mean = guess.matrix @ (alpha * MEAN - guess.centre)
    norm = np.trace(guess.matrix @ cov @ guess.matrix.T) + at_mean @ at_mean
    away = guess.matrix - best.matrix
    excess = np.trace(away @ cov @ away.T) + at_mean @ at_mean
    return Means(norm / 2, sigma * np.trace(guess.matrix) / 2, excess / 2)


DEFECTS = {"exact": exact, "scaled": scaled, "curled": curled, "late": late}
MIXTURE = plane


def assert_near(found, expected, k=5.0, least=1e-12):
    """A ``Mean`` is what it should be, within k of its own standard errors."""
    value, error = np.asarray(found.value), np.asarray(found.error)
    away = np.abs(value - np.asarray(expected))
    assert np.all(away <= k * error + least), f"{away / error} standard errors, {value}"
