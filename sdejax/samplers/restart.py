"""Restart sampling: Heun steps down the grid, with jumps back up on chosen intervals.

When a run reaches the level r_low it is noised up to r_high by the forward process, in y = x/alpha

    y + sqrt(r_high^2 - r_low^2) S_noise z,

and brought down again by Heun's method for the probability-flow ODE, K times over. The jump keeps
the marginals exactly and contracts the errors made so far; the ODE in between makes few of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from sdejax import grids
from sdejax.samplers.base import Method, Stats, finite, in_float64, require_steps
from sdejax.samplers.heun import HeunRow, heun_rows, heun_step
from sdejax.samplers.levels import noise_levels, require_level
from sdejax.sde import SDE
from sdejax.types import Time, Times


class Interval(NamedTuple):
    """Where to restart: ``repeats`` times from level ``low`` up to ``high``, down in ``steps``."""

    repeats: int
    steps: int
    low: float
    high: float


def restart(
    intervals: Sequence[Interval | tuple[int, int, float, float]],
    steps: int = 18,
    grid: grids.Grid = grids.karras,
    *,
    noise: float = 1.0,
    denoise: bool = True,
    rho: float = 7.0,
) -> Method:
    """Restart sampling by Heun's method, for any process.

    The level ``low`` of an interval is taken as the nearest level of the grid, as the paper's code
    has it; its steps back down are equal in r^(1/rho). Evaluations are 2 (steps + sum of
    repeats x steps over the intervals), plus 1 for denoising. The paper counts the *levels* of a
    pass and of the grid with its final 0: its N_main = 18 and {N_Restart = 3, K = 2, t_min = 0.06,
    t_max = 0.3} are here ``restart([(2, 2, 0.06, 0.3)], 17)``, of 43 evaluations. The steps of a
    pass do not grow with those of the grid: to converge takes more of both.

    Args:
        intervals: ``Interval`` or (repeats, steps, low, high) each, levels sigma/alpha in units of
            the data.
        steps: number of steps of the grid.
        grid: where they are.
        noise: S_noise, the standard deviation of the jumps' noise (1.003 in the paper's runs).
        denoise: end with a denoising step, one more evaluation.
        rho: spacing of the steps within an interval.

    Returns:
        The method; it refuses alpha = 0, intervals above r at t_max, and those whose nearest level
        of the grid is not below ``high``.

    Raises:
        ValueError: for less than one step, a repeat below 1, levels not 0 < low < high, or a
            noise or rho that is not positive.

    Reference: Xu et al. 2023, arXiv:2306.14878, algorithm 2 and section 3.1.
    """
    require_steps(steps)
    jumps = sorted((Interval(*interval) for interval in intervals), key=lambda jump: -jump.low)
    for jump in jumps:
        if jump.repeats < 1 or jump.steps < 1 or not 0.0 < jump.low < jump.high < math.inf:
            raise ValueError(
                f"restart: got the interval {tuple(jump)}; expected (repeats, steps, low, high) "
                "with repeats >= 1, steps >= 1 and finite levels 0 < low < high"
            )
    for name, value in (("noise", noise), ("rho", rho)):
        if not 0.0 < value < math.inf:
            raise ValueError(f"restart: got {name}={value}; expected a positive number")

    total = steps + sum(jump.repeats * jump.steps for jump in jumps)

    def run(key, sde, denoiser, x):
        ts = in_float64(lambda s: grid(s, steps), x.dtype, sde)
        rows = in_float64(lambda s, ts: _rows(s, ts, jumps, noise, rho), x.dtype, sde, ts)

        def advance(x, inputs):
            index, row = inputs
            return heun_step(denoiser, jax.random.fold_in(key, index), x, row), None

        last, _ = jax.lax.scan(advance, x, (jnp.arange(total), rows))
        out = denoiser(last, ts[-1]).x0 if denoise else last
        nfe = jnp.asarray(2 * total + denoise, jnp.int32)
        return out, Stats(nfe, jnp.maximum(finite(last), finite(out)))

    def require(sde: SDE, t: Time) -> None:
        require_level("restart", sde, t)
        ts = grid(sde, steps)
        levels = noise_levels(sde, ts)
        if isinstance(levels, jax.core.Tracer):
            return
        for jump in jumps:
            low, highest = float(levels[_nearest(levels, jump)]), float(levels[0])
            # The grid's first level is rounded; an interval that ends there is meant to fit.
            if not (low < jump.high <= highest * (1.0 + 1e-5)):
                raise ValueError(
                    f"restart: got the interval {tuple(jump)} for levels from {highest:.4g} down, "
                    f"of which {low:.4g} is nearest to its low; expected low < high <= "
                    f"{highest:.4g}: use more steps or another interval"
                )

    return Method(run, require)


def _nearest(levels: Times, jump: Interval) -> Int[Array, ""]:
    """Index of the grid's level nearest to the interval's low; not the first, never stepped to."""
    # By counting midpoints above it: argmin does not lower in float64 while that is off outside.
    return jnp.maximum(jnp.sum(0.5 * (levels[:-1] + levels[1:]) > jump.low), 1)


def _rows(sde: SDE, ts: Times, jumps: list[Interval], noise: float, rho: float) -> HeunRow:
    """The steps of the grid and of all passes in the order of the run, as Heun rows.

    A pass is ``jump.steps`` rows whose first one raises the level. Its place among the steps of the
    grid depends on the process, which may be traced; its shape does not.
    """
    levels = noise_levels(sde, ts)
    main = jnp.arange(ts.shape[0] - 1)
    starts, raised, ends = [ts[:-1]], [jnp.zeros_like(ts[1:])], [ts[1:]]
    before, places, shift = 0, [], jnp.zeros_like(main)
    for jump in jumps:  # from high to low, so those before come first
        index, size = _nearest(levels, jump), jump.repeats * jump.steps
        low, high = levels[index], jnp.minimum(jump.high, levels[0])
        r = jnp.linspace(high ** (1.0 / rho), low ** (1.0 / rho), jump.steps + 1) ** rho
        times = jax.vmap(sde.time_of_log_snr)(-2.0 * jnp.log(r)).at[-1].set(ts[index])
        starts += [times[:-1].at[0].set(ts[index])] * jump.repeats
        raised += [jnp.zeros_like(r[1:]).at[0].set(high)] * jump.repeats
        ends += [times[1:]] * jump.repeats
        places.append(index + before + jnp.arange(size))
        shift = shift + jnp.where(main >= index, size, 0)
        before += size
    rows = heun_rows(
        sde, jnp.concatenate(starts), jnp.concatenate(raised), jnp.concatenate(ends), noise
    )
    order = jnp.concatenate([main + shift, *places])
    return jax.tree.map(lambda leaf: jnp.zeros_like(leaf).at[order].set(leaf), rows)
