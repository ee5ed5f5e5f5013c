"""Sampling by diffrax: any of its solvers, on a fixed grid or with adaptive steps per example.

``solve_ode`` integrates the probability-flow ODE in t; ``solve_sde`` a reverse process in
tau = t_max - t, since diffrax integrates SDEs forward only. The noise of a reverse process is
additive, so the solvers of Foster et al. for additive noise (ShARK, SRA1) keep their order.
Nothing is raised inside the solve: running out of steps or meeting a NaN is a result code.
"""

from __future__ import annotations

from typing import Any

import diffrax as dfx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sdejax import grids
from sdejax.dynamics import Noise, ode_term, require_finite_noise, sde_term
from sdejax.prediction import Denoiser
from sdejax.samplers.base import (
    MAX_STEPS,
    SUCCESS,
    Method,
    Stats,
    finite,
    in_float64,
    require_steps,
)
from sdejax.samplers.solvers import LEVY_AREAS, evaluations
from sdejax.sde import SDE, diffusion
from sdejax.types import Data, Key, Times


def solve_ode(
    sde: SDE,
    denoiser: Denoiser,
    x: Data,
    *,
    solver: dfx.AbstractSolver | None = None,
    controller: dfx.AbstractStepSizeController | None = None,
    ts: Times | None = None,
    max_steps: int = 4096,
    save_at: Float[Array, " m"] | None = None,
    denoise: bool = True,
    adjoint: dfx.AbstractAdjoint | None = None,
) -> tuple[Data, Stats]:
    """The probability-flow ODE from noise to data, for one example.

    Args:
        sde: the process.
        denoiser: (x, t) -> ``Estimate``.
        x: state at t_max (or ``ts[0]``), [*event].
        solver: a diffrax ODE solver, by default ``Tsit5``.
        controller: adaptive step sizes, by default ``PIDController(rtol=1e-5, atol=1e-5)``; each
            example of a ``vmap`` chooses its own steps.
        ts: [n + 1] decreasing times of a fixed grid, instead of a controller.
        max_steps: most steps, rejected ones included.
        save_at: decreasing times between the ends at which to keep the interpolated state.
        denoise: end with x0 as estimated at t_min, one more evaluation.
        adjoint: how diffrax differentiates the solve, by default by recursive checkpoints.

    Returns:
        x [*event] and ``Stats``; ``stats.saved`` is [m, *event] where save_at was given.

    Raises:
        ValueError: if both ``controller`` and ``ts`` are given.

    Reference: Song et al. 2021, arXiv:2011.13456, eq. 13; Kidger 2022, arXiv:2202.02435.
    """
    if controller is None:
        controller = dfx.PIDController(rtol=1e-5, atol=1e-5) if ts is None else None
    start, end = (sde.t_max, sde.t_min) if ts is None else (ts[0], ts[-1])
    return _solve(
        ode_term(sde, denoiser),
        solver or dfx.Tsit5(),
        _controller(controller, ts, x.dtype),
        (jnp.asarray(start, x.dtype), jnp.asarray(end, x.dtype)),
        x,
        max_steps if ts is None else ts.shape[0] - 1,
        None if save_at is None else save_at.astype(x.dtype),
        denoiser if denoise else None,
        jnp.asarray(end, x.dtype),
        adjoint or dfx.RecursiveCheckpointAdjoint(),
    )


def solve_sde(
    key: Key,
    sde: SDE,
    denoiser: Denoiser,
    x: Data,
    *,
    solver: dfx.AbstractSolver | None = None,
    controller: dfx.AbstractStepSizeController | None = None,
    ts: Times | None = None,
    noise: Noise = diffusion,
    path: dfx.AbstractBrownianPath | None = None,
    max_steps: int = 4096,
    save_at: Float[Array, " m"] | None = None,
    denoise: bool = True,
) -> tuple[Data, Stats]:
    """A reverse process from noise to data, for one example.

    Args:
        key: the example's key, of its Brownian path.
        sde: the process.
        denoiser: (x, t) -> ``Estimate``.
        x: state at t_max (or ``ts[0]``), [*event].
        solver: a diffrax SDE solver, by default ``ShARK`` (strong order 1.5, two evaluations).
        controller: adaptive step sizes, by default ``PIDController(rtol=1e-2, atol=1e-2)``.
        ts: [n + 1] decreasing times of a fixed grid, instead of a controller.
        noise: w(t), by default g(t), the reverse SDE.
        path: Brownian motion in tau = t_max - t, by default drawn from ``key``: an
            ``UnsafeBrownianPath`` on a grid, a ``VirtualBrownianTree`` with adaptive steps.
        max_steps: most steps, rejected ones included.
        save_at: decreasing times between the ends at which to keep the interpolated state.
        denoise: end with x0 as estimated at t_min, one more evaluation.

    Returns:
        x [*event] and ``Stats``; ``stats.saved`` is [m, *event] where save_at was given.

    Raises:
        ValueError: if both ``controller`` and ``ts`` are given.

    Reference: Song et al. 2021, arXiv:2011.13456, eq. 6; Foster et al. 2023, arXiv:2310.06926.
    """
    solver = solver or dfx.ShARK()
    if controller is None:
        controller = dfx.PIDController(rtol=1e-2, atol=1e-2) if ts is None else None
    last = jnp.asarray(sde.t_max, x.dtype)
    taus = None if ts is None else last - ts.astype(x.dtype)
    end = jnp.asarray(sde.t_min if ts is None else ts[-1], x.dtype)
    span = (jnp.zeros_like(last), last - end) if taus is None else (taus[0], taus[-1])
    if path is None:
        area = LEVY_AREAS[getattr(solver, "minimal_levy_area", dfx.AbstractBrownianIncrement)]
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        if taus is None:
            # The tree interpolates below this; a finer one costs a little more a step.
            resolution = (span[1] - span[0]) * 2.0**-20
            path = dfx.VirtualBrownianTree(*span, resolution, shape, key, levy_area=area)
        else:
            path = dfx.UnsafeBrownianPath(shape, key, levy_area=area)
    return _solve(
        sde_term(sde, denoiser, noise, path),
        solver,
        _controller(controller, taus, x.dtype),
        span,
        x,
        max_steps if taus is None else taus.shape[0] - 1,
        None if save_at is None else last - save_at.astype(x.dtype),
        denoiser if denoise else None,
        end,
        dfx.DirectAdjoint() if taus is not None else dfx.RecursiveCheckpointAdjoint(),
    )


