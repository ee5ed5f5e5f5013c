"""sdejax's likelihood on the mixtures, through its public interface."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import ours
from benchmarks.densities import Level
from benchmarks.problems import Problem
from sdejax import coordinates, divergence, processes, truth
from sdejax.divergence import Divergence
from sdejax.likelihood import Likelihood, log_likelihood
from sdejax.sde import SDE, coefficients

PROCESSES: dict[str, SDE] = {"flow": processes.rectified_flow(), "edm": processes.edm()}
SOLVERS = {"Tsit5": dfx.Tsit5(), "Dopri5": dfx.Dopri5()}
COORDINATES = {"angle": None, "native": coordinates.native}
DIVERGENCES: dict[str, Divergence] = {
    "exact": divergence.exact(),
    **{f"Rademacher, {k}": divergence.hutchinson(k) for k in (1, 4, 6, 12)},
    **{f"Gaussian, {k}": divergence.hutchinson(k, "gaussian") for k in (1, 4)},
    **{f"orthogonal, {k}": divergence.orthogonal(k) for k in (4, 6, 12)},
    **{f"Hutch++, {k}": divergence.hutchpp(k) for k in (6, 12)},
}


class Method(NamedTuple):
    """How a likelihood is had; everything else is the library's default."""

    process: str = "flow"
    solver: str = "Tsit5"
    coordinates: str = "angle"
    divergence: str = "exact"
    sigma_data: float = 0.5

    def __str__(self) -> str:
        return f"{self.process}, {self.solver}, {self.coordinates}"


METHODS = tuple(
    Method(process, solver, frame)
    for process in PROCESSES
    for solver in SOLVERS
    for frame in COORDINATES
)


def levels(process: str) -> tuple[Level, Level]:
    """alpha and sigma where a process starts and where it states its prior."""
    sde = PROCESSES[process]
    ends = [coefficients(sde, jnp.asarray(t, float)) for t in (sde.t_min, sde.t_max)]
    start, end = [(float(c.alpha), float(c.sigma)) for c in ends]
    return start, end


@lru_cache(maxsize=4)
def _solver(method: Method, problem: str, make: Callable[[], Problem]) -> Callable[..., Likelihood]:
    sde = PROCESSES[method.process]
    denoiser = truth.denoiser(ours.distribution(make()), sde)

    def one(key, x, tolerance):
        return log_likelihood(
            key,
            sde,
            denoiser,
            x,
            divergence=DIVERGENCES[method.divergence],
            solver=SOLVERS[method.solver],
            coordinates=COORDINATES[method.coordinates],
            sigma_data=method.sigma_data,
            tolerance=tolerance,
        )

    return jax.jit(jax.vmap(one, (0, 0, None)))


def run(
    method: Method,
    make: Callable[[], Problem],
    x: np.ndarray,
    tolerance: float,
    seed: int = 0,
    dtype: Any = jnp.float64,
) -> Likelihood:
    """The reports of all points, each with probes and steps of its own.

    Args:
        method: how.
        make: the problem.
        x: states at t_min [n, d].
        tolerance: of the solve.
        seed: of the probes.
        dtype: of the solve.

    Returns:
        A ``Likelihood`` of NumPy arrays over the points.
    """
    keys = jax.random.split(jax.random.key(seed), len(x))
    solve = _solver(method, make().name, make)
    return jax.tree.map(
        np.asarray, solve(keys, jnp.asarray(x, dtype), jnp.asarray(tolerance, dtype))
    )
