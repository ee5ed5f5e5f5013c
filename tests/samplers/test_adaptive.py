"""Gotta Go Fast: its step against NumPy, counts, tolerance, the limit, result codes."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import skewed, skewed_moments
from stats import assert_moments, slope

from sdejax import dynamics, processes, truth
from sdejax.conditioning import raw_time
from sdejax.denoiser import make_model, no_scaling
from sdejax.prediction import Estimate, x0
from sdejax.samplers.adaptive import _path, gotta_go_fast
from sdejax.samplers.diffeq import solve_ode
from sdejax.samplers.make import make_sampler
from sdejax.sde import coefficients, diffusion

KEY = jax.random.key(0)
SLOW = pytest.mark.slow
VP = processes.vp(t_min=0.05, t_max=0.9)


def line(dtype=np.float64):
    return truth.mixture(*map(jnp.asarray, skewed(dtype)))


def wavy(x, t):
    """An estimate that jumps, so that steps are rejected."""
    return Estimate(jnp.where(t < 0.4, 5.0, -1.0).astype(x.dtype) * jnp.sin(5 * x), x)


@pytest.mark.parametrize(("noise", "limit"), [(dynamics.no_noise, 4096), (diffusion, 5)])
def test_it_is_algorithm_1_in_numpy(noise, limit, x64):
    """The paper's loop for the published VP, on one Brownian path and a denoiser that jumps.

    A few steps with noise: the path is rough, so that roundings of t grow like their square root.
    """
    eps_abs, eps_rel, t, t_min, on = 0.01, 0.05, 0.9, 0.05, float(noise is diffusion)
    path = _path(KEY, diffusion, jnp.asarray(0.85), jnp.zeros(2))

    def drift(x, t):
        """f x - (1 + on) g^2 score / 2 with score = -eps/sigma."""
        beta, total = 0.1 + 19.9 * t, 0.1 * t + 19.9 * t * t / 2
        alpha, sigma = np.exp(-total / 2), np.sqrt(-np.expm1(-total))
        x0 = (5.0 if t < 0.4 else -1.0) * np.sin(5 * x)
        eps = (x - alpha * x0) / sigma
        return -0.5 * beta * x + 0.5 * (1 + on) * beta * eps / sigma

    def g(t):
        return on * np.sqrt(0.1 + 19.9 * t)

    def brownian(t):
        return np.asarray(path.evaluate(jnp.asarray(0.9 - t)))

    x = np.asarray([0.3, -1.2])
    h, previous, attempts, taken = 0.01 * (t - t_min), x, 0, 0
    while t > t_min and attempts < limit:
        s = t - h if h < t - t_min else t_min
        root_h_z = brownian(s) - brownian(t)
        euler = x - h * drift(x, t) + g(t) * root_h_z
        improved = 0.5 * (euler + x - h * drift(euler, s) + g(s) * root_h_z)
        delta = np.maximum(eps_abs, eps_rel * np.maximum(np.abs(euler), np.abs(previous)))
        error = np.linalg.norm((euler - improved) / delta) / np.sqrt(2)
        attempts += 1
        if error <= 1:
            x, t, previous, taken = improved, s, euler, taken + 1
        h = min(t - t_min, 0.9 * h * error**-0.9)

    def denoiser(x, t):
        c = coefficients(VP, t)
        guess = wavy(x, t).x0
        return Estimate(guess, (x - c.alpha * guess) / c.sigma)

    method = gotta_go_fast(noise, eps_abs=eps_abs, eps_rel=eps_rel, max_steps=limit, denoise=False)
    out, stats = jax.jit(lambda x: method.run(KEY, VP, denoiser, x))(jnp.asarray([0.3, -1.2]))
    np.testing.assert_allclose(out, x, rtol=1e-6)
    assert stats.nfe == 2 * attempts
    assert stats.result == (0 if t == t_min else 1)
    assert taken < attempts, "no step was rejected"


@pytest.mark.parametrize("noise", [dynamics.no_noise, pytest.param(diffusion, marks=SLOW)])
def test_evaluations_are_counted_per_example(noise):
    calls = []

    def counted(x, t):
        jax.debug.callback(lambda t: calls.append(float(t)), t)
        return wavy(x, t)

    method = gotta_go_fast(noise, eps_abs=0.05, eps_rel=0.05)
    keys, xs, counts = jax.random.split(KEY, 3), jnp.asarray([[0.3], [2.0], [-1.0]]), []
    one = jax.jit(lambda key, x: method.run(key, VP, counted, x)[1].nfe)
    for key, x in zip(keys, xs, strict=True):
        calls.clear()
        nfe = one(key, x)
        jax.effects_barrier()
        assert nfe == len(calls)
        assert np.any(np.diff(calls[::2]) >= 0), "no step was rejected"
        counts.append(int(nfe))
    together = jax.jit(jax.vmap(lambda key, x: method.run(key, VP, wavy, x)[1].nfe))(keys, xs)
    if noise is dynamics.no_noise:  # with noise roundings of t change the rough path, and the steps
        np.testing.assert_array_equal(together, counts)
    assert len(set(np.asarray(together).tolist())) > 1


def test_the_error_of_the_ode_follows_the_tolerance(x64):
    denoiser = truth.denoiser(line(), VP)
    x, tight = jnp.asarray([[0.7], [-1.3], [0.1]]), dfx.PIDController(rtol=1e-11, atol=1e-11)

    def exact(x):
        return solve_ode(VP, denoiser, x, solver=dfx.Dopri8(), controller=tight, denoise=False)[0]

    def run(x, tol):
        method = gotta_go_fast(
            dynamics.no_noise, eps_abs=tol, eps_rel=tol, max_steps=20_000, denoise=False
        )
        return method.run(KEY, VP, denoiser, x)[0]

    reference = jax.jit(jax.vmap(exact))(x)
    tolerances, errors = [1e-2, 1e-3, 1e-4, 1e-5], []
    for tol in tolerances:
        out = jax.jit(jax.vmap(lambda x, tol=tol: run(x, tol)))(x)
        errors.append(np.sqrt(np.mean((out - reference) ** 2)))
    assert 0.7 <= slope(tolerances, errors) <= 1.3, (slope(tolerances, errors), errors)


CASES = {
    "g-vp": (processes.vp(t_min=0.01), diffusion),
    "g-edm": (processes.edm(0.02, 10.0), diffusion),
    "sigma-rf": (processes.rectified_flow(0.02), dynamics.sigma_noise),
    "ode-rf": (processes.rectified_flow(0.02), dynamics.no_noise),
}  # fmt: skip
ALL = [case if case == "g-vp" else pytest.param(case, marks=SLOW) for case in CASES]


@pytest.mark.parametrize("case", ALL)
def test_samples_have_the_moments_of_the_mixture(case):
    """On a line the path has to outlive rejections: with fresh noise the variance is far off."""
    sde, noise = CASES[case]
    denoiser, dist = truth.denoiser(line(np.float32), sde), line(np.float32)
    start, end = coefficients(sde, sde.t_max), coefficients(sde, sde.t_min)
    method = gotta_go_fast(noise, eps_rel=0.0078, denoise=False)

    def draw(key):
        data_key, noise_key, solve_key = jax.random.split(key, 3)
        x = start.alpha * truth.sample(data_key, dist)
        x = x + start.sigma * jax.random.normal(noise_key, (1,))
        return method.run(solve_key, sde, denoiser, x)

    x, stats = jax.jit(jax.vmap(draw))(jax.random.split(KEY, 4096))
    np.testing.assert_array_equal(stats.result, 0)
    assert_moments(x[:, 0], *skewed_moments(end.alpha, end.sigma))


def test_failures_are_result_codes():
    def bad(x, t):
        return Estimate(jnp.where(t < 0.5, jnp.nan, x), x)

    x = jnp.ones((2,))
    run = lambda denoiser, **options: jax.jit(  # noqa: E731
        lambda x: gotta_go_fast(dynamics.no_noise, **options).run(KEY, VP, denoiser, x)
    )(x)[1]
    short = run(wavy, max_steps=3, denoise=False)
    assert (short.result, short.nfe) == (1, 6)
    assert run(bad, max_steps=50, denoise=False).result == 2


def test_it_draws_batches_whose_examples_do_not_see_each_other():
    def network(params, x, t, cond):
        return 0.3 * x

    model = make_model(network, x0, batched=False, scaling=no_scaling, conditioning=raw_time)
    draw = make_sampler(model, gotta_go_fast(), (2,))
    x, stats = draw(None, VP, KEY, jnp.arange(5))
    few, _ = draw(None, VP, KEY, jnp.asarray([3, 4, 7, 8, 9]))
    np.testing.assert_array_equal(x[3:], few[:2])
    assert len(set(np.asarray(stats.nfe).tolist())) > 1
    with pytest.raises(ValueError, match=r"noise 'diffusion': got w\(1.0\) = inf"):
        draw(None, processes.rectified_flow(), KEY, jnp.arange(5))


@pytest.mark.parametrize("name", ["eps_abs", "eps_rel", "first", "safety", "exponent", "max_steps"])
def test_numbers_that_are_not_positive_are_refused(name):
    with pytest.raises(ValueError, match=rf"gotta_go_fast: got {name}=0.* expected a positive"):
        gotta_go_fast(**{name: 0 if name == "max_steps" else 0.0})
