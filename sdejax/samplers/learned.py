"""Few-step solvers with times and multistep weights of their own at each step.

An exponential multistep method of the probability-flow ODE is exact where x0 does not change
along a trajectory, so with m_j = x0 at the j-th evaluation its states are

    x_k = (sigma_k/sigma_T) x_T + (alpha_k - alpha_T sigma_k/sigma_T) sum_{j<k} w_kj m_j,

sum_j w_kj = 1, and its result, at sigma = 0, is sum_j w_Nj m_j. DDIM, DEIS, DPM-Solver++ and UniPC
are such triangles w; a learned solver has the triangle and the N times that
``sdejax.samplers.fitting`` found by gradient descent through it. Either is a small pytree.

Reference: Shaul et al. 2024, arXiv:2403.01329 (bespoke non-stationary solvers); Frankel et al.
2025, arXiv:2502.17423 (S4S).
"""

from __future__ import annotations

import os
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sdejax.numpy_files import read_npz
from sdejax.prediction import Denoiser, Estimate
from sdejax.samplers.base import Method, Sampler, Stats, both_ends, finite, in_float64
from sdejax.sde import SDE, coefficients
from sdejax.types import Data, Times

LARGEST = 2**24  # bytes of a solver in a file: a thousand evaluations and more


class Solver(NamedTuple):
    """A non-stationary multistep method of N evaluations."""

    ts: Float[Array, " N"]  # decreasing times of the evaluations, the first t_max
    weights: Float[Array, "N N"]  # row k: of m_0 .. m_k after evaluation k; sums to 1


def as_solver(sampler: Sampler, sde: SDE, ts: Times) -> Solver:
    """A fixed method written as a solver, its denoising step included.

    The weights are read off the sampler by running it on unit vectors: evaluation j answers with
    the j-th of them as x0.

    Args:
        sampler: a deterministic exponential method of one evaluation a step: ``ddim()``, ``lms()``,
            ``deis()``, ``exponential_adams()``, ``dpmpp_2m()``, ``dpmpp_3m()``, ``unipc()``.
        sde: the process, with alpha and sigma positive on the grid.
        ts: [N] decreasing times from t_max to t_min.

    Returns:
        The solver of N evaluations.

    Raises:
        ValueError: for a sampler of several evaluations a step, or one that draws noise.
    """
    if sampler.evaluations != 1:
        raise ValueError(
            f"as_solver: got a sampler of {sampler.evaluations} evaluations a step; expected a "
            "multistep method of one (ddim, deis, dpmpp_2m, unipc, ...)"
        )
    count = ts.shape[0]

    def triangle(key, sde, ts):
        units = jnp.eye(count, dtype=ts.dtype)
        start, end = both_ends(sde, ts)
        gain = end.alpha - start.alpha[0] * end.sigma / start.sigma[0]

        def advance(state, inputs):
            unit, row, alpha, sigma, gain = inputs
            state = sampler.step(
                lambda x, t: Estimate(unit, (x - alpha * unit) / sigma),
                key,
                state,
                row,
            )
            return state, sampler.final(state) / gain

        inputs = (units[:-1], sampler.prepare(sde, ts), start.alpha, start.sigma, gain)
        _, rows = jax.lax.scan(advance, sampler.init(jnp.zeros(count, ts.dtype)), inputs)
        return jnp.concatenate([rows, units[-1:]])

    first, second = (
        in_float64(partial(triangle, jax.random.key(seed)), ts.dtype, sde, ts) for seed in (0, 1)
    )
    if not isinstance(first, jax.core.Tracer) and not jnp.array_equal(first, second):
        raise ValueError("as_solver: got a sampler that draws noise; expected a deterministic one")
    return Solver(ts, first)


