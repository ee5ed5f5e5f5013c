"""The augmented probability-flow ODE: state and log-volume along one solve, either way.

In coordinates y = x/S over u the field is F(y, u) with the Jacobian J, and

    dy/du = F,   dl/du = tr(J - kappa I),   kappa = d log(s/S)/du,   s^2 = alpha^2 sd^2 + sigma^2.

d log(s_end/s_start) + int dl is then minus the change of the log-density of x: kappa I is the
Jacobian of N(0, sd^2 I), so what it gives is known and costs neither probes nor steps. l is kept
once for each of the m numbers of a divergence, per entry of x, and its error counts as y's does.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import diffrax as dfx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sdejax import coordinates as frames
from sdejax import grids
from sdejax.coordinates import Coordinates, require_ends
from sdejax.divergence import Divergence, Probes, exact, hutchinson
from sdejax.dynamics import ode_term
from sdejax.likelihood import reversible
from sdejax.likelihood.reversible import Field, Reversible, closed
from sdejax.prediction import Denoiser
from sdejax.samplers.base import MAX_STEPS, NOT_FINITE, SUCCESS, finite, in_float64
from sdejax.samplers.solvers import evaluations
from sdejax.sde import SDE, coefficients
from sdejax.types import Data, Key, Scalar, Times

FEW = 64  # entries up to which the trace is exact by default
SHORTEST = 1e-7  # of the whole way: steps that shrink to this have met a NaN or a jump


class Flow(NamedTuple):
    """How the ODE is integrated.

    Attributes:
        divergence: how traces are had (``sdejax.divergence``); by default exact up to 64 entries,
            ``hutchinson(4)`` beyond. An evaluation costs one network call and its tangents.
        solver: an explicit diffrax ODE solver, by default ``Tsit5``.
        tolerance: relative and absolute, of y and of log p per entry of x; each example of a
            ``vmap`` chooses its own steps.
        ts: [n + 1] decreasing times of a fixed grid, instead of adaptive steps.
        coordinates: of the integration, by default ``coordinates.angle(sigma_data)``.
        sigma_data: standard deviation of the data, whose Gaussian is integrated in closed form. It
            changes costs and errors, not what is computed.
        max_steps: most steps, rejected ones included.
        adjoint: how the solve is differentiated: by diffrax's recursive checkpoints (the default),
            its ``BacksolveAdjoint()`` (not by ts or fields of the process), or ``Reversible()``, a
            scheme of its own that needs ts; memory of the last two does not grow with the steps.
    """

    divergence: Divergence | None = None
    solver: dfx.AbstractSolver | None = None
    tolerance: float | Scalar = 1e-5
    ts: Times | None = None
    coordinates: Coordinates | None = None
    sigma_data: float = 0.5
    max_steps: int = 4096
    adjoint: dfx.AbstractAdjoint | Reversible | None = None


class Solved(NamedTuple):
    """The end of a solve."""

    x: Data  # the state there
    growth: Float[Array, " m"]  # log-volume gained from t_min to t_max, m estimates of one number
    nfe: Int[Array, ""]
    result: Int[Array, ""]


def divergence_of(flow: Flow, size: int) -> Divergence:
    """The divergence of a flow: the given one, or the default for so many entries.

    Args:
        flow: how the ODE is integrated.
        size: entries of an example.

    Returns:
        The method.
    """
    return flow.divergence or (exact() if size <= FEW else hutchinson(4))


def solve(flow: Flow, key: Key, sde: SDE, denoiser: Denoiser, x: Data, *, backward: bool) -> Solved:
    """One solve of state and log-volume.

    Args:
        flow: how.
        key: of the probes, drawn once.
        sde: the process.
        denoiser: (x, t) -> ``Estimate``.
        x: the state at t_min, or at t_max if ``backward`` [*event].
        backward: from t_max to t_min.

    Returns:
        The state at the other end, and ``log p(x at t_min) - log p(x at t_max)``.

    Raises:
        ValueError: for an empty example, a tolerance that is not positive, times that do not fall,
            or coordinates that are not finite at an end.
    """
    _require(flow, sde, x)
    divergence = divergence_of(flow, x.size)
    ends = jnp.stack([jnp.asarray(t, x.dtype) for t in (sde.t_max, sde.t_min)])
    times = ends if flow.ts is None else jnp.asarray(flow.ts, x.dtype)
    way = _way(flow, sde, x.dtype, times if backward else times[::-1])
    known = finite(x)  # what is not finite would be stepped at until max_steps
    start = jnp.where(known == SUCCESS, x / way.scales[0], 0.0)
    probes = divergence.draw(key, start)
    m = jax.eval_shape(lambda y: divergence.traces(lambda v: v, probes, y), start).shape[0]

    def rate(u, state):
        return _rate(flow, sde, denoiser, probes, u, state[0])

    state = (start, jnp.zeros((m,), x.dtype))
    adjoint = flow.adjoint or dfx.RecursiveCheckpointAdjoint()
    integrate = _reversibly if isinstance(adjoint, Reversible) else _by_diffrax
    field, args = closed(rate, way.us[0], state)
    (y, volume), nfe, code = integrate(flow, adjoint, field, args, way, state)
    growth = x.size * (way.growth + volume)
    return Solved(
        way.scales[1] * y,
        -growth if backward else growth,
        jnp.asarray(nfe, jnp.int32),
        jnp.maximum(known, jnp.maximum(code, finite(jnp.append(y, volume)))),
    )


def _by_diffrax(flow: Flow, adjoint: Any, field: Field, args: tuple, way: _Way, state: Any):
    """The end state, evaluations and result code of a solve by diffrax."""
    solver, fixed = _solver(flow), flow.ts is not None
    per_step, at_start = evaluations(solver)
    if fixed and isinstance(adjoint, dfx.BacksolveAdjoint):  # its way back has to be told
        back = {"stepsize_controller": dfx.StepTo(way.us[::-1])}
        adjoint = dfx.BacksolveAdjoint(**{**back, **adjoint.kwargs})
    least, tolerance = SHORTEST * jnp.abs(way.us[-1] - way.us[0]), flow.tolerance
    adaptive = dfx.PIDController(
        rtol=tolerance, atol=tolerance, norm=_norm, dtmin=least, force_dtmin=False
    )
    solution = dfx.diffeqsolve(
        dfx.ODETerm(lambda u, state, args: field(u, state, *args)),
        solver,
        way.us[0],
        way.us[-1],
        None if fixed else way.first,
        state,
        args=args,
        stepsize_controller=dfx.StepTo(way.us) if fixed else adaptive,
        max_steps=way.us.shape[0] - 1 if fixed else flow.max_steps,
        adjoint=adjoint,
        throw=False,
    )
    nfe = per_step * solution.stats["num_steps"] + at_start
    return tuple(leaf[0] for leaf in solution.ys), nfe, _code(solution.result)


def _reversibly(flow: Flow, adjoint: Any, field: Field, args: tuple, way: _Way, state: Any):
    """The same by the reversible scheme."""
    solver = _solver(flow)
    end = reversible.integrate(adjoint, solver, field, way.us, state, args)
    return end, reversible.calls(solver) * (way.us.shape[0] - 1), SUCCESS


class _Way(NamedTuple):
    """Step variables, the first adaptive step, scales S at both ends, and log(s_end/s_start)."""

    us: Float[Array, " n"]
    first: Scalar
    scales: tuple[Scalar, Scalar]
    growth: Scalar


def _way(flow: Flow, sde: SDE, dtype: Any, times: Times) -> _Way:
    """Maps times, in the order in which they are visited, to step variables, in float64."""
    frame, angle = _coordinates(flow).flow, frames.angle(flow.sigma_data).flow

    def mapped(sde, times):
        ends = [coefficients(sde, t) for t in (times[0], times[-1])]
        thetas = [angle.variable(sde, t) for t in (times[0], times[-1])]
        early = angle.time(sde, 0.98 * thetas[0] + 0.02 * thetas[1])
        us = jax.vmap(lambda t: frame.variable(sde, t))(times)
        widths = [angle.scale(c) for c in ends]
        growth = jnp.log(widths[1]) - jnp.log(widths[0])
        scales = (frame.scale(ends[0]), frame.scale(ends[1]))
        return _Way(us, frame.variable(sde, early) - us[0], scales, growth)

    return in_float64(mapped, dtype, sde, times)


def _rate(flow: Flow, sde: SDE, denoiser: Denoiser, probes: Probes, u: Scalar, y: Data):
    """dy/du, and estimates of the trace of its Jacobian less kappa I, per entry."""
    coordinates = _coordinates(flow)
    field = ode_term(sde, denoiser, coordinates).vf
    dy, jvp = jax.linearize(lambda y: field(u, y, None), y)
    frame, square = coordinates.flow, flow.sigma_data**2
    c = coefficients(sde, frame.time(sde, jnp.asarray(u)))
    a, b = frame.rate(c, jnp.zeros_like(c.alpha))
    pull = (a * c.alpha * square + b * c.sigma) / (c.alpha**2 * square + c.sigma**2)
    kappa = (frame.scale(c) * pull).astype(y.dtype)
    traces = divergence_of(flow, y.size).traces(lambda v: jvp(v) - kappa * v, probes, y)
    known = jnp.all(jnp.isfinite(jnp.append(dy, traces)))
    # An infinite rate would be its own tolerance; NaN is always refused.
    return jnp.where(known, dy, jnp.nan), jnp.where(known, traces / y.size, jnp.nan)


def _coordinates(flow: Flow) -> Coordinates:
    return flow.coordinates or frames.angle(flow.sigma_data)


def _solver(flow: Flow) -> dfx.AbstractSolver:
    return flow.solver or dfx.Tsit5()


def _norm(error: Any) -> Scalar:
    """The largest of the errors of state, log-density and, going back, of their adjoints."""
    leaves = [leaf for leaf in jax.tree.leaves(error) if leaf.size]
    return jnp.max(jnp.stack([jnp.sqrt(jnp.mean(leaf**2)) for leaf in leaves]))


def _code(result: dfx.RESULTS) -> Int[Array, ""]:
    """diffrax's result as a code of ours."""
    done, out_of_steps = (
        result == each for each in (dfx.RESULTS.successful, dfx.RESULTS.max_steps_reached)
    )
    code = jnp.where(out_of_steps, MAX_STEPS, NOT_FINITE)
    return jnp.where(done, SUCCESS, code).astype(jnp.int32)


