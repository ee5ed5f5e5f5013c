"""Reverse processes in noise and data coordinates: DDPM's step, strong orders, the right limit."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import skewed, skewed_moments
from stats import assert_moments, slope

from sdejax import coordinates, dynamics, grids, processes, truth
from sdejax.coordinates import ALL
from sdejax.prediction import Estimate
from sdejax.samplers.ancestral import ancestral
from sdejax.samplers.brownian import _Mirrored
from sdejax.samplers.diffeq_sde import reverse_sde, solve_sde
from sdejax.sde import coefficients, diffusion

KEY = jax.random.key(0)
SLOW = pytest.mark.slow
NEW = ALL[1:]


def line(dtype=np.float64):
    return truth.mixture(*map(jnp.asarray, skewed(dtype)))


class TablePath(dfx.AbstractBrownianPath):
    """A Brownian path in u, known on a fine uniform grid with its integral."""

    start: jax.Array
    step: jax.Array
    values: jax.Array  # W at the n + 1 places
    integral: jax.Array  # of W from the start to each of them
    levy_area = dfx.SpaceTimeLevyArea

    @property
    def t0(self):
        return self.start

    @property
    def t1(self):
        return self.start + self.step * (self.values.shape[0] - 1)

    def evaluate(self, t0, t1=None, left=True, use_levy=False):
        i, j = (jnp.round((t - self.start) / self.step).astype(int) for t in (t0, t1))
        w = self.values[j] - self.values[i]
        if not use_levy:
            return w
        mean = (self.integral[j] - self.integral[i]) / (t1 - t0) - self.values[i]
        return dfx.SpaceTimeLevyArea(dt=t1 - t0, W=w, H=mean - 0.5 * w)


def table_path(key, start, end, n):
    """Over a step h, int W = h (W_start + W_end)/2 + sqrt(h^3/12) N(0, 1)."""
    h = (end - start) / n
    steps, areas = jax.random.normal(key, (2, n, 1))
    zero = jnp.zeros((1, 1))
    values = jnp.concatenate([zero, jnp.cumsum(jnp.sqrt(h) * steps, axis=0)])
    each = 0.5 * h * (values[1:] + values[:-1]) + jnp.sqrt(h**3 / 12) * areas
    return TablePath(start, h, values, jnp.concatenate([zero, jnp.cumsum(each, axis=0)]))


SDE = processes.vp(beta_max=8.0, t_min=0.4, t_max=0.9)
FAST = {("ShARK", "data", "diffusion"), ("Euler", "noise", "sigma_noise")}
CELLS = [
    pytest.param(
        solver, low, each, noise,
        marks=() if (type(solver).__name__, each.name, noise.__name__) in FAST else SLOW,
    )
    for solver, low in ((dfx.Euler(), 0.9), (dfx.ShARK(), 1.35), (dfx.SRA1(), 1.35))
    for each in NEW
    for noise in (diffusion, dynamics.sigma_noise)
    if each.reverse.only in (None, noise)
]  # fmt: skip


@pytest.mark.parametrize(
    ("solver", "low", "each", "noise"),
    CELLS,
    ids=lambda v: getattr(v, "name", getattr(v, "__name__", str(v))),
)
def test_strong_orders_on_a_nonlinear_drift(solver, low, each, noise, x64):
    """On one Brownian path in u, refined: grids that are uniform in u, the mixture's drift."""
    frame, part, ns = each.reverse, 8, [32, 64, 128, 256, 512]
    finest = 4 * ns[-1]
    denoiser = truth.denoiser(line(), SDE)
    start, end = (frame.variable(SDE, t) for t in (SDE.t_max, SDE.t_min))

    def run(key, x, n, solver):
        """n steps, eight at a time: one compilation serves every n."""
        path = table_path(key, start, end, finest)

        def some(i, x):
            places = (part * i + jnp.arange(part + 1)).astype(x.dtype) / n
            us = start + (end - start) * places
            return solve_sde(
                key, SDE, denoiser, x, solver=solver, path=path, denoise=False, noise=noise,
                ts=jax.vmap(lambda u: frame.time(SDE, u))(us), coordinates=each,
            )[0]  # fmt: skip

        return jax.lax.fori_loop(jnp.asarray(0), (n // part).astype(int), some, x)

    keys = jax.random.split(KEY, 64)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(64, 1)))
    batch = jax.jit(
        lambda keys, x, n, solver: jax.vmap(lambda k, x: run(k, x, n, solver))(keys, x),
        static_argnames="solver",
    )
    reference = batch(keys, x, float(finest), solver=dfx.ShARK())
    errors = [
        np.sqrt(np.mean((batch(keys, x, float(n), solver=solver) - reference) ** 2)) for n in ns
    ]
    assert -slope(ns, errors) >= low, (slope(ns, errors), errors)
    assert low > 1 or -slope(ns, errors) <= 1.3, (slope(ns, errors), errors)


