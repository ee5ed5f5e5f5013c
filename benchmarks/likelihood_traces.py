"""Spread of stochastic traces and of log p, and what reported standard errors are worth.

Traces are those of the Jacobian J of dy/dtheta in the angle theta between data and noise, whose
linear part is gone, at states along the path; "with the linear part" is J + tan(theta) I, what the
same equation has over sigma for x = x_0 + sigma eps. A spread is the standard deviation over probes
at one state, root mean square over states. For log p it is had by the library itself, with its
linear part left in by a sigma_data that is out of all proportion.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import likelihood_ours, ours, problems
from benchmarks.densities import draw, model_log_density
from benchmarks.likelihood_ours import DIVERGENCES, Method
from sdejax import coordinates, truth
from sdejax.divergence import Divergence
from sdejax.dynamics import ode_term

STOCHASTIC = [name for name in DIVERGENCES if name != "exact"]
WITH_LINEAR = ("Rademacher, 1", "Gaussian, 1", "Gaussian, 4", "orthogonal, 4", "Hutch++, 6")
SIGMA_DATA = 0.5
ANY_DATA = 1e6  # of a Gaussian whose linear part is nothing


def jacobians(make: Callable[[], problems.Problem], states: int, times: int) -> tuple[Any, Any]:
    """J [times * states, d, d] along the path, and tan(theta) [times * states]."""
    problem, sde = make(), likelihood_ours.PROCESSES["edm"]
    denoiser = truth.denoiser(ours.distribution(problem), sde)
    field = ode_term(sde, denoiser, coordinates.angle(SIGMA_DATA)).vf
    d = problem.means.shape[1]
    noise = problems.noise(problem, times * states, seed=2).reshape(times, states, d)
    data = draw(problem, times * states, seed=3).reshape(times, states, d)
    ends = np.arctan(np.array([problems.SIGMA_MIN, problems.SIGMA_MAX]) / SIGMA_DATA)
    thetas = ends[0] + (ends[1] - ends[0]) * (np.arange(times) + 0.5) / times
    sigmas = SIGMA_DATA * np.tan(thetas)[:, None, None]
    y = (data + sigmas * noise) / np.sqrt(SIGMA_DATA**2 + sigmas**2)
    slope = jax.jacfwd(lambda y, theta: field(theta, y, None))
    found = jax.jit(jax.vmap(jax.vmap(slope, (0, None))))(jnp.asarray(y), jnp.asarray(thetas))
    return found.reshape(-1, d, d), jnp.repeat(jnp.tan(jnp.asarray(thetas)), states)


def spread_of_traces(method: Divergence, matrices: jax.Array, draws: int) -> float:
    """The sd over draws of the estimated trace per entry, rms over matrices [n, d, d]."""
    d = matrices.shape[-1]

    def estimate(key, matrix):
        x = jnp.zeros((d,), matrix.dtype)
        return jnp.mean(method.traces(lambda v: matrix @ v, method.draw(key, x), x)) / d

    def spread(key, matrix):
        keys = jax.random.split(key, draws)
        return jnp.var(jax.vmap(lambda key: estimate(key, matrix))(keys), ddof=1)

    keys = jax.random.split(jax.random.key(4), len(matrices))
    return float(jnp.sqrt(jnp.mean(jax.jit(jax.vmap(spread))(keys, matrices))))


def spread_of_log_p(
    method: Method, make: Callable[[], problems.Problem], points: int, draws: int
) -> float:
    """The sd over probes of log p in bits per dimension, rms over points."""
    problem = make()
    x = np.repeat(draw(problem, points, seed=1), draws, axis=0)
    report = likelihood_ours.run(method, make, x, 1e-4, dtype=jnp.float32)
    log_p = np.asarray(report.log_p, np.float64).reshape(points, draws)
    return float(np.sqrt(np.mean(np.var(log_p, axis=1, ddof=1)))) / (x.shape[1] * math.log(2.0))


def spreads(names: tuple[str, ...], size: int) -> Iterator[dict[str, Any]]:
    """A row for each problem and method.

    Args:
        names: of problems.
        size: points, and a quarter of the draws of a trace.
    """
    for name in names:
        make = problems.PROBLEMS[name]
        matrices, tangents = jacobians(make, states=max(2, size // 8), times=16)
        eye = jnp.eye(matrices.shape[-1])
        with_linear = matrices + tangents[:, None, None] * eye
        for method in STOCHASTIC:
            with_it = method in WITH_LINEAR
            row: dict[str, Any] = {"problem": name, "method": method}
            row["trace"] = spread_of_traces(DIVERGENCES[method], matrices, 4 * size)
            row["trace_linear"] = spread_of_traces(DIVERGENCES[method], with_linear, 4 * size)
            default = Method(divergence=method)
            row["log_p"] = spread_of_log_p(default, make, size, max(2, size // 4))
            linear = Method("edm", coordinates="native", divergence=method, sigma_data=ANY_DATA)
            if with_it:
                row["log_p_linear"] = spread_of_log_p(linear, make, size, max(2, size // 4))
            yield row


def standard_errors(examples: int, d: int = 1024, probes: int = 8) -> dict[str, float]:
    """The rms of the reported standard errors against the sd of log p less the exact one.

    Args:
        examples: their number.
        d: dimension of the cloud.
        probes: Rademacher probes of each.

    Returns:
        Both in nats and their ratio, and the bias in standard errors of a mean.
    """
    problem = problems.cloud(f"D{d}", d)
    sde = likelihood_ours.PROCESSES["flow"]
    x = draw(problem, examples, seed=5)
    # The states at t_min: what is compared is the density there, and it is far from the data's.
    start, end = likelihood_ours.levels("flow")
    x = start[0] * x + start[1] * problems.noise(problem, examples, seed=6)
    exact = model_log_density(problem, x, start, end)
    denoiser = truth.denoiser(ours.distribution(problem), sde)
    method = likelihood_ours.divergence.hutchinson(probes)

    def one(row):
        key, x = row
        report = likelihood_ours.log_likelihood(
            key, sde, denoiser, x, divergence=method, tolerance=1e-4
        )
        return report.log_p, report.standard_error

    rows = jax.random.split(jax.random.key(7), examples), jnp.asarray(x, jnp.float32)
    log_p, reported = jax.jit(lambda rows: jax.lax.map(one, rows, batch_size=16))(rows)
    error = np.asarray(log_p, np.float64) - exact
    rms, sd = float(np.sqrt(np.mean(np.asarray(reported) ** 2.0))), float(np.std(error, ddof=1))
    return {
        "examples": examples,
        "d": d,
        "probes": probes,
        "reported": rms,
        "observed": sd,
        "ratio": rms / sd,
        "bias": float(np.mean(error)) / sd * math.sqrt(examples),
    }
