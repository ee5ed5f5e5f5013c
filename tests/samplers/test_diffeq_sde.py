"""Reverse processes: strong orders on one Brownian path, and the right limit."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import skewed, skewed_moments
from stats import assert_mean, assert_moments, slope

from sdejax import dynamics, grids, processes, truth
from sdejax.samplers.ancestral import euler_maruyama
from sdejax.samplers.diffeq import solve_sde
from sdejax.sde import coefficients

KEY = jax.random.key(0)
SLOW = pytest.mark.slow
VP = processes.vp(t_min=0.05, t_max=0.9)


def line(dtype=np.float64):
    return truth.mixture(*map(jnp.asarray, skewed(dtype)))


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