def test_euler_maruyama_in_data_coordinates_is_ancestral_sampling(x64):
    """The same noise through DDPM's rows: z of a step is dW_u / sqrt(du), exactly."""
    sde, frame, finest, n = processes.cosine(), coordinates.data.reverse, 64, 8
    denoiser = truth.denoiser(line(), sde)
    start, end = (frame.variable(sde, t) for t in (sde.t_max, sde.t_min))
    # Places on the path's grid, far from uniform.
    places = np.round(finest * (np.arange(n + 1) / n) ** 1.5) / finest
    us = start + (end - start) * jnp.asarray(places)
    ts = jax.vmap(lambda u: frame.time(sde, u))(us)
    path, x = table_path(KEY, start, end, finest), jnp.asarray([0.4])
    rows = ancestral().prepare(sde, ts)

    @jax.jit
    def both(x):
        by_rows = x
        for i in range(n):
            row = jax.tree.map(lambda k, i=i: k[i], rows)
            z = path.evaluate(us[i], us[i + 1]) / jnp.sqrt(us[i + 1] - us[i])
            x0, eps = denoiser(by_rows, row.t)
            by_rows = row.b * x0 + row.c * eps + row.d * z
        out, stats = solve_sde(
            KEY, sde, denoiser, x, solver=dfx.Euler(), ts=ts, path=path, denoise=False,
            coordinates=coordinates.data,
        )  # fmt: skip
        return by_rows, out, stats

    by_rows, out, stats = both(x)
    np.testing.assert_allclose(out, by_rows, rtol=1e-9)
    assert stats.nfe == n


def adaptive(tolerance=1e-2):
    return {"controller": dfx.PIDController(rtol=tolerance, atol=tolerance)}


WIDE, FLOW = processes.edm(0.01, 50.0), processes.rectified_flow(0.02, 0.98)
LIMITS = {
    "data-shark-grid": (processes.vp(t_min=0.01), coordinates.data, {"steps": 100}),
    "noise-shark-sigma-grid": (
        FLOW, coordinates.noise, {"steps": 100, "noise": dynamics.sigma_noise}
    ),
    "log_noise-adaptive": (WIDE, coordinates.log_noise, adaptive()),
    "noise-adaptive": (WIDE, coordinates.noise, adaptive()),
    "data-adaptive": (WIDE, coordinates.data, adaptive()),
    "log_data-adaptive": (WIDE, coordinates.log_data, adaptive()),
    "log_noise-sigma-adaptive": (
        FLOW, coordinates.log_noise, {"noise": dynamics.sigma_noise, **adaptive()}
    ),
}  # fmt: skip
LIMIT = [c if c == "log_noise-adaptive" else pytest.param(c, marks=SLOW) for c in LIMITS]


