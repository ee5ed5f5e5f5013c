"""The probability-flow ODE: exact flows, orders, errors against tolerance, result codes."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import PREDICTIONS, PROCESSES, skewed
from stats import slope

from sdejax import grids, processes, truth
from sdejax.conditioning import raw_time
from sdejax.denoiser import make_denoiser, make_model, no_scaling
from sdejax.prediction import Estimate, encode
from sdejax.samplers.base import check
from sdejax.samplers.diffeq import solve_ode, solve_sde
from sdejax.sde import coefficients

KEY = jax.random.key(0)
SLOW = pytest.mark.slow
VP = processes.vp(t_min=0.05, t_max=0.9)


def smooth_grid(n, start=0.9, end=0.05):
    return jnp.asarray(np.linspace(np.sqrt(start), np.sqrt(end), n + 1) ** 2)


def line(dtype=np.float64):
    return truth.mixture(*map(jnp.asarray, skewed(dtype)))


DEFAULT = ("vp", "rectified_flow")
FLOWS = [name if name in DEFAULT else pytest.param(name, marks=SLOW) for name in PROCESSES]


@pytest.mark.parametrize("name", FLOWS)
def test_every_prediction_follows_the_exact_flow_of_a_gaussian_to_1e_8_per_sample(name, x64):
    """m is not 0 and S neither isotropic nor 1; the linear path starts at alpha = 0.

    The network is perfect: it outputs the exact estimate, encoded as each prediction type.
    """
    sde = PROCESSES[name]()
    mean, variance = jnp.asarray([1.0, -2.0]), jnp.asarray([0.25, 4.0])
    z = jnp.asarray([0.7, -1.4])
    kinds = [PREDICTIONS[kind] for kind in ("x0", "v", "velocity", "edm")]
    if name != "rectified_flow":
        kinds += [PREDICTIONS["eps"], PREDICTIONS["score"]]  # at alpha = 0 these have no x0
    solver, tight = dfx.Dopri8(), dfx.PIDController(rtol=1e-10, atol=1e-10)

    def flow(t):
        c = coefficients(sde, t)
        return c.alpha * mean + jnp.sqrt(c.alpha**2 * variance + c.sigma**2) * z

    def run(which):
        def kind(c):  # one compilation for all
            rows = jnp.stack([jnp.stack(kind(c)) for kind in kinds])
            return rows[which, 0], rows[which, 1]

        def network(params, x, t, cond):
            c = coefficients(sde, t)
            r = (x - c.alpha * mean) / (c.alpha**2 * variance + c.sigma**2)
            return encode(kind, c, Estimate(mean + c.alpha * variance * r, c.sigma * r))

        model = make_model(network, kind, batched=False, scaling=no_scaling, conditioning=raw_time)
        denoiser = make_denoiser(model, None, sde)
        return solve_ode(
            sde, denoiser, flow(sde.t_max), solver=solver, controller=tight, denoise=False
        )

    out, stats = jax.jit(jax.vmap(run))(jnp.arange(len(kinds)))
    np.testing.assert_array_equal(stats.result, 0)
    assert np.abs(out - flow(sde.t_min)[None]).max() <= 1e-8


@pytest.fixture
def flow(x64):
    """Starts on the mixture's flow, their ends by a tight solve, and a runner."""
    denoiser = truth.denoiser(line(), VP)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 1)))

    def run(x, **options):
        return jax.vmap(lambda x: solve_ode(VP, denoiser, x, denoise=False, **options)[0])(x)

    def tight(x, tolerance):
        controller = dfx.PIDController(rtol=tolerance, atol=tolerance)
        return run(x, solver=dfx.Dopri8(), controller=controller)

    return x, jax.jit(tight)(x, 1e-12), run


