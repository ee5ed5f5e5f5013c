"""What a solver costs: evaluations as a counting callback sees them."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdejax import coordinates, dynamics, grids, processes
from sdejax.prediction import Estimate
from sdejax.samplers.base import NOT_FINITE
from sdejax.samplers.diffeq import solve_ode, solve_sde
from sdejax.samplers.solvers import evaluations, route

KEY = jax.random.key(0)
SLOW = pytest.mark.slow
VP = processes.vp(t_min=0.05, t_max=0.9)


ODE_SOLVERS = [dfx.Tsit5()]
ODE_SOLVERS += [
    pytest.param(solver, marks=SLOW)
    for solver in (
        dfx.Euler(),
        dfx.Heun(),
        dfx.Bosh3(),
        dfx.Midpoint(),
        dfx.Ralston(),
        dfx.Dopri5(),
        dfx.Dopri8(),
        dfx.ReversibleHeun(),
    )
]
SDE_SOLVERS = [dfx.ShARK()]
SDE_SOLVERS += [
    pytest.param(solver, marks=SLOW)
    for solver in (
        dfx.Euler(),
        dfx.Heun(),
        dfx.SRA1(),
        dfx.SPaRK(),
        dfx.EulerHeun(),
        dfx.SEA(),
        dfx.SlowRK(),
        dfx.GeneralShARK(),
        dfx.ItoMilstein(),
        dfx.StratonovichMilstein(),
        dfx.Midpoint(),
        dfx.ReversibleHeun(),
    )
]


def counting():
    """A denoiser whose estimate jumps, so that steps are rejected, and the list of its times."""
    calls = []

    def denoiser(x, t):
        jax.debug.callback(lambda t: calls.append(float(t)), t)
        size = jnp.where(t < 0.4, 5.0, -1.0).astype(x.dtype)
        return Estimate(size * jnp.sin(5 * x), x)

    return denoiser, calls


def ids(solver):
    return type(solver).__name__


@pytest.mark.parametrize("solver", ODE_SOLVERS, ids=ids)
def test_nfe_of_the_ode_is_what_a_callback_counts(solver):
    sde, (denoiser, calls) = processes.rectified_flow(), counting()
    x = jnp.full((1,), 0.3)
    _, stats = solve_ode(sde, denoiser, x, solver=solver, ts=grids.uniform(sde, 6))
    jax.effects_barrier()
    assert stats.nfe == len(calls)
    calls.clear()
    if isinstance(solver, dfx.Euler):  # it has no error estimate
        return
    controller = dfx.PIDController(rtol=1e-4, atol=1e-4)
    _, stats = solve_ode(sde, denoiser, x, solver=solver, controller=controller, denoise=False)
    jax.effects_barrier()
    assert stats.nfe == len(calls)
    assert np.any(np.diff(calls) > 0.01), "no step was rejected"  # t went back up
    assert stats.result == 0


@pytest.mark.parametrize("solver", SDE_SOLVERS, ids=ids)
def test_nfe_of_the_sde_is_what_a_callback_counts(solver):
    sde, (denoiser, calls) = processes.rectified_flow(t_min=0.05), counting()
    x = jnp.full((1,), 0.3)
    noise, ts = dynamics.sigma_noise, grids.uniform(sde, 6)
    _, stats = solve_sde(KEY, sde, denoiser, x, solver=solver, ts=ts, noise=noise)
    jax.effects_barrier()
    assert stats.nfe == len(calls)
    calls.clear()
    if not isinstance(solver, dfx.ShARK | dfx.Heun):
        return
    controller = dfx.PIDController(rtol=1e-2, atol=1e-2)
    _, stats = solve_sde(KEY, sde, denoiser, x, solver=solver, controller=controller, noise=noise)
    jax.effects_barrier()
    assert stats.nfe == len(calls)
    assert np.any(np.diff(calls) > 0.001), "no step was rejected"
    assert stats.result == 0


@pytest.mark.parametrize(
    "solver", [dfx.ImplicitEuler(), dfx.Kvaerno3(), dfx.HalfSolver(dfx.Euler())]
)
def test_solvers_whose_evaluations_cannot_be_counted_are_refused(solver):
    with pytest.raises(ValueError, match=rf"wrapped {type(solver).__name__}; exp"):
        evaluations(solver)


def test_a_route_is_rounded_once_from_float64():
    """In noise coordinates of VP: the grid in sigma/alpha, the scale alpha, a first step of 1 %."""
    sde, saves = processes.vp(), jnp.asarray([0.5, 0.2])
    ts = np.asarray(grids.uniform(sde, 9), np.float32)
    way = route(coordinates.noise.flow, sde, jnp.float32, jnp.asarray(ts), saves)

    def r(t):
        return np.sqrt(np.expm1(0.1 * np.float64(t) + 9.95 * np.float64(t) ** 2))

    np.testing.assert_allclose(way.us, r(ts), rtol=6e-8)
    np.testing.assert_allclose(way.save_us, r(saves), rtol=6e-8)
    for got, t in zip((*way.scales, *way.save_scales), (*ts[[0, -1]], *saves), strict=True):
        np.testing.assert_allclose(got, 1 / np.sqrt(1 + r(t) ** 2), rtol=6e-8)
    first = r(0.99 * float(ts[0]) + 0.01 * float(ts[-1])) - r(ts[0])
    np.testing.assert_allclose(way.first, first, rtol=1e-6)
    assert (way.fixed, way.end) == (True, ts[-1])
    adaptive = route(coordinates.native.reverse, sde, jnp.float32, None, None)
    np.testing.assert_allclose(adaptive.us, [0.0, 0.999], rtol=1e-7)
    assert (adaptive.fixed, adaptive.save_us) == (False, None)


@pytest.mark.parametrize(
    ("start", "forced"), [(0.3, None), (0.3, 1e-3), pytest.param(np.nan, None, marks=SLOW)]
)
def test_a_solve_ends_where_no_step_helps(start, forced):
    """At a NaN that is met at t = 0.5, approached, stepped onto by force, or at the start."""

    def denoiser(x, t):
        return Estimate(jnp.where(t < 0.5, jnp.nan, 0.3 * x), x)

    controller = dfx.PIDController(rtol=1e-3, atol=1e-3, dtmin=forced)
    sde = processes.rectified_flow()
    _, stats = jax.jit(
        lambda x: solve_ode(sde, denoiser, x, solver=dfx.Heun(), controller=controller)
    )(jnp.full((2,), start))
    assert stats.result == NOT_FINITE
    assert stats.nfe < 200, "of 8192: it went on"
