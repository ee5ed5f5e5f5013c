"""Draws and closed log-densities of the mixtures of ``problems``, in NumPy and float64.

A library's likelihood is held against the density of *its own* model: the stated prior pulled back
through the exact flow from the state at which it starts. For a mixture that needs no divergence,

    log p(x) = log p_start(x) - log p_end(x_end) + log prior(x_end),

with x_end from an accurate trajectory. Where alpha = 0 at the end, p_end is the prior.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.integrate import solve_ivp
from scipy.special import logsumexp

from benchmarks.problems import Problem, denoise

Level = tuple[float, float]  # alpha, sigma


def draw(problem: Problem, points: int, seed: int = 0) -> np.ndarray:
    """Data x_0 [points, d]."""
    state = np.random.RandomState(seed)
    k = state.choice(len(problem.weights), size=points, p=problem.weights)
    z = state.randn(points, problem.means.shape[1])
    return problem.means[k] + np.einsum("nij,nj->ni", problem.bases[k], problem.stds[k] * z)


def log_density(problem: Problem, x: np.ndarray, level: Level) -> np.ndarray:
    """log p_t(x) in nats, [n], of x_t = alpha x_0 + sigma eps."""
    alpha, sigma = level
    variance = (alpha * problem.stds) ** 2 + sigma**2
    away = x[:, None] - alpha * problem.means
    centred = np.einsum("kij,nki->nkj", problem.bases, away)
    exponents = np.sum(centred**2 / variance + np.log(2.0 * np.pi * variance), axis=-1)
    return logsumexp(np.log(problem.weights) - 0.5 * exponents, axis=1)


def model_log_density(
    problem: Problem, x: np.ndarray, start: Level, end: Level, tol: float = 1e-12
) -> np.ndarray:
    """The density of the model whose prior is N(0, sigma^2 I) with the sigma of ``end``.

    Args:
        problem: the mixture.
        x: states at ``start`` [n, d].
        start: alpha, sigma where the library starts.
        end: alpha, sigma where it states its prior.
        tol: of the trajectory, on the root mean square over all points.

    Returns:
        Nats [n].
    """
    at_start = log_density(problem, x, start)
    if end[0] == 0.0:
        return at_start
    y = x / start[0]

    def slope(log_sigma, flat):
        y = flat.reshape(x.shape)
        return (y - denoise(problem, y, np.exp(log_sigma))).ravel()

    span = [math.log(sigma / alpha) for alpha, sigma in (start, end)]
    solved = solve_ivp(slope, span, y.ravel(), method="DOP853", rtol=tol, atol=tol)
    if not solved.success:
        raise RuntimeError(f"trajectory of {problem.name}: {solved.message}")
    latent = end[0] * solved.y[:, -1].reshape(x.shape)
    square = np.sum((latent / end[1]) ** 2, axis=1)
    prior = -0.5 * (square + x.shape[1] * math.log(2.0 * math.pi * end[1] ** 2))
    return at_start - log_density(problem, latent, end) + prior


def errors(log_p: np.ndarray, exact: np.ndarray, d: int) -> dict[str, float]:
    """Of (log p - exact)/(d ln 2), in bits per dimension.

    Args:
        log_p: nats [n].
        exact: nats [n].
        d: dimension.

    Returns:
        The median of its size, its mean (bias), sd, 95 % quantile of its size, and rms.
    """
    error = (np.asarray(log_p, np.float64) - exact) / (d * math.log(2.0))
    size = np.abs(error)
    return {
        "median": float(np.median(size)),
        "bias": float(np.mean(error)),
        "sd": float(np.std(error, ddof=1)),
        "p95": float(np.quantile(size, 0.95)),
        "rms": float(np.sqrt(np.mean(error**2))),
    }