@pytest.mark.parametrize("case", LIMIT)
def test_reverse_processes_end_in_the_mixture(case):
    """From exact draws of p at t_max, float32: mean, variance and skewness, in standard errors.

    EDM's variances span seven decades.
    """
    sde, each, options = LIMITS[case]
    method = reverse_sde(grid=grids.uniform_log_snr, coordinates=each, denoise=False, **options)
    method.require(sde, sde.t_max)
    dist = line(np.float32)
    start, end = coefficients(sde, sde.t_max), coefficients(sde, sde.t_min)

    def draw(key):
        data_key, noise_key, solve_key = jax.random.split(key, 3)
        x = start.alpha * truth.sample(data_key, dist)
        x = x + start.sigma * jax.random.normal(noise_key, (1,))
        return method.run(solve_key, sde, truth.denoiser(dist, sde), x)

    x, stats = jax.jit(jax.vmap(draw))(jax.random.split(KEY, 4096))
    np.testing.assert_array_equal(stats.result, 0)
    assert_moments(x[:, 0], *skewed_moments(end.alpha, end.sigma))


def test_the_mirrored_path_is_a_brownian_path():
    """Areas join by Chen's relation: |ac| H_ac from the parts and the triangle between them."""
    tree = dfx.VirtualBrownianTree(0.1, 5.0, 1e-3, (), KEY, dfx.SpaceTimeLevyArea)
    path = _Mirrored(forward=tree, t0=-5.0, t1=-0.1, levy_area=dfx.SpaceTimeLevyArea)
    a, b, c = -4.0, -2.5, -0.7
    cut = jax.vmap(lambda s, t: path.evaluate(s, t, use_levy=True))
    cuts = cut(jnp.asarray([a, b, a]), jnp.asarray([b, c, c]))
    one, two, all_ = (jax.tree.map(lambda k, i=i: k[i], cuts) for i in range(3))
    np.testing.assert_allclose(one.W + two.W, all_.W, rtol=1e-5)
    # int_a^c (W - W_a) du, from the whole and from the two parts.
    whole = (c - a) * (all_.H + 0.5 * all_.W)
    parts = (b - a) * (one.H + 0.5 * one.W) + (c - b) * (one.W + two.H + 0.5 * two.W)
    np.testing.assert_allclose(whole, parts, rtol=1e-5)


@pytest.mark.parametrize("each", [coordinates.data, coordinates.log_data], ids=lambda e: e.name)
def test_a_noise_without_a_closed_form_is_refused_by_name(each):
    message = rf"coordinates '{each.name}': got noise 'sigma_noise'; their closed form holds for 'd"
    with pytest.raises(ValueError, match=message):
        reverse_sde(noise=dynamics.sigma_noise, coordinates=each)
    denoiser = truth.denoiser(line(np.float32), SDE)
    with pytest.raises(ValueError, match=message):
        solve_sde(KEY, SDE, denoiser, jnp.ones((1,)), noise=dynamics.sigma_noise, coordinates=each)


def test_alpha_0_is_refused_by_name():
    sde, x = processes.rectified_flow(), jnp.ones((1,))
    method = reverse_sde(steps=4, noise=dynamics.sigma_noise, coordinates=coordinates.noise)
    with pytest.raises(ValueError, match=r"coordinates 'noise': got alpha\(1.0\) = 0.0"):
        method.require(sde, 1.0)
    with pytest.raises(ValueError, match=r"coordinates 'noise': got alpha\(1.0\) = 0.0"):
        method.run(KEY, sde, truth.denoiser(line(np.float32), sde), x)


@pytest.mark.parametrize(
    "each", [e if e.name == "log_noise" else pytest.param(e, marks=SLOW) for e in NEW],
    ids=lambda e: e.name,
)  # fmt: skip
def test_evaluations_are_counted(each):
    calls = []

    def denoiser(x, t):
        jax.debug.callback(lambda t: calls.append(float(t)), t)
        return Estimate(jnp.where(t < 0.4, 5.0, -1.0).astype(x.dtype) * jnp.sin(5 * x), x)

    x = jnp.full((1,), 0.3)
    for options in (adaptive(1e-2), {"ts": grids.uniform_log_snr(SDE, 5)}):
        calls.clear()
        run = jax.jit(lambda x, o=options: solve_sde(KEY, SDE, denoiser, x, coordinates=each, **o))
        _, stats = run(x)
        jax.effects_barrier()
        assert stats.nfe == len(calls)
        assert stats.result == 0
        assert "ts" in options or np.any(np.diff(calls) > 0.001), "no step was rejected"
