"""sdejax's samplers on the problems, through its public interface, in float64.

A sampler's rows of coefficients depend on the process and the grid alone: they are made once for
each number of steps. The loop over them is compiled once for a problem, for the most steps asked
for; a grid of fewer is filled up with steps that change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.problems import PROBLEMS, Problem
from sdejax import grids, processes, truth
from sdejax.samplers.adams import deis, exponential_adams, lms
from sdejax.samplers.ancestral import ddim
from sdejax.samplers.base import Sampler
from sdejax.samplers.base import sample as sample_on_grid
from sdejax.samplers.dpm_solver import dpmpp_2m, dpmpp_3m
from sdejax.samplers.heun import heun
from sdejax.samplers.learned import Solver, learned
from sdejax.samplers.singlestep import dpm_solver, dpmpp_singlestep
from sdejax.samplers.unipc import unipc
from sdejax.sde import SDE, coefficients

TABLE: Mapping[str, Sampler] = {
    "ddim": ddim(),
    "lms_4": lms(4),
    "deis_3": deis(3),
    "deis_4": deis(4),
    "exponential_adams_3": exponential_adams(3),
    "dpmpp_2m": dpmpp_2m(),
    "dpmpp_3m": dpmpp_3m(),
    **{f"unipc_{p}": unipc(p) for p in (2, 3, 4)},
    **{f"unipc_{p}_lowered": unipc(p, lower_final=True) for p in (2, 3, 4)},
    "dpm_solver_3": dpm_solver(3),
    "dpmpp_3s": dpmpp_singlestep(3),
    "heun": heun(),
}
PROCESSES: Mapping[str, SDE] = {"edm": processes.edm(), "vp": processes.vp()}


def steps(sampler: Sampler, budget: int) -> int:
    """The most steps within ``budget`` evaluations, the last of which denoises."""
    return (budget - 1) // sampler.evaluations


def distribution(problem: Problem) -> truth.Mixture:
    """The problem as the library's own mixture."""
    weights, means, stds = map(jnp.asarray, (problem.weights, problem.means, problem.stds))
    if np.all(problem.stds == problem.stds[:, :1]):
        return truth.isotropic(weights, means, stds[:, 0])
    covs = np.einsum("kij,kj,klj->kil", problem.bases, problem.stds**2, problem.bases)
    return truth.mixture(weights, means, jnp.asarray(covs))


def first_sigma(process: str) -> float:
    """sigma/alpha where a process starts: the reference starts there too."""
    sde = PROCESSES[process]
    c = coefficients(sde, sde.t_max)
    return float(c.sigma / c.alpha)


def start(process: str, z: np.ndarray) -> jax.Array:
    """The state at t_max, sigma(t_max) z."""
    sde = PROCESSES[process]
    return coefficients(sde, sde.t_max).sigma * jnp.asarray(z)


@cache
def _prepare(sampler: Sampler) -> Callable[..., Any]:
    return jax.jit(sampler.prepare)


@lru_cache(maxsize=4)
def _solver(
    sampler: Sampler, problem_name: str, process: str, denoise: bool
) -> Callable[..., jax.Array]:
    """(x [n, d], ts [most + 1], rows of most steps, live [most]) -> ends [n, d]."""
    sde = PROCESSES[process]
    denoiser = truth.denoiser(distribution(PROBLEMS[problem_name]()), sde)

    def step(denoiser, key, state, inputs):
        row, live = inputs
        after = sampler.step(denoiser, key, state, row)
        return jax.tree.map(lambda new, old: jnp.where(live, new, old), after, state)

    def solve(x, ts, rows, live):
        ready = sampler._replace(prepare=lambda sde, ts: (rows, live), step=step)
        key = jax.random.key(0)

        def one(x):
            return sample_on_grid(key, ready, sde, denoiser, x, ts, denoise=denoise)[0]

        return jax.vmap(one)(x)

    return jax.jit(solve)


def run(
    sampler: Sampler,
    problem: Problem,
    z: np.ndarray,
    ts: np.ndarray,
    *,
    process: str = "edm",
    most: int | None = None,
    denoise: bool = True,
) -> np.ndarray:
    """The ends of all points, by as many steps as the grid has.

    Args:
        sampler: a row of ``TABLE``.
        problem: the mixture.
        z: [n, d], the start over sigma(t_max).
        ts: [steps + 1] decreasing times.
        process: "edm" or "vp".
        most: steps to compile for, so that grids of several lengths share the program.
        denoise: end with a denoising step; without it the times of "edm" may end at 0.
    """
    count = len(ts) - 1
    fill = (most or count) - count
    rows = _prepare(sampler)(PROCESSES[process], jnp.asarray(ts))
    rows, ts = jax.tree.map(
        lambda leaf: np.concatenate([leaf, np.repeat(leaf[-1:], fill, axis=0)]), (rows, ts)
    )
    live = np.arange(count + fill) < count
    solve = _solver(sampler, problem.name, process, denoise)
    return np.asarray(solve(start(process, z), ts, rows, live))


def run_learned(solver: Solver, problem: Problem, z: np.ndarray) -> np.ndarray:
    """The ends of all points by a solver of the EDM process."""
    sde = PROCESSES["edm"]
    denoiser = truth.denoiser(distribution(problem), sde)
    method, key = learned(solver), jax.random.key(0)
    solve = jax.jit(jax.vmap(lambda x: method.run(key, sde, denoiser, x)[0]))
    return np.asarray(solve(start("edm", z)))


def default_grid(steps: int) -> tuple[np.ndarray, str]:
    """Grid C of the library: the default grid of ``on_grid`` on its default VP process."""
    return np.asarray(grids.uniform(processes.vp(), steps)), "vp"
