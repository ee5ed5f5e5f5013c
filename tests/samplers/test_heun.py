import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import (
    KEY,
    assert_counted,
    assert_float64_and_gradient,
    assert_pure,
    assert_skewed_moments,
    gaussian_denoiser,
)
from oracles import PROCESSES, PUBLISHED, plane, smooth_grid
from stats import slope

from sdejax import grids, processes, truth
from sdejax.prediction import Estimate
from sdejax.samplers.base import on_grid, sample
from sdejax.samplers.diffeq import solve_ode
from sdejax.samplers.heun import heun

SLOW = pytest.mark.slow


@pytest.mark.parametrize("make", [processes.vp, pytest.param(processes.rectified_flow, marks=SLOW)])
def test_heun_has_order_2(make, x64):
    sde = make(t_min=0.05, t_max=0.9)
    denoiser = truth.denoiser(plane(), sde)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 2)))
    tight = dfx.PIDController(rtol=1e-11, atol=1e-11)

    def exact(x):
        return solve_ode(sde, denoiser, x, solver=dfx.Dopri8(), controller=tight, denoise=False)[0]

    def run(x, ts):
        return sample(KEY, heun(), sde, denoiser, x, ts, denoise=False)[0]

    reference = jax.jit(jax.vmap(exact))(x)
    run = jax.jit(jax.vmap(run, in_axes=(0, None)))
    ns, errors = [32, 64, 128, 256, 512], []
    for n in ns:
        # One compilation serves all: a step of length zero at the end changes nothing.
        ts = np.pad(smooth_grid(n), (0, ns[-1] - n), mode="edge")
        errors.append(np.sqrt(np.mean((run(x, jnp.asarray(ts)) - reference) ** 2)))
    assert -2.15 < slope(ns, errors) < -1.85, errors
    assert errors[-1] < 1e-4


def test_it_is_algorithm_1_of_edm_in_noise_coordinates(x64):
    """In the paper's symbols, d = (y - D(y; r))/r, from the published alpha and sigma."""
    sde, p = processes.cosine(), PUBLISHED["cosine"]
    dist, ts = plane(), smooth_grid(8)
    exact = ts.astype(np.longdouble)
    alpha, r = p.alpha(exact).astype(float), (p.sigma(exact) / p.alpha(exact)).astype(float)
    x = jnp.asarray([0.4, -1.3])
    y = x / alpha[0]
    denoise = jax.jit(lambda x, t: truth.estimate(dist, sde, x, t).x0)
    for i in range(8):
        d = (y - denoise(alpha[i] * y, jnp.asarray(ts[i]))) / r[i]
        euler = y + (r[i + 1] - r[i]) * d
        d2 = (euler - denoise(alpha[i + 1] * euler, jnp.asarray(ts[i + 1]))) / r[i + 1]
        y = y + (r[i + 1] - r[i]) * (d + d2) / 2
    run = jax.jit(
        lambda x: sample(
            KEY, heun(), sde, truth.denoiser(dist, sde), x, jnp.asarray(ts), denoise=False
        )[0]
    )
    np.testing.assert_allclose(run(x), alpha[-1] * y, rtol=1e-11)


@pytest.mark.parametrize("name", ["vp", "ve", "edm"])
def test_churn_goes_up_to_the_papers_level_and_keeps_the_marginal(name, x64):
    """Given x0, x_hat has the mean and the variance of the process at the raised time."""
    sde, p = PROCESSES[name](), PUBLISHED[name]
    ts = np.asarray(grids.karras(sde, 7)).astype(np.longdouble)
    alpha, sigma = p.alpha(ts).astype(float), p.sigma(ts).astype(float)
    r = sigma / alpha
    low, high = 0.9 * r[5], 1.1 * r[2]
    for churn, gamma in ((2.0, 2.0 / 8), (80.0, np.sqrt(2) - 1)):  # N = 8 with the last step to 0
        rows = heun(churn, low, high).prepare(sde, jnp.asarray(ts.astype(float)))
        t_hat = np.asarray(rows.raised).astype(np.longdouble)
        up = [1.0 + gamma if 2 <= i <= 5 else 1.0 for i in range(7)]
        np.testing.assert_allclose(
            (p.sigma(t_hat) / p.alpha(t_hat)).astype(float) / r[:-1], up, rtol=1e-9
        )
        np.testing.assert_allclose(rows.keep * alpha[:-1], p.alpha(t_hat).astype(float), rtol=1e-9)
        variance = (rows.keep * sigma[:-1]) ** 2 + rows.fresh**2
        np.testing.assert_allclose(variance, p.sigma(t_hat).astype(float) ** 2, rtol=1e-9)
        np.testing.assert_array_equal(
            np.asarray(rows.raised)[[0, 1, 6]], ts.astype(float)[[0, 1, 6]]
        )
    louder = heun(80.0, low, high, 1.007).prepare(sde, jnp.asarray(ts.astype(float)))
    np.testing.assert_allclose(louder.fresh, 1.007 * rows.fresh, rtol=1e-12)


