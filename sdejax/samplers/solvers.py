"""What the library knows of diffrax's solvers: names, noise they need, what a step costs.

``route`` maps times to the step variable of some coordinates, once and in float64; ``integrate`` is
one call of diffrax along a route, with our report. Nothing is raised inside the solve: running out
of steps or meeting a NaN is a result code. diffrax would reject and shorten a step that meets a NaN
until it ran out of steps; ``Halting`` ends the solve where shortening no longer helps.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import diffrax as dfx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from sdejax import grids
from sdejax.coordinates import Frame
from sdejax.prediction import Denoiser
from sdejax.samplers.base import MAX_STEPS, NOT_FINITE, SUCCESS, Stats, finite, in_float64
from sdejax.sde import SDE, coefficients
from sdejax.types import Data, Scalar, Times

# What a solver asks of its Brownian path -> what the path has to be made with.
LEVY_AREAS: dict[Any, Any] = {
    dfx.AbstractBrownianIncrement: dfx.BrownianIncrement,
    dfx.AbstractSpaceTimeLevyArea: dfx.SpaceTimeLevyArea,
    dfx.AbstractSpaceTimeTimeLevyArea: dfx.SpaceTimeTimeLevyArea,
}

SHORTEST = 1e-7  # of the whole way: a step that meets a NaN there would meet it if it were shorter
BROKEN = dfx.RESULTS.nonlinear_divergence  # which explicit solvers never give themselves

# The solvers that commands and configs name.
SOLVERS = {
    "euler": dfx.Euler,
    "tsit5": dfx.Tsit5,
    "dopri5": dfx.Dopri5,
    "dopri8": dfx.Dopri8,
    "shark": dfx.ShARK,
    "sra1": dfx.SRA1,
}


def evaluations(solver: dfx.AbstractSolver) -> tuple[int, int]:
    """Evaluations of the vector field by a diffrax solver.

    Args:
        solver: an explicit solver.

    Returns:
        Evaluations a step, and those at the start of a solve: 1 where the last stage of a step is
        the first of the next.

    Raises:
        ValueError: for an implicit solver, whose evaluations depend on its root finder, and for
            one that wraps another.
    """
    if hasattr(solver, "root_finder") or isinstance(solver, dfx.AbstractWrappedSolver):
        raise ValueError(
            f"solver: got the implicit or wrapped {type(solver).__name__}; expected an explicit "
            "one (Euler, Heun, Tsit5, Dopri8, ...), whose evaluations can be counted"
        )
    tableau = getattr(solver, "tableau", None)
    if tableau is None:
        return 1, int(isinstance(solver, dfx.ReversibleHeun))
    first_same_as_last = getattr(tableau, "fsal", False)
    # Some stages of stochastic solvers (GeneralShARK, SlowRK) have noise only.
    ignored = getattr(tableau, "ignore_stage_f", None)
    skipped = 0 if ignored is None else sum(map(bool, ignored))
    return len(tableau.b_sol) - skipped - first_same_as_last, int(first_same_as_last)


class Route(NamedTuple):
    """Where a solve goes: times, their step variables u and scales S of the state."""

    us: Float[Array, " n"]  # the grid, or its two ends
    fixed: bool  # whether ``us`` is a grid to be stepped through
    first: Scalar  # the first step of an adaptive solve, in u
    scales: tuple[Scalar, Scalar]  # S at the start and at the end
    end: Scalar  # the last time
    save_us: Float[Array, " m"] | None
    save_scales: Float[Array, " m"] | None


def route(
    frame: Frame,
    sde: SDE,
    dtype: Any,
    ts: Times | None,
    save_at: Float[Array, " m"] | None,
) -> Route:
    """Maps times to step variables, in float64.

    Args:
        frame: the coordinates of an equation.
        sde: the process.
        dtype: floating dtype of the state.
        ts: decreasing times of a fixed grid, or None for adaptive steps from t_max to t_min.
        save_at: times at which to keep the state.

    Returns:
        The route.
    """
    first_last = (sde.t_max, sde.t_min) if ts is None else (ts[0], ts[-1])
    ends = jnp.stack([jnp.asarray(t, dtype) for t in first_last])
    grid = ends if ts is None else jnp.asarray(ts, dtype)
    saves = jnp.zeros((0,), dtype) if save_at is None else jnp.asarray(save_at, dtype)

    def mapped(sde, grid, ends, saves):
        def u(times):
            return jax.vmap(lambda t: frame.variable(sde, t))(times)

        def scale(times):
            return jax.vmap(lambda t: frame.scale(coefficients(sde, t)))(times)

        # A given first step, so that no evaluation is spent on choosing it.
        early = u(jnp.stack([ends[0], 0.99 * ends[0] + 0.01 * ends[1]]))
        return u(grid), early[1] - early[0], scale(ends), u(saves), scale(saves)

    us, first, scales, save_us, save_scales = in_float64(mapped, dtype, sde, grid, ends, saves)
    kept = (None, None) if save_at is None else (save_us, save_scales)
    return Route(us, ts is not None, first, (scales[0], scales[1]), ends[1], *kept)


class Halting(dfx.AbstractAdaptiveStepSizeController):
    """A controller that ends the solve where no step helps.

    That is where the state is not finite, or even the shortest steps meet what is not.
    """

    inner: Any  # the controller
    shortest: Scalar  # length of a step, in u
    rtol: Any
    atol: Any
    norm: Any

    def __init__(self, inner: Any, shortest: Scalar) -> None:
        self.inner, self.shortest = inner, shortest
        self.rtol, self.atol, self.norm = inner.rtol, inner.atol, inner.norm

    def wrap(self, direction):
        """Told which way the solve goes."""
        return Halting(self.inner.wrap(direction), self.shortest)

    def init(self, *args, **kwargs):
        """The first step and the controller's state."""
        return self.inner.init(*args, **kwargs)

    def adapt_step_size(self, t0, t1, y0, y1_candidate, args, y_error, error_order, state):
        """What the controller says; a result that ends the solve where nothing helps."""
        *answer, result = self.inner.adapt_step_size(
            t0, t1, y0, y1_candidate, args, y_error, error_order, state
        )
        short = answer[2] - answer[1] <= self.shortest  # the step that would be tried next
        hopeless = (_not_finite(y_error) & short) | _not_finite(y0)
        return *answer, dfx.RESULTS.where(hopeless, BROKEN, result)