def ode(
    solver: dfx.AbstractSolver | None = None,
    steps: int | None = None,
    grid: grids.Grid = grids.uniform,
    **options: Any,
) -> Method:
    """The probability-flow ODE by diffrax: a grid of ``steps``, or adaptive where none are given.

    Args:
        solver: a diffrax ODE solver, by default ``Tsit5``.
        steps: number of steps of a fixed grid; None for adaptive steps.
        grid: where fixed steps are.
        **options: further arguments of ``solve_ode``.

    Returns:
        The method.

    Raises:
        ValueError: for less than one step.
    """

    def run(key, sde, denoiser, x):
        ts = None if steps is None else in_float64(lambda s: grid(s, steps), x.dtype, sde)
        return solve_ode(sde, denoiser, x, solver=solver, ts=ts, **options)

    def require(sde, t):
        if steps is not None:
            grid(sde, steps)  # a grid refuses a process on which it is not finite

    require_steps(steps)
    return Method(run, require)


def reverse_sde(
    solver: dfx.AbstractSolver | None = None,
    steps: int | None = None,
    grid: grids.Grid = grids.uniform,
    noise: Noise = diffusion,
    **options: Any,
) -> Method:
    """A reverse process by diffrax: a grid of ``steps``, or adaptive where none are given.

    Args:
        solver: a diffrax SDE solver, by default ``ShARK``.
        steps: number of steps of a fixed grid; None for adaptive steps.
        grid: where fixed steps are.
        noise: w(t), by default g(t).
        **options: further arguments of ``solve_sde``.

    Returns:
        The method.

    Raises:
        ValueError: for less than one step.
    """

    def run(key, sde, denoiser, x):
        ts = None if steps is None else in_float64(lambda s: grid(s, steps), x.dtype, sde)
        return solve_sde(key, sde, denoiser, x, solver=solver, ts=ts, noise=noise, **options)

    def require(sde, t):
        require_finite_noise(noise, sde, t)
        if steps is not None:
            taus = jnp.asarray(sde.t_max) - grid(sde, steps)
            if not jnp.all(jnp.diff(taus) > 0):
                raise ValueError(
                    f"steps: got {steps}, too fine for the working precision: some of the times "
                    "t_max - t coincide; use fewer steps or float64"
                )

    require_steps(steps)
    return Method(run, require)


def _controller(controller: Any, ts: Times | None, dtype: Any) -> dfx.AbstractStepSizeController:
    """The given controller, or the given grid as one."""
    if controller is None and ts is not None:
        return dfx.StepTo(ts.astype(dtype))
    if ts is not None:
        raise ValueError(
            f"got both a controller ({type(controller).__name__}) and a grid ts of {ts.shape[0]} "
            "times; give ts for fixed steps or a controller for adaptive ones"
        )
    return controller


def _solve(term, solver, controller, span, x, max_steps, save_at, denoiser, t_end, adjoint):
    """diffrax's solve with our report: evaluations, result code, saved states."""
    adaptive = not isinstance(controller, dfx.StepTo)
    saves = [dfx.SubSaveAt(t1=True)]
    if save_at is not None:
        saves.append(dfx.SubSaveAt(ts=save_at))
    solution = dfx.diffeqsolve(
        term,
        solver,
        *span,
        # A given first step, so that no evaluation is spent on choosing it.
        0.01 * (span[1] - span[0]) if adaptive else None,
        x,
        saveat=dfx.SaveAt(subs=saves),
        stepsize_controller=controller,
        max_steps=max_steps,
        adjoint=adjoint,
        throw=False,
    )
    out = solution.ys[0][0]
    per_step, at_start = evaluations(solver)
    nfe = jnp.asarray(per_step * solution.stats["num_steps"] + at_start, jnp.int32)
    if denoiser is not None:
        out, nfe = denoiser(out, t_end).x0, nfe + 1
    done = solution.result == dfx.RESULTS.successful
    # A NaN makes adaptive steps be rejected until they run out: NOT_FINITE is the cause.
    result = jnp.maximum(finite(out), jnp.where(done, SUCCESS, MAX_STEPS))
    return out, Stats(nfe, result, None if save_at is None else solution.ys[1])
