"""Sampling by diffrax: any of its ODE solvers, on a fixed grid or with adaptive steps per example.

``solve_ode`` integrates the probability-flow ODE in the coordinates asked for: in noise or data
coordinates its linear part is solved exactly, so that Euler's method is DDIM and every other
solver its higher-order relative (an exponential integrator). ``solve_sde`` is its companion for
reverse processes.
"""

from __future__ import annotations

from typing import Any

import diffrax as dfx
from jaxtyping import Array, Float

from sdejax import coordinates, grids
from sdejax.coordinates import Coordinates, require_ends
from sdejax.dynamics import ode_term
from sdejax.prediction import Denoiser
from sdejax.samplers.base import Method, Stats, in_float64, require_steps
from sdejax.samplers.diffeq_sde import reverse_sde, solve_sde
from sdejax.samplers.solvers import adaptive_or_grid, integrate, route
from sdejax.sde import SDE
from sdejax.types import Data, Times

__all__ = ["ode", "reverse_sde", "solve_ode", "solve_sde"]


def solve_ode(
    sde: SDE,
    denoiser: Denoiser,
    x: Data,
    *,
    solver: dfx.AbstractSolver | None = None,
    controller: dfx.AbstractStepSizeController | None = None,
    ts: Times | None = None,
    coordinates: Coordinates = coordinates.native,
    max_steps: int = 4096,
    save_at: Float[Array, " m"] | None = None,
    denoise: bool = True,
    adjoint: dfx.AbstractAdjoint | None = None,
) -> tuple[Data, Stats]:
    """The probability-flow ODE from noise to data, ``dy/du = a x0 + b eps``, for one example.

    Args:
        sde: the process.
        denoiser: (x, t) -> ``Estimate``.
        x: state at t_max (or ``ts[0]``), [*event].
        solver: a diffrax ODE solver, by default ``Tsit5``.
        controller: adaptive step sizes, by default ``PIDController(rtol=1e-5, atol=1e-5)``; each
            example of a ``vmap`` chooses its own steps. Tolerances are those of y = x/scale.
        ts: [n + 1] decreasing times of a fixed grid, instead of a controller.
        coordinates: of the integration (``sdejax.coordinates``): ``native`` t, ``noise`` (x/alpha
            over sigma/alpha), ``data`` (x/sigma over alpha/sigma), ``log_noise``, ``log_data``.
            Times and states of this function are native ones in all of them.
        max_steps: most steps, rejected ones included.
        save_at: decreasing times between the ends at which to keep the interpolated state.
        denoise: end with x0 as estimated at t_min, one more evaluation.
        adjoint: how diffrax differentiates the solve, by default by recursive checkpoints.

    Returns:
        x [*event] and ``Stats``; ``stats.saved`` is [m, *event] where save_at was given.

    Raises:
        ValueError: if both ``controller`` and ``ts`` are given, or for coordinates that are not
            finite at an end: noise at alpha = 0, data at sigma = 0, the logarithmic ones at both.

    Reference: Song et al. 2021, arXiv:2011.13456, eq. 13; Lu et al. 2022, arXiv:2206.00927, eq. 9;
    Kidger 2022, arXiv:2202.02435.
    """
    controller = adaptive_or_grid(controller, ts, 1e-5)
    ends = (sde.t_max, sde.t_min) if ts is None else (ts[0], ts[-1])
    require_ends(coordinates, coordinates.flow, sde, *ends)
    return integrate(
        ode_term(sde, denoiser, coordinates),
        solver or dfx.Tsit5(),
        controller,
        route(coordinates.flow, sde, x.dtype, ts, save_at),
        x,
        max_steps,
        denoiser if denoise else None,
        adjoint or dfx.RecursiveCheckpointAdjoint(),
    )


def ode(
    solver: dfx.AbstractSolver | None = None,
    steps: int | None = None,
    grid: grids.Grid = grids.uniform,
    coordinates: Coordinates = coordinates.native,
    **options: Any,
) -> Method:
    """The probability-flow ODE by diffrax: a grid of ``steps``, or adaptive where none are given.

    Args:
        solver: a diffrax ODE solver, by default ``Tsit5``.
        steps: number of steps of a fixed grid; None for adaptive steps.
        grid: where fixed steps are.
        coordinates: of the integration (see ``solve_ode``).
        **options: further arguments of ``solve_ode``.

    Returns:
        The method.

    Raises:
        ValueError: for less than one step; by ``make_sampler``'s function, for coordinates that
            are not finite at an end.
    """

    def run(key, sde, denoiser, x):
        ts = None if steps is None else in_float64(lambda s: grid(s, steps), x.dtype, sde)
        return solve_ode(sde, denoiser, x, solver=solver, ts=ts, coordinates=coordinates, **options)

    def require(sde, t):
        require_ends(coordinates, coordinates.flow, sde, t, sde.t_min)
        if steps is not None:
            grid(sde, steps)  # a grid refuses a process on which it is not finite

    require_steps(steps)
    return Method(run, require)
