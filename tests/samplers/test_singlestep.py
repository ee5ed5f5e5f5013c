"""DPM-Solver-2 and -3, DPM-Solver++(2S), (3S) and SEEDS as the papers write them.

The algorithms are transcribed for scalars, with lambda = log(alpha/sigma) and h its step.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import assert_skewed_moments
from local_error import errors_on_gentle_grids
from oracles import PUBLISHED, skewed
from stats import slope

from sdejax import grids, processes, truth
from sdejax.prediction import Estimate
from sdejax.samplers.base import on_grid, sample
from sdejax.samplers.singlestep import advance, dpm_solver, dpmpp_singlestep, seeds

KEY = jax.random.key(0)
INVERSE = {  # t of lambda
    "edm": lambda lam: np.exp(-lam),
    "rectified_flow": lambda lam: 1 / (1 + np.exp(lam)),
}
STEPS = {"edm": (14.0, 3.0), "rectified_flow": (0.8, 0.35)}


def m(x, t):
    """Some nonlinear function of both, in NumPy and in JAX."""
    return x / (1 + x**2) + t * x


def at(name, t):
    alpha, sigma = (float(k(np.float64(t))) for k in PUBLISHED[name][:2])
    return alpha, sigma, np.log(alpha / sigma)


def dpm(name, t, s, x, order, weight=1.0, z=None):
    """DPM-Solver-2 and -3 (Lu et al. 2022a, algorithms 1 and 2); SEEDS with weight 2 and z."""
    a0, _, l0 = at(name, t)
    h = at(name, s)[2] - l0
    r = {1: [], 2: [1 / 2], 3: [1 / 3, 2 / 3]}[order]
    ts = [INVERSE[name](l0 + k * h) for k in r] + [s]
    r = [*r, 1.0]

    def move(i, first, d_weight=0.0, d=0.0):
        a, sig, _ = at(name, ts[i])
        out = (
            a / a0 * x - weight * sig * (np.exp(r[i] * h) - 1) * first - weight * sig * d_weight * d
        )
        if z is not None:  # independent increments of the path between the stages
            edges = [0.0, *r]
            for j in range(i + 1):
                high, low = r[i] - edges[j], r[i] - edges[j + 1]
                out = out + sig * np.sqrt(np.exp(2 * high * h) - np.exp(2 * low * h)) * z[j]
        return out

    if order == 1:
        return move(0, m(x, t))
    u = move(0, m(x, t))
    if order == 2:
        return move(1, m(u, ts[0]))
    d1 = m(u, ts[0]) - m(x, t)
    factor = r[1] / r[0] * ((np.exp(r[1] * h) - 1) / (r[1] * h) - 1)
    u = move(1, m(x, t), factor, d1)
    d2 = m(u, ts[1]) - m(x, t)
    return move(2, m(x, t), ((np.exp(h) - 1) / h - 1) / r[1], d2)


def dpmpp(name, t, s, x, order):
    """DPM-Solver++(2S) with r_1 = 1/2 (Lu et al. 2022b, algorithm 1), and (3S) alike."""
    _, s0, l0 = at(name, t)
    h = at(name, s)[2] - l0
    if order == 2:
        mid = INVERSE[name](l0 + h / 2)
        a1, s1, _ = at(name, mid)
        u = s1 / s0 * x - a1 * (np.exp(-h / 2) - 1) * m(x, t)
        d = (1 - 1 / (2 * 0.5)) * m(x, t) + 1 / (2 * 0.5) * m(u, mid)
        a, sig, _ = at(name, s)
        return sig / s0 * x - a * (np.exp(-h) - 1) * d
    t1, t2 = (INVERSE[name](l0 + k * h) for k in (1 / 3, 2 / 3))
    a1, s1, _ = at(name, t1)
    a2, s2, _ = at(name, t2)
    a, sig, _ = at(name, s)
    u = s1 / s0 * x - a1 * (np.exp(-h / 3) - 1) * m(x, t)
    k = 2 * h / 3
    d1 = m(u, t1) - m(x, t)
    u = s2 / s0 * x - a2 * (np.exp(-k) - 1) * m(x, t) + 2 * a2 * ((np.exp(-k) - 1) / k + 1) * d1
    d2 = m(u, t2) - m(x, t)
    return sig / s0 * x - a * (np.exp(-h) - 1) * m(x, t) + 1.5 * a * ((np.exp(-h) - 1) / h + 1) * d2


@pytest.mark.parametrize("name", STEPS)
def test_one_step_is_the_papers_algorithm(name, x64):
    sde, (t, s), x = getattr(processes, name)(), STEPS[name], np.asarray([0.4, -1.7])
    z = np.random.default_rng(0).normal(size=(3, 2))

    def row(sampler):
        rows = jax.jit(sampler.prepare)(sde, jnp.asarray([t, s]))
        return jax.tree.map(lambda leaf: leaf[0], rows)

    for order in (2, 3):
        got = advance(m, jnp.asarray(x), row(dpm_solver(order)), None)
        np.testing.assert_allclose(got, dpm(name, t, s, x, order), rtol=1e-11)
        got = advance(m, jnp.asarray(x), row(dpmpp_singlestep(order)), None)
        np.testing.assert_allclose(got, dpmpp(name, t, s, x, order), rtol=1e-11)
    for stages in (1, 2, 3):
        got = advance(m, jnp.asarray(x), row(seeds(stages)), list(map(jnp.asarray, z[:stages])))
        np.testing.assert_allclose(got, dpm(name, t, s, x, stages, 2.0, z), rtol=1e-11)


def test_the_step_integrates_its_own_half(x64):
    """eps for DPM-Solver, x0 for DPM-Solver++: the other may be anything."""
    sde, ts, x = processes.vp(), jnp.asarray([0.7, 0.4]), jnp.asarray([0.3])
    nan = jnp.full(1, jnp.nan)
    for sampler, denoiser in (
        (dpm_solver(3), lambda x, t: Estimate(nan, jnp.sin(x))),
        (dpmpp_singlestep(3), lambda x, t: Estimate(jnp.sin(x), nan)),
    ):
        out, stats = sample(KEY, sampler, sde, denoiser, x, ts, denoise=False)
        assert np.all(np.isfinite(out))
        assert stats.nfe == 3


@pytest.mark.parametrize("make", [dpm_solver, dpmpp_singlestep])
@pytest.mark.parametrize("order", [2, 3])
def test_the_order_of_the_solve(make, order, x64):
    """On the mixture, whose nonlinearity the order conditions of the stages need."""
    ns = [32, 64, 128, 256, 512]
    errors = errors_on_gentle_grids(make(order), processes.vp(t_max=0.9), ns)
    assert order - 0.15 < -slope(ns, errors) < order + 0.5, errors


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_the_noise_of_the_stages_is_one_brownian_path(stages, x64):
    """y = x/alpha gains noise of variance r_t^2 - r^2 until r: the earlier stage's covariance."""
    sde = processes.vp()
    rows = jax.jit(seeds(stages).prepare)(sde, jnp.asarray([0.8, 0.5, 0.3]))
    for i, (t, s) in enumerate(((0.8, 0.5), (0.5, 0.3))):
        ts = [t, *np.asarray(rows.t[i, 1:]), s]
        alpha, sigma = (np.asarray(k(np.asarray(ts)), float) for k in PUBLISHED["vp"][:2])
        gained = (sigma[0] / alpha[0]) ** 2 - (sigma / alpha)[1:] ** 2
        covariance = alpha[1:, None] * alpha[None, 1:] * np.minimum(gained[:, None], gained[None])
        np.testing.assert_allclose(rows.d[i] @ rows.d[i].T, covariance, rtol=1e-10)


