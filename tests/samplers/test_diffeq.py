import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import PREDICTIONS, PROCESSES, skewed, skewed_moments
from stats import assert_mean, assert_moments, slope

from sdejax import dynamics, grids, processes, truth
from sdejax.denoiser import make_denoiser, make_model, no_scaling, raw_time
from sdejax.prediction import Estimate, encode
from sdejax.samplers.ancestral import euler_maruyama
from sdejax.samplers.base import check
from sdejax.samplers.diffeq import evaluations, solve_ode, solve_sde
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


def test_a_grid_and_a_controller_together_are_refused():
    ts, controller = grids.uniform(VP, 4), dfx.PIDController(rtol=1e-3, atol=1e-3)
    denoiser, _ = counting()
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


# Reverse processes -----------------------------------------------------------------------------


class TablePath(dfx.AbstractBrownianPath):
    """A Brownian path known on a fine grid: its values and its integral, by exact bridges."""

    span: float
    values: jax.Array  # W at the n + 1 times
    integral: jax.Array  # of W from 0 to each of them
    levy_area = dfx.SpaceTimeLevyArea

    @property
    def t0(self):
        return 0.0

    @property
    def t1(self):
        return self.span

    def evaluate(self, t0, t1=None, left=True, use_levy=False):
        n = self.values.shape[0] - 1
        i, j = (jnp.round(t / self.span * n).astype(int) for t in (t0, t1))
        w = self.values[j] - self.values[i]
        if not use_levy:
            return w
        dt = t1 - t0
        mean = (self.integral[j] - self.integral[i]) / dt - self.values[i]
        return dfx.SpaceTimeLevyArea(dt=dt, W=w, H=mean - 0.5 * w)


def table_path(key, span, n):
    """W and its integral: over a step h, int W = h (W_start + W_end)/2 + sqrt(h^3/12) N(0, 1)."""
    h = span / n
    steps, areas = jax.random.normal(key, (2, n, 1))
    start = jnp.zeros((1, 1))
    values = jnp.concatenate([start, jnp.cumsum(jnp.sqrt(h) * steps, axis=0)])
    each = 0.5 * h * (values[1:] + values[:-1]) + jnp.sqrt(h**3 / 12) * areas
    return TablePath(span, values, jnp.concatenate([start, jnp.cumsum(each, axis=0)]))


def paths_errors(dist, sde, methods, ns, count):
    """Strong errors at t_min of each method, on common Brownian paths that are refined."""
    denoiser = truth.denoiser(dist, sde)
    span, finest = sde.t_max - sde.t_min, 8 * ns[-1]

    def grid(n):
        return jnp.linspace(sde.t_max, sde.t_min, n + 1)

    def by_rows(key, x, n):
        """The rows of the fixed-grid sampler, with the path's increments for its noise."""
        ts, path = grid(n), table_path(key, span, finest)
        rows = euler_maruyama().prepare(sde, ts)
        taus = sde.t_max - ts

        def step(x, inputs):
            row, start, end = inputs
            x0, eps = denoiser(x, row.t)
            z = path.evaluate(start, end) / jnp.sqrt(end - start)
            return row.a * x + row.b * x0 + row.c * eps + row.d * z, None

        return jax.lax.scan(step, x, (rows, taus[:-1], taus[1:]))[0]

    def by_solver(key, x, n, solver):
        path = table_path(key, span, finest)
        return solve_sde(
            key, sde, denoiser, x, solver=solver, ts=grid(n), path=path, denoise=False
        )[0]

    keys = jax.random.split(KEY, count)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(count, 1)))

    def batch(n, solver):
        if solver is None:
            return jax.jit(jax.vmap(lambda k, x: by_rows(k, x, n)))(keys, x)
        return jax.jit(jax.vmap(lambda k, x: by_solver(k, x, n, solver)))(keys, x)

    reference = batch(finest, dfx.ShARK())
    errors = {
        name: [np.sqrt(np.mean((batch(n, solver) - reference) ** 2)) for n in ns]
        for name, solver in methods.items()
    }
    return errors, (batch(ns[0], None), batch(ns[0], dfx.Euler()))


REVERSED = processes.vp(beta_max=8.0, t_min=0.2, t_max=0.9)
NS = [4, 8, 16, 32, 64]


