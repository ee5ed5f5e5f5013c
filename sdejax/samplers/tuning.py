"""Grids fitted to a sampler and a network, by gradients through the sampler.

The error of n steps is the mean square distance of their results from those of an accurate solve of
the same prior states, and the grid is what is free in it:

    t_i = t_min + (t_max - t_min) sum_{j >= i} p_j,    p = softmax(theta),  j = 0..n,

so the times decrease from t_max whatever theta is. p_j are the lengths of the steps, and theta,
their logarithms, serves any process, also one that starts at alpha = 0. The last, p_n, is where the
grid ends above t_min: the denoising step goes from there to the data, and with few steps that is
better done from further away.

The chain rule is taken in two parts: the rows of a sampler by theta forward and in float64, where
they are made, and the error by the rows backward in the working precision.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float
from tqdm import tqdm

from sdejax import grids
from sdejax.prediction import Denoiser
from sdejax.samplers.base import Sampler, in_float64, require_steps, sample
from sdejax.sde import SDE
from sdejax.types import Key, Scalar, Times

LAST = 0.1  # how far above t_min the first guess ends, in units of its last step


def optimize_grid(
    key: Key,
    sampler: Sampler,
    sde: SDE,
    denoiser: Denoiser,
    x: Float[Array, "m *event"],
    targets: Float[Array, "..."],
    steps: int,
    *,
    init: grids.Grid = grids.karras,
    iterations: int = 400,
    learning_rate: float = 0.1,
    batch: int = 256,
    progress: bool = False,
) -> Times:
    """The times of ``steps`` steps at which a sampler comes closest to accurate solutions.

    Minimises mean |sample(x_i) - target_i|^2 by Adam with a cosine schedule, on random batches, and
    keeps the result only where it is better than ``init`` on all of the pairs. One compilation; an
    iteration costs about three times the sampling of a batch. Judge the grid on other pairs.

    Args:
        key: of the batches, and of what the sampler draws; a sampler without noise of its own is
            meant, since targets are paired with prior states.
        sampler: e.g. ``ddim()``; run with its denoising step.
        sde: the process.
        denoiser: (x, t) -> ``Estimate``.
        x: prior states at t_max [m, *event].
        targets: the data that accurate solutions from x end on [m, *event], e.g. of
            ``truth.reference`` or ``solve_ode``, with a denoising step.
        steps: n, the number of steps; n + 1 evaluations with the denoising step.
        init: the grid to start from.
        iterations: number of Adam's steps.
        learning_rate: of Adam at the start; theta are logarithms, so 0.1 is a tenth of a step.
        batch: examples an iteration.
        progress: show a bar.

    Returns:
        ts [steps + 1] decreasing from t_max; ``grids.from_times(ts)`` makes a grid of them.

    Raises:
        ValueError: for less than one step or iteration, for shapes of x and targets that differ,
            and for a grid ``init`` that the process does not have (use ``grids.uniform`` where the
            log-SNR at t_max is infinite).

    Reference: Watson et al. 2022, arXiv:2202.05830; Sabour et al. 2024, arXiv:2404.14507; Tong et
    al. 2024, arXiv:2405.15506.
    """
    require_steps(steps)
    if iterations < 1:
        raise ValueError(f"iterations: got {iterations}; expected at least 1")
    if x.shape != targets.shape:
        raise ValueError(
            f"targets: got shape {targets.shape} for x of shape {x.shape}; expected the same"
        )
    start = in_float64(lambda s: init(s, steps), x.dtype, sde)
    theta = jnp.log(_lengths(start))
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, iterations))
    size = min(batch, x.shape[0])

    def plan_and_slope(sde, theta):
        def plan(theta):
            ts = _times(sde, theta)
            rows = jax.tree.map(lambda row: row.astype(ts.dtype), sampler.prepare(sde, ts))
            return rows, ts

        return plan(theta), jax.jacfwd(plan)(theta)

    @jax.jit
    def improve(theta, state, index, pairs):
        pick_key, noise_key = jax.random.split(jax.random.fold_in(key, index))
        chosen = jax.random.choice(pick_key, x.shape[0], (size,), replace=False)

        def loss(plan):
            rows, ts = plan
            ready = sampler._replace(prepare=lambda sde, ts: rows)
            x, targets = (leaf[chosen] for leaf in pairs)
            return _error(noise_key, ready, sde, denoiser, x, targets, ts, size)

        plan, by_theta = in_float64(plan_and_slope, x.dtype, sde, theta)
        value, by_plan = jax.value_and_grad(loss)(plan)
        parts = jax.tree.map(lambda g, j: jnp.tensordot(g, j, g.ndim), by_plan, by_theta)
        slope = sum(jax.tree.leaves(parts), jnp.zeros_like(theta))
        change, state = optimizer.update(slope, state)
        return optax.apply_updates(theta, change), state, value

    state, pairs = optimizer.init(theta), (x, targets)
    with tqdm(total=iterations, desc=f"grid of {steps} steps", disable=not progress) as bar:
        for index in range(iterations):
            theta, state, value = improve(theta, state, index, pairs)
            if progress:
                bar.set_postfix(rms=f"{float(value) ** 0.5:.2e}")
            bar.update()
    found = _times(sde, theta)
    judge = jax.jit(lambda ts: _error(key, sampler, sde, denoiser, x, targets, ts, size))
    return jnp.where(judge(found) < judge(start), found, start)


def _error(key, sampler, sde, denoiser, x, targets, ts, batch) -> Scalar:
    """The mean square error of an entry, with so many examples in memory at once."""

    def one(pair):
        index, x = pair
        return sample(jax.random.fold_in(key, index), sampler, sde, denoiser, x, ts)[0]

    found = jax.lax.map(one, (jnp.arange(x.shape[0]), x), batch_size=batch)
    return jnp.mean((found - targets) ** 2)


def _lengths(ts: Times) -> Float[Array, " n"]:
    """p of a grid up to a factor; it is made to end a little above t_min."""
    steps = ts[:-1] - ts[1:]
    return jnp.append(steps, LAST * steps[-1])


def _times(sde: SDE, theta: Float[Array, " n"]) -> Times:
    """The times of theta, t_max first."""
    above = jnp.cumsum(jax.nn.softmax(theta)[::-1])[::-1]
    t_min, t_max = (jnp.asarray(end, theta.dtype) for end in (sde.t_min, sde.t_max))
    return (t_min + (t_max - t_min) * above).at[0].set(t_max)
