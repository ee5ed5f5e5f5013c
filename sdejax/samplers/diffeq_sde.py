"""Reverse processes by diffrax: any of its SDE solvers, fixed or adaptive steps per example.

A reverse process is integrated forward in the step variable of its coordinates (tau = t_max - t in
native ones), since diffrax integrates SDEs forward only. Its noise is additive, so the solvers of
Foster et al. for additive noise (ShARK, SRA1) keep their order. In noise and data coordinates the
linear part and, for w = g, the noise are solved exactly: Euler-Maruyama in data coordinates is
DDPM's ancestral sampling.
"""

from __future__ import annotations

from typing import Any

import diffrax as dfx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sdejax import coordinates, grids
from sdejax.coordinates import Coordinates, require_ends
from sdejax.dynamics import Noise, require_finite_noise, require_noise, sde_term
from sdejax.prediction import Denoiser
from sdejax.samplers.base import Method, Stats, in_float64, require_steps
from sdejax.samplers.brownian import brownian_path
from sdejax.samplers.solvers import adaptive_or_grid, integrate, route
from sdejax.sde import SDE, diffusion
from sdejax.types import Data, Key, Times


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
    coordinates: Coordinates = coordinates.native,
    path: dfx.AbstractBrownianPath | None = None,
    max_steps: int = 4096,
    save_at: Float[Array, " m"] | None = None,
    denoise: bool = True,
) -> tuple[Data, Stats]:
    """A reverse process from noise to data, ``dy = (a x0 + b eps) du + k dW_u``, for one example.

    Args:
        key: the example's key, of its Brownian path.
        sde: the process.
        denoiser: (x, t) -> ``Estimate``.
        x: state at t_max (or ``ts[0]``), [*event].
        solver: a diffrax SDE solver, by default ``ShARK`` (strong order 1.5, two evaluations).
        controller: adaptive step sizes, by default ``PIDController(rtol=1e-2, atol=1e-2)``.
        ts: [n + 1] decreasing times of a fixed grid, instead of a controller.
        noise: w(t), by default g(t), the reverse SDE.
        coordinates: of the integration (``sdejax.coordinates``): ``native``, ``noise``,
            ``log_noise``, and for w = g alone ``data`` and ``log_data``. Times and states of this
            function are native ones in all of them.
        path: Brownian motion in the step variable u (tau = t_max - t in native coordinates), by
            default drawn from ``key``: an ``UnsafeBrownianPath`` on a grid, a
            ``VirtualBrownianTree`` with adaptive steps.
        max_steps: most steps, rejected ones included.
        save_at: decreasing times between the ends at which to keep the interpolated state.
        denoise: end with x0 as estimated at t_min, one more evaluation.

    Returns:
        x [*event] and ``Stats``; ``stats.saved`` is [m, *event] where save_at was given.

    Raises:
        ValueError: if both ``controller`` and ``ts`` are given, for a noise that the coordinates do
            not serve, or for coordinates that are not finite at an end (alpha = 0 or sigma = 0).

    Reference: Song et al. 2021, arXiv:2011.13456, eq. 6; Foster et al. 2023, arXiv:2310.06926;
    Lu et al. 2022, arXiv:2211.01095, appendix B (data coordinates).
    """
    frame, solver = coordinates.reverse, solver or dfx.ShARK()
    controller = adaptive_or_grid(controller, ts, 1e-2)
    ends = (sde.t_max, sde.t_min) if ts is None else (ts[0], ts[-1])
    require_ends(coordinates, frame, sde, *ends)
    way = route(frame, sde, x.dtype, ts, save_at)
    if path is None:
        path = brownian_path(key, frame, way, solver, jax.ShapeDtypeStruct(x.shape, x.dtype))
    return integrate(
        sde_term(sde, denoiser, noise, path, coordinates),
        solver,
        controller,
        way,
        x,
        max_steps,
        denoiser if denoise else None,
        dfx.DirectAdjoint() if way.fixed else dfx.RecursiveCheckpointAdjoint(),
    )


def reverse_sde(
    solver: dfx.AbstractSolver | None = None,
    steps: int | None = None,
    grid: grids.Grid = grids.uniform,
    noise: Noise = diffusion,
    coordinates: Coordinates = coordinates.native,
    **options: Any,
) -> Method:
    """A reverse process by diffrax: a grid of ``steps``, or adaptive where none are given.

    Args:
        solver: a diffrax SDE solver, by default ``ShARK``.
        steps: number of steps of a fixed grid; None for adaptive steps.
        grid: where fixed steps are.
        noise: w(t), by default g(t).
        coordinates: of the integration (see ``solve_sde``).
        **options: further arguments of ``solve_sde``.

    Returns:
        The method.

    Raises:
        ValueError: for less than one step, or a noise that the coordinates do not serve; by
            ``make_sampler``'s function, where w, the coordinates or the grid are not finite.
    """

    def run(key, sde, denoiser, x):
        ts = None if steps is None else in_float64(lambda s: grid(s, steps), x.dtype, sde)
        return solve_sde(
            key, sde, denoiser, x, solver=solver, ts=ts, noise=noise, coordinates=coordinates,
            **options,
        )  # fmt: skip

    def require(sde, t):
        require_finite_noise(noise, sde, t)
        require_ends(coordinates, coordinates.reverse, sde, t, sde.t_min)
        if steps is not None:
            ts = grid(sde, steps)
            if not jnp.all(jnp.diff(route(coordinates.reverse, sde, ts.dtype, ts, None).us) > 0):
                variable = {"native": "t_max - t"}.get(coordinates.name, "the step variable")
                raise ValueError(
                    f"steps: got {steps}, too fine for the working precision: some of the times "
                    f"{variable} coincide; use fewer steps or float64"
                )

    require_steps(steps)
    require_noise(coordinates, noise)
    return Method(run, require)