@pytest.mark.parametrize(
    "stages", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)]
)
def test_seeds_have_the_moments_of_the_mixture(stages):
    sde = processes.vp(t_min=0.01)
    ts = grids.uniform_log_snr(sde, 250 // stages)

    def run(key, sde, denoiser, x):
        return sample(key, seeds(stages), sde, denoiser, x, ts, denoise=False)

    assert_skewed_moments(run, sde)


@pytest.mark.parametrize("stages", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_seeds_have_strong_order_1(stages, x64):
    """Coarse and fine stages on one path of y = x/alpha, Brownian motion in r^2 = e^(-2 lambda)."""
    sde = processes.vp(t_min=0.02, t_max=0.9)
    denoiser = truth.denoiser(truth.mixture(*map(jnp.asarray, skewed(np.float64))), sde)
    finest, ns = 1024, [8, 16, 32, 64, 128]
    ts = np.asarray(grids.uniform_log_snr(sde, finest))
    alpha, sigma = (np.asarray(k(ts[[0, -1]]), float) for k in PUBLISHED["vp"][:2])
    # Stages are at equal steps of lambda, so the path is drawn there.
    r2 = np.exp(np.linspace(*(2 * np.log(sigma / alpha)), stages * finest + 1))
    random = np.random.default_rng(0)
    path = random.normal(size=(64, stages * finest)) * np.sqrt(-np.diff(r2))
    start = jnp.asarray(random.normal(size=64))
    sampler = seeds(stages)

    @jax.jit
    def run(z, ts):
        rows = sampler.prepare(sde, ts)

        def one(x, z):
            def step(x, inputs):
                z, row = inputs
                return advance(lambda x, t: denoiser(x, t).eps, x, row, list(z[:, None])), None

            return jax.lax.scan(step, x[None], (z, rows))[0][0]

        return jax.vmap(one)(start, z)

    def solve(n):
        stride = finest // n
        z = path.reshape(64, n, stages, stride).sum(-1)
        z = z / np.sqrt(-np.diff(r2[::stride])).reshape(1, n, stages)
        z = np.pad(z, ((0, 0), (0, finest - n), (0, 0)))
        return np.asarray(
            run(jnp.asarray(z), jnp.asarray(np.pad(ts[::stride], (0, finest - n), "edge")))
        )

    reference = solve(finest)
    errors = [np.sqrt(np.mean((solve(n) - reference) ** 2)) for n in ns]
    assert 0.85 < -slope(ns, errors) < 1.6, errors


@pytest.mark.parametrize(
    ("sampler", "start"),
    [(dpm_solver(2), 0.9), (dpm_solver(3), 0.9), (dpmpp_singlestep(2), 1.0),
     (dpmpp_singlestep(3), 1.0), (seeds(1), 0.9), (seeds(3), 0.9)],
)  # fmt: skip
def test_a_step_to_sigma_0_is_of_one_stage(sampler, start, x64):
    """It gives alpha x0 without noise; values and derivatives are finite, at alpha = 0 too."""
    sde, ts = processes.rectified_flow(), jnp.asarray([start, 0.6, 0.2, 0.0])

    def total(sde, ts):
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(sampler.prepare(sde, ts)))

    rows = jax.jit(sampler.prepare)(sde, ts)
    grads = jax.jit(jax.grad(total, (0, 1)))(sde, ts)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((rows, grads)))
    row = jax.tree.map(lambda leaf: leaf[-1], rows)
    x = jnp.asarray([0.7, -0.4])
    x0 = jnp.sin(3.0 * x)

    def denoiser(x, t):
        return Estimate(x0, (x - (1.0 - t) * x0) / t)

    np.testing.assert_allclose(sampler.step(denoiser, KEY, x, row), x0, atol=1e-14)
    np.testing.assert_allclose(row.t, 0.2, rtol=1e-14)


def test_eps_cannot_be_integrated_from_alpha_0():
    for sampler in (dpm_solver(3), seeds(2)):
        with pytest.raises(ValueError, match=r"where alpha = 0.*dpmpp_2s"):
            on_grid(sampler, 5, grids.uniform).require(processes.rectified_flow(), 1.0)
    on_grid(dpmpp_singlestep(3), 5, grids.uniform).require(processes.rectified_flow(), 1.0)


def test_other_orders_are_refused():
    with pytest.raises(ValueError, match=r"dpm_solver: got 1; expected one of \[2, 3\]"):
        dpm_solver(1)
    with pytest.raises(ValueError, match=r"dpmpp_singlestep: got 4; expected one of \[2, 3\]"):
        dpmpp_singlestep(4)
    with pytest.raises(ValueError, match=r"seeds: got 4; expected one of \[1, 2, 3\]"):
        seeds(4)