def test_levels_are_not_raised_above_that_of_t_max(x64):
    """On every level: the first stays, the second is raised to the first at most."""
    sde = processes.vp()
    ts = jnp.asarray([sde.t_max, 0.99, 0.5, 0.1])
    rows = heun(100.0).prepare(sde, ts)
    assert rows.raised[0] == sde.t_max
    assert rows.fresh[0] == 0
    np.testing.assert_allclose(rows.raised[1], sde.t_max, rtol=1e-12)
    assert 0.5 < rows.raised[2] < 0.99
    assert np.all(rows.fresh[1:] > 0)


CASES = {
    "vp": processes.vp(t_min=0.01),
    "edm": pytest.param(processes.edm(0.05, 20.0), marks=SLOW),
    "ve": pytest.param(processes.ve(0.05, 10.0), marks=SLOW),
}


@pytest.mark.parametrize("sde", CASES.values(), ids=CASES)
def test_churned_samples_have_the_moments_of_the_mixture(sde):
    method = on_grid(heun(30.0), 100, grids.karras, denoise=False)
    assert np.all(assert_skewed_moments(method.run, sde).nfe == 200)


def test_evaluations_are_those_of_edm():
    """17 steps and the denoising step are the paper's N = 18 and 35 evaluations."""
    method = on_grid(heun(10.0), 17, grids.karras)
    assert_counted(method.run, processes.edm(), 35)


def test_a_step_to_sigma_0_is_eulers_and_finite():
    """A denoiser that is NaN at sigma = 0, as an x0 network's eps is; the evaluation counts."""
    sde = processes.edm(0.01, 5.0)
    ts = jnp.asarray([5.0, 1.0, 0.1, 0.0])
    inner = gaussian_denoiser(sde)

    def denoiser(x, t):
        x0, eps = inner(x, t)
        return Estimate(x0, jnp.where(t == 0, jnp.nan, eps))

    x = jnp.asarray([3.0, -4.0])
    for churn in (0.0, 1.0):
        run = jax.jit(
            lambda x, ts, churn=churn: sample(KEY, heun(churn), sde, denoiser, x, ts, denoise=False)
        )
        out, stats = run(x, ts)
        assert stats.result == 0
        assert stats.nfe == 6
    before, _ = sample(KEY, heun(), sde, denoiser, x, ts[:3], denoise=False)
    out, _ = sample(KEY, heun(), sde, denoiser, x, ts, denoise=False)
    np.testing.assert_allclose(out, denoiser(before, ts[2]).x0, rtol=1e-6)
    calls = assert_counted(
        lambda key, sde, denoiser, x: sample(key, heun(), sde, denoiser, x, ts, denoise=False),
        sde,
        6,
    )
    assert min(calls) == np.float32(0.1)


def test_a_run_is_pure(strict):
    assert_pure(on_grid(heun(10.0), 6, grids.karras).run, processes.vp())


def test_a_run_has_float64_and_gradients(x64):
    method = on_grid(heun(10.0), 6, grids.karras)
    assert_float64_and_gradient(method.run, lambda beta_max: processes.VP(beta_max=beta_max))


def test_bad_arguments_are_refused():
    for arguments, message in (
        ({"churn": -1.0}, "got churn=-1.0; expected a finite number of at least 0"),
        ({"churn_min": 2.0, "churn_max": 1.0}, "got churn_min=2.0, churn_max=1.0; expected"),
        ({"churn_noise": 0.0}, "got churn_noise=0.0; expected a positive number"),
    ):
        with pytest.raises(ValueError, match=message):
            heun(**arguments)
    sde = processes.rectified_flow()
    with pytest.raises(
        ValueError, match=r"heun: got t_max=1.0 of RectifiedFlow, where alpha = 0.*smaller t_max"
    ):
        heun().require(sde, sde.t_max)
