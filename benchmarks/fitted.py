"""Methods fitted to a problem: ``learned`` (times and weights) and ``tuned`` (times alone).

Both see the starts and the exact ends of ``PAIRS`` points, whose noise is disjoint from that of the
evaluation, and are then run unchanged: on other noise of their own problem, and on another problem
of the same dimension.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import ours, problems
from benchmarks.problems import Problem
from sdejax import grids, truth
from sdejax.samplers.adams import deis
from sdejax.samplers.fitting import Pairs, fit_solver
from sdejax.samplers.learned import as_solver
from sdejax.samplers.tuning import optimize_grid
from sdejax.samplers.unipc import unipc

TRANSFER = {"G2": "S2", "D16": "E16"}  # fitted to -> also run on
METHODS = ("learned", "tuned")
PAIRS = 4096
ITERATIONS, BATCH = 2000, 128  # of learned
TUNING_ITERATIONS, TUNING_BATCH = 400, 256
SEED = 10_000  # added to that of the evaluation
LOWERED_BELOW = 15  # evaluations: DEIS to start from, UniPC from there on

Solve = Callable[[Problem, np.ndarray], np.ndarray]  # z [n, d] -> ends [n, d]


class Fit(NamedTuple):
    """A fitted method, and what it took."""

    solve: Solve
    seconds: float  # of processor time, compilation included, the pairs not
    evaluations: int  # of the network in the fit, a gradient counted as three


class Examples(NamedTuple):
    """What is fitted to, and what it took."""

    pairs: Pairs
    seconds: float
    evaluations: int  # for each pair


def examples(problem: Problem, seed: int, count: int = PAIRS) -> Examples:
    """Starts and exact ends, solved in NumPy as the references are."""
    begin = time.process_time()
    z = problems.noise(problem, count, SEED + seed)
    exact = problems.flow(problem, z, ours.first_sigma("edm"))
    pairs = Pairs(ours.start("edm", z), jnp.asarray(exact.x))
    return Examples(pairs, time.process_time() - begin, exact.evaluations)


def learned(problem: Problem, pairs: Pairs, budget: int) -> Fit:
    """A solver of ``budget`` evaluations by ``fit_solver``."""
    begin, sde = time.process_time(), ours.PROCESSES["edm"]
    denoiser = truth.denoiser(ours.distribution(problem), sde)
    guess = deis(3) if budget < LOWERED_BELOW else unipc(4)
    first = as_solver(guess, sde, grids.uniform_log_snr(sde, budget - 1))
    solver, losses = fit_solver(
        jax.random.key(budget),
        first,
        sde,
        lambda cond: denoiser,
        pairs,
        iterations=ITERATIONS,
        batch=BATCH,
    )
    jax.block_until_ready(solver)
    used = (4 * ITERATIONS * BATCH + len(losses) * (len(pairs.x) // 4)) * budget
    seconds = time.process_time() - begin
    return Fit(lambda other, z: ours.run_learned(solver, other, z), seconds, used)


def tuned(problem: Problem, pairs: Pairs, budget: int) -> Fit:
    """UniPC-2 on a grid by ``optimize_grid``."""
    begin, sde, sampler = time.process_time(), ours.PROCESSES["edm"], unipc(2)
    denoiser = truth.denoiser(ours.distribution(problem), sde)
    ts = optimize_grid(
        jax.random.key(budget),
        sampler,
        sde,
        denoiser,
        pairs.x,
        pairs.target,
        budget - 1,
        init=grids.uniform_log_snr,
        iterations=TUNING_ITERATIONS,
        batch=TUNING_BATCH,
    )
    found = np.asarray(ts)
    used = (3 * TUNING_ITERATIONS * TUNING_BATCH + 2 * len(pairs.x)) * budget
    seconds = time.process_time() - begin
    return Fit(lambda other, z: ours.run(sampler, other, z, found), seconds, used)


FITS: dict[str, Callable[[Problem, Pairs, int], Fit]] = {"learned": learned, "tuned": tuned}