@pytest.mark.parametrize(
    ("solver", "low", "high"),
    [(dfx.ShARK(), 1.35, 2.0), pytest.param(dfx.Euler(), 0.9, 1.3, marks=SLOW)],
)
def test_strong_orders_on_a_nonlinear_drift(solver, low, high, x64):
    """1 for Euler (the noise is additive), 1.5 for ShARK, on one and the same path."""
    errors, (rows, euler) = paths_errors(line(), REVERSED, {"it": solver}, NS, 64)
    # The sampler's rows are Euler-Maruyama itself, on the same increments: the same order.
    np.testing.assert_allclose(rows, euler, rtol=1e-9)
    assert low <= -slope(NS, errors["it"]) < high, errors


@pytest.mark.slow
def test_strong_order_of_sra1(x64):
    ns = [16, 32, 64, 128, 256]
    errors, _ = paths_errors(line(), REVERSED, {"sra1": dfx.SRA1()}, ns, 64)
    assert -slope(ns, errors["sra1"]) >= 1.35, errors


@pytest.mark.slow
def test_strong_order_2_on_a_linear_drift(x64):
    """For a Gaussian the reverse process is an Ornstein-Uhlenbeck process: half an order more."""
    dist = truth.gaussian(jnp.asarray([0.5]), jnp.asarray([[0.3]]))
    ns = [16, 32, 64, 128, 256]
    methods = {"shark": dfx.ShARK(), "sra1": dfx.SRA1()}
    for values in paths_errors(dist, REVERSED, methods, ns, 64)[0].values():
        assert 1.8 < -slope(ns, values) < 2.3, values


def test_the_transition_of_an_ornstein_uhlenbeck_process():
    """N(0, 1) under constant beta: dx = -beta/2 x dtau + sqrt(beta) dW from one fixed start."""
    beta, start = 2.0, 3.0
    sde = processes.VP(beta_min=beta, beta_max=beta, t_min=0.2, t_max=1.0)
    dist = truth.gaussian(jnp.zeros(1), jnp.ones((1, 1)))
    ts = grids.uniform(sde, 32)

    def draw(key):
        denoiser = truth.denoiser(dist, sde)
        return solve_sde(key, sde, denoiser, jnp.full((1,), start), ts=ts, denoise=False)[0][0]

    x = jax.jit(jax.vmap(draw))(jax.random.split(KEY, 16_384))
    assert_mean(x, start * np.exp(-beta * 0.8 / 2))
    assert_mean((np.asarray(x, float) - start * np.exp(-0.8)) ** 2, 1 - np.exp(-beta * 0.8))


CASES = {
    "fixed-shark-g": (processes.vp(t_min=0.01), {"noise": None, "steps": 100}),
    "fixed-euler-sigma": (
        processes.rectified_flow(0.02),
        {"noise": dynamics.sigma_noise, "solver": dfx.Euler(), "steps": 200},
    ),
    "adaptive-shark-sigma": (processes.rectified_flow(0.02), {"noise": dynamics.sigma_noise}),
}  # fmt: skip


SHORT = "fixed-shark-g"
ALL = [case if case == SHORT else pytest.param(case, marks=SLOW) for case in CASES]


@pytest.mark.parametrize("case", ALL)
def test_reverse_processes_end_in_the_mixture(case):
    """From exact draws of p at t_max, in standard errors: mean, variance and skewness."""
    sde, options = CASES[case]
    options = {key: value for key, value in options.items() if value is not None}
    if "steps" in options:
        options["ts"] = grids.quadratic(sde, options.pop("steps"))
    dist = line(np.float32)
    start, end = coefficients(sde, sde.t_max), coefficients(sde, sde.t_min)

    def draw(key):
        data_key, noise_key, solve_key = jax.random.split(key, 3)
        x = start.alpha * truth.sample(data_key, dist)
        x = x + start.sigma * jax.random.normal(noise_key, (1,))
        denoiser = truth.denoiser(dist, sde)
        return solve_sde(solve_key, sde, denoiser, x, denoise=False, **options)

    x, stats = jax.jit(jax.vmap(draw))(jax.random.split(KEY, 4096))
    np.testing.assert_array_equal(stats.result, 0)
    assert_moments(x[:, 0], *skewed_moments(end.alpha, end.sigma))
