"""The mixtures, the grids and the reference trajectories that accuracy is measured on.

Everything here is NumPy in float64 and knows neither of the frameworks compared. A problem is a
mixture sum_k w_k N(m_k, B_k diag(s_k^2) B_k^T); with x = x_0 + sigma eps the posterior mean is

    D(x, sigma) = sum_k p_k(x) [m_k + B_k diag(s_k^2 / (s_k^2 + sigma^2)) B_k^T (x - m_k)],

and the probability-flow ODE is dx/dlog sigma = x - D(x, sigma). The reference solves it in
log sigma with DOP853 and takes the last step, from sigma = 1e-7, by the denoiser.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.integrate import solve_ivp

SIGMA_MIN, SIGMA_MAX = 0.002, 80.0


class Problem(NamedTuple):
    """A mixture of K Gaussians in d dimensions."""

    name: str
    weights: np.ndarray  # [k], sum 1
    means: np.ndarray  # [k, d]
    stds: np.ndarray  # [k, d], along the columns of bases
    bases: np.ndarray  # [k, d, d], orthonormal

    @property
    def sd(self) -> float:
        """Standard deviation of a coordinate of the data, root mean over coordinates."""
        second = np.einsum("k,kd->d", self.weights, self.means**2).sum()
        spread = np.einsum("k,kd->", self.weights, self.stds**2)
        centre = ((self.weights @ self.means) ** 2).sum()
        return float(np.sqrt((second + spread - centre) / self.means.shape[1]))


def _round(name: str, weights: np.ndarray, means: np.ndarray, stds: np.ndarray) -> Problem:
    """Components with one standard deviation each."""
    k, d = means.shape
    bases = np.broadcast_to(np.eye(d), (k, d, d))
    return Problem(name, weights / weights.sum(), means, np.repeat(stds[:, None], d, axis=1), bases)


def g2() -> Problem:
    """Eight unequal round components on a circle."""
    angles = 2.0 * np.pi * np.arange(8) / 8.0
    means = 0.66 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return _round("G2", np.arange(1.0, 9.0), means, np.full(8, 0.08))


def cloud(name: str, d: int, seed: int = 0) -> Problem:
    """D16, D64, E16: sixteen round components of unequal weight and width."""
    state = np.random.RandomState(seed)
    means = 0.45 * state.randn(16, d)
    weights = state.dirichlet(3.0 * np.ones(16))
    return _round(name, weights, means, np.geomspace(0.10, 0.30, 16))


def spiral() -> Problem:
    """S2: two arms of thirty components each, 0.08 along the arm and 0.02 across."""
    u = np.tile(np.sqrt((np.arange(30) + 0.5) / 30), 2)
    arm = np.repeat([0.0, 1.0], 30)
    radius, angle = 0.15 + 0.85 * u, 2.5 * np.pi * u + np.pi * arm
    means = radius * np.exp(1j * angle)
    along = (0.85 + 2.5j * np.pi * radius) * np.exp(1j * angle)
    along /= np.abs(along)
    bases = np.stack([_plane(along), _plane(1j * along)], axis=-1)
    weights = 1.0 - 0.5 * arm
    stds = np.tile([0.08, 0.02], (60, 1))
    return Problem("S2", weights / weights.sum(), _plane(means), stds, bases)


def _plane(z: np.ndarray) -> np.ndarray:
    """Complex numbers as points."""
    return np.stack([z.real, z.imag], axis=-1)


def ribbons() -> Problem:
    """R8: six thin, rotated, off-centre components in eight dimensions, axes 0.03 to 0.6."""
    state = np.random.RandomState(7)
    bases = np.stack([np.linalg.qr(state.randn(8, 8))[0] for _ in range(6)])
    means = 0.25 + 0.5 * state.randn(6, 8)
    stds = np.stack([state.permutation(np.geomspace(0.03, 0.6, 8)) for _ in range(6)])
    return Problem("R8", np.array([1, 2, 4, 1, 8, 3]) / 19.0, means, stds, bases)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "G2": g2,
    "S2": spiral,
    "D16": lambda: cloud("D16", 16),
    "E16": lambda: cloud("E16", 16, seed=1),
    "D64": lambda: cloud("D64", 64),
    "R8": ribbons,
}


def denoise(problem: Problem, x: np.ndarray, sigma: float) -> np.ndarray:
    """The posterior mean D(x, sigma), [n, d]."""
    variance = problem.stds**2 + sigma**2
    centred = np.einsum("kij,nki->nkj", problem.bases, x[:, None] - problem.means)
    logits = np.log(problem.weights) - 0.5 * np.sum(centred**2 / variance + np.log(variance), -1)
    share = np.exp(logits - logits.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    pulled = np.einsum("kij,nkj->nki", problem.bases, problem.stds**2 / variance * centred)
    return np.einsum("nk,nki->ni", share, problem.means + pulled)


def noise(problem: Problem, points: int, seed: int = 0) -> np.ndarray:
    """Standard normal z [points, d]; every solve starts at sigma_0 z for its own sigma_0."""
    d = problem.means.shape[1]
    return np.random.RandomState(seed).randn(points, d)


class Flow(NamedTuple):
    """Where the flow takes some points, and how often the denoiser was asked."""

    x: np.ndarray  # [n, d]
    evaluations: int  # for each point


def flow(
    problem: Problem, z: np.ndarray, sigma: float, low: float = 1e-7, tol: float = 1e-11
) -> Flow:
    """The exact flow from sigma z down to ``low``, and the denoiser's answer there.

    The solver's tolerance is on the root mean square over all points, so it is set ten times
    below the 1e-10 that is asked of a point. Above ``low`` = 1e-7 the answer is what a method
    without any error would give that denoises at ``low``.
    """

    def slope(log_sigma, flat):
        x = flat.reshape(z.shape)
        return (x - denoise(problem, x, np.exp(log_sigma))).ravel()

    span = (math.log(sigma), math.log(low))
    end = solve_ivp(slope, span, (sigma * z).ravel(), method="DOP853", rtol=tol, atol=tol)
    if not end.success:
        raise RuntimeError(f"reference of {problem.name}: {end.message}")
    return Flow(denoise(problem, end.y[:, -1].reshape(z.shape), low), end.nfev + 1)


def reference(problem: Problem, z: np.ndarray, sigma: float) -> np.ndarray:
    """The exact end at sigma = 0 of the flow that starts at sigma z, [n, d]."""
    return flow(problem, z, sigma).x


def karras(n: int, low: float = SIGMA_MIN, high: float = SIGMA_MAX) -> np.ndarray:
    """Grid A without its last value 0: n decreasing sigmas, equal in sigma^(1/7)."""
    return np.linspace(high ** (1 / 7), low ** (1 / 7), n) ** 7


def log_snr(n: int, low: float = SIGMA_MIN, high: float = SIGMA_MAX) -> np.ndarray:
    """Grid B without its last value 0: n decreasing sigmas, equal in log sigma."""
    return np.exp(np.linspace(np.log(high), np.log(low), n))


GRIDS: dict[str, Callable[[int], np.ndarray]] = {"A": karras, "B": log_snr}


def errors(problem: Problem, x: np.ndarray, exact: np.ndarray) -> dict[str, float]:
    """RMS and median over points of |x - exact| / (sqrt(d) sd)."""
    length = np.linalg.norm(x - exact, axis=1) / (np.sqrt(x.shape[1]) * problem.sd)
    if not np.all(np.isfinite(length)):
        return {"rms": float("nan"), "median": float("nan")}
    return {
        "rms": float(np.sqrt(np.mean(length**2))),
        "median": float(np.median(length)),
    }
