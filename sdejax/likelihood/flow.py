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
        adjoint: how diffrax differentiates the solve, by default by recursive checkpoints.
    """

    divergence: Divergence | None = None
    solver: dfx.AbstractSolver | None = None
    tolerance: float | Scalar = 1e-5
    ts: Times | None = None
    coordinates: Coordinates | None = None
    sigma_data: float = 0.5
    max_steps: int = 4096
    adjoint: dfx.AbstractAdjoint | None = None


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
    solver = flow.solver or dfx.Tsit5()
    divergence = divergence_of(flow, x.size)
    ends = jnp.stack([jnp.asarray(t, x.dtype) for t in (sde.t_max, sde.t_min)])
    times = ends if flow.ts is None else jnp.asarray(flow.ts, x.dtype)
    way = _way(flow, sde, x.dtype, times if backward else times[::-1])
    start = x / way.scales[0]
    probes = divergence.draw(key, start)
    m = jax.eval_shape(lambda y: divergence.traces(lambda v: v, probes, y), start).shape[0]

    def rate(u, state):
        return _rate(flow, sde, denoiser, probes, u, state[0])

    # What the field closes over becomes arguments, through which every adjoint differentiates.
    state = (start, jnp.zeros((m,), x.dtype))
    field, closed = jax.closure_convert(rate, way.us[0], state)
    whole = jnp.abs(way.us[-1] - way.us[0])
    adaptive = dfx.PIDController(
        rtol=flow.tolerance, atol=flow.tolerance, norm=_norm, dtmin=SHORTEST * whole,
        force_dtmin=False,
    )  # fmt: skip
    fixed = flow.ts is not None
    solution = dfx.diffeqsolve(
        dfx.ODETerm(lambda u, state, args: field(u, state, *args)),
        solver,
        way.us[0],
        way.us[-1],
        None if fixed else way.first,
        state,
        args=tuple(closed),
        stepsize_controller=dfx.StepTo(way.us) if fixed else adaptive,
        max_steps=times.shape[0] - 1 if fixed else flow.max_steps,
        adjoint=flow.adjoint or dfx.RecursiveCheckpointAdjoint(),
        throw=False,
    )
    y, volume = (leaf[0] for leaf in solution.ys)
    growth = x.size * (way.growth + volume)
    per_step, at_start = evaluations(solver)
    nfe = jnp.asarray(per_step * solution.stats["num_steps"] + at_start, jnp.int32)
    return Solved(
        way.scales[1] * y,
        -growth if backward else growth,
        nfe,
        jnp.maximum(_code(solution.result), finite(jnp.append(y, volume))),
    )


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
    frame = coordinates.flow
    c = coefficients(sde, frame.time(sde, jnp.asarray(u)))
    a, b = frame.rate(c, jnp.zeros_like(c.alpha))
    square = flow.sigma_data**2
    pull = (a * c.alpha * square + b * c.sigma) / (c.alpha**2 * square + c.sigma**2)
    kappa = (frame.scale(c) * pull).astype(y.dtype)
    traces = divergence_of(flow, y.size).traces(lambda v: jvp(v) - kappa * v, probes, y)
    return dy, traces / y.size


def _coordinates(flow: Flow) -> Coordinates:
    return flow.coordinates or frames.angle(flow.sigma_data)


def _norm(error: tuple[Array, Array]) -> Scalar:
    """The larger of the errors of the state and of the log-density, each a root mean square."""
    return jnp.maximum(*(jnp.sqrt(jnp.mean(leaf**2)) for leaf in error))


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
    if flow.ts is not None:
        grids.require_decreasing(flow.ts)
    ends = (sde.t_max, sde.t_min) if flow.ts is None else (flow.ts[0], flow.ts[-1])
    coordinates = _coordinates(flow)
    require_ends(coordinates, coordinates.flow, sde, *ends)