@pytest.mark.parametrize(
    ("solver", "order", "ns"),
    [
        pytest.param(dfx.Euler(), 1, [32, 64, 128, 256, 512], marks=pytest.mark.slow),
        (dfx.Heun(), 2, [32, 64, 128, 256, 512]),
        pytest.param(dfx.Bosh3(), 3, [32, 64, 128, 256, 512], marks=pytest.mark.slow),
        pytest.param(dfx.Tsit5(), 5, [16, 32, 64, 128, 256], marks=SLOW),
    ],
)
def test_fixed_steps_have_the_solvers_order(solver, order, ns, flow):
    x, reference, run = flow
    errors = []
    for n in ns:
        out = jax.jit(run, static_argnames="solver")(x, solver=solver, ts=smooth_grid(n))
        errors.append(np.sqrt(np.mean((out - reference) ** 2)))
    assert abs(slope(ns, errors) + order) < 0.25 * min(order, 2), (slope(ns, errors), errors)


def test_adaptive_errors_follow_the_tolerance(flow):
    x, reference, run = flow
    tolerances = [1e-4, 1e-5, 1e-6, 1e-7, 1e-8]
    solve = jax.jit(lambda x, tol: run(x, controller=dfx.PIDController(rtol=tol, atol=tol)))
    errors = [np.sqrt(np.mean((solve(x, tol) - reference) ** 2)) for tol in tolerances]
    assert 0.7 < slope(tolerances, errors) < 1.3, errors


def test_a_grid_and_a_controller_together_are_refused():
    ts, controller = grids.uniform(VP, 4), dfx.PIDController(rtol=1e-3, atol=1e-3)
    denoiser = truth.denoiser(line(np.float32), VP)
    with pytest.raises(ValueError, match=r"both a controller \(PIDController\) and a grid ts of 5"):
        solve_ode(VP, denoiser, jnp.ones((1,)), ts=ts, controller=controller)
    with pytest.raises(ValueError, match=r"both a controller \(PIDController\) and a grid ts of 5"):
        solve_sde(KEY, VP, denoiser, jnp.ones((1,)), ts=ts, controller=controller)


def test_out_of_steps_and_nan_are_result_codes():
    def bad(x, t):
        return Estimate(jnp.where(t < 0.5, jnp.nan, x), x)

    def good(x, t):
        return Estimate(x, x)

    x = jnp.ones((2,))
    ts = grids.uniform(VP, 4)
    out_of_steps = solve_ode(VP, good, x, max_steps=2)[1]
    assert out_of_steps.result == 1
    with pytest.raises(FloatingPointError, match="1 of 1 examples ran out of steps"):
        check(out_of_steps)
    assert solve_ode(VP, bad, x, ts=ts, solver=dfx.Euler(), denoise=False)[1].result == 2
    assert solve_sde(KEY, VP, bad, x, ts=ts, denoise=False)[1].result == 2
    # With adaptive steps every one is rejected at the NaN; the cause is reported, not that.
    assert solve_ode(VP, bad, x, max_steps=64, solver=dfx.Heun())[1].result == 2


@pytest.mark.slow
def test_saved_states_lie_on_the_flow(x64):
    dist = truth.gaussian(jnp.asarray([1.0]), jnp.asarray([[0.25]]))
    z, times = jnp.asarray([0.7]), jnp.asarray([0.8, 0.5, 0.1])
    x = truth.gaussian_flow(dist, VP, z, jnp.asarray(0.9))
    tight = dfx.PIDController(rtol=1e-9, atol=1e-9)
    denoiser = truth.denoiser(dist, VP)
    out, stats = solve_ode(VP, denoiser, x, solver=dfx.Dopri8(), controller=tight, save_at=times)
    exact = jax.vmap(lambda t: truth.gaussian_flow(dist, VP, z, t))(times)
    np.testing.assert_allclose(stats.saved, exact, atol=1e-5)  # dense output has a lower order
    end = truth.gaussian_flow(dist, VP, z, jnp.asarray(0.05))
    np.testing.assert_allclose(out, denoiser(end, jnp.asarray(0.05)).x0, rtol=1e-8)