def _not_finite(tree: Any) -> Bool[Array, ""]:
    """Whether anything in it is inf or NaN."""
    return jnp.any(jnp.stack([jnp.any(~jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def integrate(
    term: dfx.AbstractTerm,
    solver: dfx.AbstractSolver,
    controller: dfx.AbstractStepSizeController | None,
    route: Route,
    x: Data,
    max_steps: int,
    denoiser: Denoiser | None,
    adjoint: dfx.AbstractAdjoint,
) -> tuple[Data, Stats]:
    """diffrax's solve along a route.

    Args:
        term: the equation in y and u.
        solver: an explicit diffrax solver.
        controller: adaptive step sizes; not used on a fixed grid.
        route: where to go.
        x: the state at its start, in native scale [*event].
        max_steps: most steps of an adaptive solve, rejected ones included.
        denoiser: for the last denoising step; None leaves it out.
        adjoint: how diffrax differentiates the solve.

    Returns:
        x [*event] in native scale and ``Stats``.
    """
    saves = [dfx.SubSaveAt(t1=True)]
    if route.save_us is not None:
        saves.append(dfx.SubSaveAt(ts=route.save_us))
    if isinstance(controller, dfx.AbstractAdaptiveStepSizeController):
        way = jnp.abs(route.us[-1] - route.us[0])
        controller = Halting(controller, jax.lax.stop_gradient(SHORTEST * way))
    solution = dfx.diffeqsolve(
        term,
        solver,
        route.us[0],
        route.us[-1],
        None if route.fixed else route.first,
        x / route.scales[0],
        saveat=dfx.SaveAt(subs=saves),
        stepsize_controller=dfx.StepTo(route.us) if route.fixed else controller,
        max_steps=route.us.shape[0] - 1 if route.fixed else max_steps,
        adjoint=adjoint,
        throw=False,
    )
    out = route.scales[1] * solution.ys[0][0]
    known = finite(out)
    saved = None
    if route.save_scales is not None:
        saved = route.save_scales.reshape(-1, *(1,) * x.ndim) * solution.ys[1]
    per_step, at_start = evaluations(solver)
    nfe = jnp.asarray(per_step * solution.stats["num_steps"] + at_start, jnp.int32)
    if denoiser is not None:
        out, nfe = denoiser(out, route.end).x0, nfe + 1
    done, broken = (solution.result == each for each in (dfx.RESULTS.successful, BROKEN))
    code = jnp.where(done, SUCCESS, jnp.where(broken, NOT_FINITE, MAX_STEPS))
    # A NaN that is rejected until the steps run out: NOT_FINITE is the cause.
    result = jnp.maximum(code, jnp.maximum(known, finite(out)))
    return out, Stats(nfe, result, saved)


def adaptive_or_grid(
    controller: dfx.AbstractStepSizeController | None, ts: Times | None, tolerance: float
) -> dfx.AbstractStepSizeController | None:
    """The given controller, or a default one where there is no grid.

    Args:
        controller: of adaptive steps.
        ts: a grid for fixed steps.
        tolerance: of the default ``PIDController``, relative and absolute.

    Returns:
        A controller, or None on a grid.

    Raises:
        ValueError: if both are given.
    """
    if ts is not None:
        grids.require_decreasing(ts)
    if controller is not None and ts is not None:
        raise ValueError(
            f"got both a controller ({type(controller).__name__}) and a grid ts of {ts.shape[0]} "
            "times; give ts for fixed steps or a controller for adaptive ones"
        )
    if controller is None and ts is None:
        return dfx.PIDController(rtol=tolerance, atol=tolerance)
    return controller