def _require(flow: Flow, sde: SDE, x: Data) -> None:
    """Refuses what cannot be integrated; traced values are let through."""
    if not x.size:
        raise ValueError(f"x: got an example of shape {list(x.shape)}; expected some entries")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"x: got {x.dtype}; expected floating numbers in the network's scale; for stored "
            "integers see likelihood.quantisation"
        )
    if not isinstance(flow.tolerance, jax.core.Tracer) and not flow.tolerance > 0:
        raise ValueError(f"tolerance: got {flow.tolerance}; expected a positive number")
    if flow.max_steps < 1:
        raise ValueError(f"max_steps: got {flow.max_steps}; expected at least 1")
    if flow.ts is not None:
        grids.require_decreasing(flow.ts)
    elif isinstance(flow.adjoint, Reversible):
        raise ValueError(
            "adjoint: got Reversible without a grid; expected fixed steps, which it takes back one "
            "by one; give ts, e.g. ts=grids.uniform(sde, 32)"
        )
    elif not isinstance(_solver(flow), dfx.AbstractAdaptiveSolver):
        raise ValueError(
            f"solver: got {type(_solver(flow)).__name__}, which does not estimate its error, for "
            "adaptive steps; expected one that does (Heun, Tsit5, Dopri8, ...), or a grid ts"
        )
    ends = (sde.t_max, sde.t_min) if flow.ts is None else (flow.ts[0], flow.ts[-1])
    coordinates = _coordinates(flow)
    require_ends(coordinates, coordinates.flow, sde, *ends)
