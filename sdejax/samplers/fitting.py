"""Fitting a few-step solver to a network, by gradient descent through the sampler.

With x* the accurate solution that belongs to x_T, the N times and the triangle of weights minimise

    mean_i  sqrt(|x_i - x*_i|^2 / d + delta^2) - delta,

a smooth Huber loss: near the boundary between two modes a small error sends a trajectory to the
other one, and squares would be governed by these few. The times are log-SNRs in order and the rows
of the triangle keep their sum, so every iterate is a consistent method. A quarter of the pairs is
held out, and the iterate that is best on them is returned.

A fit costs about 4 N evaluations of the network per pair and iteration (the forward pass, its
repetition and the gradient), and the accurate solutions a hundred each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import diffrax as dfx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float
from tqdm import tqdm

from sdejax.prediction import Denoiser
from sdejax.samplers.diffeq import solve_ode
from sdejax.samplers.learned import Solver, solve
from sdejax.sde import SDE, log_snr, prior_sample
from sdejax.types import Cond, Key, Scalar

Denoisers = Callable[[Cond], Denoiser]  # e.g. partial(make_denoiser, model, params, sde)
HELD_OUT_EVERY = 50  # iterations


class Pairs(NamedTuple):
    """States at t_max, the data that the probability-flow ODE takes them to, and conditions."""

    x: Float[Array, "n *event"]
    target: Float[Array, "n *event"]
    cond: Cond = None  # leaves [n, ...]


class Change(NamedTuple):
    """What is learned, relative to the solver that the fit starts from."""

    level: Scalar  # log-SNR of the second evaluation; the first stays at t_max
    log_gaps: Float[Array, " N-2"]  # logarithms of the gaps between the log-SNRs after it
    weights: Float[Array, "N N"]


def draw_pairs(
    key: Key,
    sde: SDE,
    denoisers: Denoisers,
    event_shape: tuple[int, ...],
    count: int,
    cond: Cond = None,
    *,
    chunk: int = 256,
    tolerance: float = 1e-5,
) -> Pairs:
    """Accurate solutions of the probability-flow ODE to learn from, by Tsit5.

    They have to be more accurate than the solver that is fitted to them: in float32, where 1e-5 is
    about what rounding leaves, that is up to 30 or 40 evaluations; beyond, use float64.

    Args:
        key: example i starts from ``fold_in(key, i)``.
        sde: the process.
        denoisers: the condition of an example -> its denoiser.
        event_shape: shape of one example.
        count: number of pairs n.
        cond: conditions with leaves [n, ...], or None.
        chunk: examples solved at a time.
        tolerance: of the adaptive solve, relative, and absolute in units of the data.

    Returns:
        The pairs.
    """

    def one(inputs):
        index, cond = inputs
        x = prior_sample(jax.random.fold_in(key, index), sde, event_shape)
        return x, solve_ode(sde, denoisers(cond), x, controller=controller)[0]

    controller = dfx.PIDController(rtol=tolerance, atol=tolerance)
    solve_all = jax.jit(lambda inputs: jax.lax.map(one, inputs, batch_size=min(chunk, count)))
    x, target = solve_all((jnp.arange(count), cond))
    return Pairs(x, target, cond)


def fit_solver(
    key: Key,
    solver: Solver,
    sde: SDE,
    denoisers: Denoisers,
    pairs: Pairs,
    *,
    iterations: int = 2000,
    batch: int = 128,
    learning_rate: float | None = None,
    delta: float | None = None,
    progress: bool = False,
) -> tuple[Solver, Float[Array, " checks"]]:
    """A solver of N evaluations fitted to a denoiser (Adam with a cosine schedule).

    Args:
        key: of the mini-batches.
        solver: where to start, ``as_solver(deis(3), sde, grids.uniform_log_snr(sde, N - 1))``.
        sde: the process.
        denoisers: the condition of an example -> its denoiser.
        pairs: n accurate solutions, ``draw_pairs``; a few hundred times N are plenty.
        iterations: gradient steps.
        batch: pairs a step.
        learning_rate: of the log-gaps and weights, by default 0.1 / N.
        delta: errors per dimension below this count by their square, those above by their size;
            by default the median error of the given solver.
        progress: show a bar with the loss on the held-out pairs.

    Returns:
        The solver that was best on the held-out quarter of the pairs, and the losses there
        [checks], the first before the fit.

    Raises:
        ValueError: for fewer than two evaluations, eight pairs or one iteration.

    Reference: Shaul et al. 2024, arXiv:2403.01329; Frankel et al. 2025, arXiv:2502.17423.
    """
    count, n = solver.ts.shape[0], pairs.x.shape[0]
    require_enough(count, n, iterations)
    tx = optax.adam(optax.cosine_decay_schedule(learning_rate or 0.1 / count, iterations))
    held_out = jax.tree.map(lambda leaf: leaf[: n // 4], pairs)
    training = jax.tree.map(lambda leaf: leaf[n // 4 :], pairs)

    def squares(change, some: Pairs):
        current = _changed(solver, sde, change)

        def one(x, target, cond):
            denoiser = jax.checkpoint(denoisers(cond))
            out = solve(current, sde, denoiser, x, unroll=count <= 16)
            return jnp.mean((out - target) ** 2)

        return jax.vmap(one)(*some)

    start = _no_change(solver, sde)
    if delta is None:
        delta = float(jnp.sqrt(jnp.median(jax.jit(squares)(start, held_out))))

    def loss(change, some: Pairs):
        return jnp.mean(jnp.sqrt(squares(change, some) + delta**2) - delta)

    @jax.jit
    def step(change, opt_state, index):
        rows = jax.random.randint(jax.random.fold_in(key, index), (batch,), 0, n - n // 4)
        grads = jax.grad(loss)(change, jax.tree.map(lambda leaf: leaf[rows], training))
        updates, opt_state = tx.update(grads, opt_state)
        return optax.apply_updates(change, updates), opt_state

    check = jax.jit(loss)
    change = best = start
    opt_state, losses = tx.init(change), [check(change, held_out)]
    bar = tqdm(range(iterations), desc=f"fitting {count} evaluations", disable=not progress)
    for index in bar:
        change, opt_state = step(change, opt_state, jnp.asarray(index))
        if (index + 1) % HELD_OUT_EVERY == 0 or index + 1 == iterations:
            losses.append(check(change, held_out))
            best = change if losses[-1] <= min(losses[:-1]) else best
            bar.set_postfix(start=f"{losses[0]:.2e}", now=f"{losses[-1]:.2e}")
    return jax.jit(lambda c: _changed(solver, sde, c))(best), jnp.stack(losses)


def require_enough(evaluations: int, pairs: int, iterations: int) -> None:
    """Refuses a fit that has too little to go by.

    Args:
        evaluations: N.
        pairs: accurate solutions.
        iterations: gradient steps.

    Raises:
        ValueError: for fewer than 2, 8 or 1 of them.
    """
    if evaluations < 2 or pairs < 8 or iterations < 1:
        raise ValueError(
            f"fit_solver: got {evaluations} evaluations, {pairs} pairs and {iterations} "
            "iterations; expected at least 2, 8 and 1"
        )


def _levels(solver: Solver, sde: SDE) -> Array:
    """The log-SNRs after the first evaluation."""
    return jax.vmap(lambda t: log_snr(sde, t))(solver.ts[1:])


def _no_change(solver: Solver, sde: SDE) -> Change:
    levels = _levels(solver, sde)
    return Change(levels[0], jnp.log(jnp.diff(levels)), jnp.zeros_like(solver.weights))


def _changed(solver: Solver, sde: SDE, change: Change) -> Solver:
    """The solver with the learned times, none of them below t_min, and weights of the same sums."""
    levels = jnp.cumsum(jnp.append(change.level, jnp.exp(change.log_gaps)))
    levels = jnp.minimum(levels, log_snr(sde, jnp.asarray(sde.t_min, levels.dtype)))
    ts = jnp.append(solver.ts[0], jax.vmap(sde.time_of_log_snr)(levels))
    lower = jnp.tril(jnp.ones_like(change.weights))
    free = lower * change.weights
    free = free - lower * jnp.mean(free, axis=1, keepdims=True, where=lower > 0)
    return Solver(ts, solver.weights + free)