def solve(solver: Solver, sde: SDE, denoiser: Denoiser, x: Data, *, unroll: bool = False) -> Data:
    """A solver's answer for one example.

    Args:
        solver: times and weights.
        sde: the process that they belong to.
        denoiser: (x, t) -> ``Estimate``.
        x: state at t_max, [*event].
        unroll: write the steps out instead of looping; longer to compile, and on a CPU much faster
            to differentiate where the network has convolutions.

    Returns:
        x0 [*event].
    """

    def table(solver, sde):
        c = jax.vmap(lambda t: coefficients(sde, t))(solver.ts)
        a = c.sigma[1:] / c.sigma[0]
        gain = c.alpha[1:] - a * c.alpha[0]
        return jnp.append(a, 0.0), jnp.append(gain, 1.0)[:, None] * solver.weights

    count = solver.ts.shape[0]
    a, b = in_float64(table, x.dtype, solver, sde)
    start = x

    def advance(carry, row):
        x, seen = carry
        index, t, a, b = row
        seen = seen.at[index].set(denoiser(x, t).x0)
        return (a * start + jnp.tensordot(b, seen, 1), seen), None

    seen = jnp.zeros((count, *x.shape), x.dtype)
    rows = (jnp.arange(count), solver.ts.astype(x.dtype), a, b)
    return jax.lax.scan(advance, (x, seen), rows, unroll=unroll)[0][0]


def learned(solver: Solver) -> Method:
    """A solver as a method; its steps keep every evaluation, so memory grows with their number.

    Args:
        solver: times and weights, of ``fit_solver``, ``load_solver`` or ``as_solver``.

    Returns:
        The method of N evaluations, the last of which is the denoising step.

    Raises:
        ValueError: for shapes that do not belong together; when it is used, for times that are not
            in the range of the process.
    """
    count = solver.ts.shape[0]
    if solver.weights.shape != (count, count) or count < 1:
        raise ValueError(
            f"learned: got weights of shape {solver.weights.shape} for {count} times; expected "
            f"({count}, {count})"
        )

    def run(key, sde, denoiser, x):
        out = solve(solver, sde, denoiser, x)
        return out, Stats(jnp.asarray(count, jnp.int32), finite(out))

    def require(sde, t):
        ts = np.asarray(solver.ts, np.float64)
        near = 1e-5 * float(sde.t_max)
        if abs(ts[0] - float(t)) > near or np.any(np.diff(ts) >= 0) or ts[-1] < sde.t_min - near:
            raise ValueError(
                f"learned: got times from {ts[0]:.6g} to {ts[-1]:.6g}; expected decreasing ones "
                f"from t_max={float(t):.6g} to t_min={float(sde.t_min):.6g} or above; was the "
                "solver fitted for another process?"
            )

    return Method(run, require)


def save_solver(path: str | os.PathLike, solver: Solver) -> None:
    """Writes a solver as ``.npz``.

    Args:
        path: the file.
        solver: times and weights.
    """
    with open(path, "wb") as file:  # a path by name would be given another suffix
        np.savez(file, ts=np.asarray(solver.ts), weights=np.asarray(solver.weights))


def load_solver(path: str | os.PathLike) -> Solver:
    """Reads a solver.

    Args:
        path: a file of ``save_solver``.

    Returns:
        The solver, in the working precision.

    Raises:
        ValueError: for a file that holds no solver.
        FileNotFoundError: where there is none.
    """
    try:
        arrays = read_npz(path, Solver._fields, free=LARGEST)
        ts, weights = (arrays[name].astype(float) for name in Solver._fields)
    except ValueError as error:
        raise ValueError(
            f"{path}: no solver ({error}); expected an .npz of save_solver with {Solver._fields}"
        ) from error
    whole = np.all(np.isfinite(ts)) and np.all(np.isfinite(weights))
    if ts.ndim != 1 or weights.shape != (ts.size, ts.size) or not whole:
        raise ValueError(
            f"{path}: got ts {ts.shape} and weights {weights.shape}; expected finite ones of "
            "shapes (N,) and (N, N)"
        )
    return Solver(jnp.asarray(ts), jnp.asarray(weights))
