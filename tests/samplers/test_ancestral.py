import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import PUBLISHED, plane, skewed, skewed_moments, smooth_grid
from stats import assert_moments, slope

from sdejax import dynamics, grids, processes, truth
from sdejax.samplers.ancestral import ancestral, ddim, euler_maruyama, reverse_diffusion
from sdejax.samplers.base import sample
from sdejax.samplers.diffeq import solve_ode
from sdejax.sde import coefficients

COUNT = 4096
KEY = jax.random.key(0)


@pytest.mark.parametrize(
    "make", [processes.vp, pytest.param(processes.rectified_flow, marks=pytest.mark.slow)]
)
def test_ddim_has_order_1(make, x64):
    sde = make(t_min=0.05, t_max=0.9)
    denoiser = truth.denoiser(plane(), sde)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 2)))
    tight = dfx.PIDController(rtol=1e-11, atol=1e-11)

    def exact(x):
        return solve_ode(sde, denoiser, x, solver=dfx.Dopri8(), controller=tight, denoise=False)[0]

    def run(x, ts):
        return sample(KEY, ddim(), sde, denoiser, x, ts, denoise=False)[0]

    reference = jax.jit(jax.vmap(exact))(x)
    run = jax.jit(jax.vmap(run, in_axes=(0, None)))
    ns, errors = [16, 32, 64, 128, 256], []
    for n in ns:
        # One compilation serves all: a step of length zero at the end changes nothing.
        ts = np.pad(smooth_grid(n), (0, ns[-1] - n), mode="edge")
        errors.append(np.sqrt(np.mean((run(x, jnp.asarray(ts)) - reference) ** 2)))
    assert -1.1 < slope(ns, errors) < -0.9, errors
    assert errors[-1] < 5e-3


def test_ddim_is_euler_in_noise_coordinates(x64):
    """y = x/alpha, r = sigma/alpha: y += (r_s - r_t) eps, from the published alpha and sigma."""
    sde, p = processes.cosine(), PUBLISHED["cosine"]
    denoiser = truth.denoiser(plane(), sde)
    ts = smooth_grid(20)
    alpha, sigma = (k(ts.astype(np.longdouble)).astype(float) for k in (p.alpha, p.sigma))
    x = jnp.asarray([0.4, -1.3])
    y = x / alpha[0]
    eps = jax.jit(lambda x, t: denoiser(x, t).eps)
    for i in range(20):
        r = sigma / alpha
        y = y + (r[i + 1] - r[i]) * eps(alpha[i] * y, jnp.asarray(ts[i]))
    out, _ = jax.jit(
        lambda x: sample(KEY, ddim(), sde, denoiser, x, jnp.asarray(ts), denoise=False)
    )(x)
    np.testing.assert_allclose(out, y * alpha[-1], rtol=1e-12)


def test_ancestral_steps_are_the_gaussian_posterior(x64):
    """eta = 1 is DDPM's q(x_s | x_t, x_0): by conditioning the joint Gaussian of x_s and x_t.

    x_t = k x_s + sqrt(v) z' given x_0, so precisions add: 1/var = 1/sigma_s^2 + k^2/v.
    """
    sde, p = processes.vp(), PUBLISHED["vp"]
    ts = np.asarray([0.7, 0.4, 0.1])
    rows = ancestral().prepare(sde, jnp.asarray(ts))
    a, s = (k(ts.astype(np.longdouble)).astype(float) for k in (p.alpha, p.sigma))
    x0, eps = 0.8, -1.7
    for i in range(2):
        k = a[i] / a[i + 1]
        v = s[i] ** 2 - k**2 * s[i + 1] ** 2
        variance = 1 / (1 / s[i + 1] ** 2 + k**2 / v)
        x_t = a[i] * x0 + s[i] * eps
        mean = variance * (a[i + 1] * x0 / s[i + 1] ** 2 + k * x_t / v)
        got = rows.a[i] * x_t + rows.b[i] * x0 + rows.c[i] * eps
        np.testing.assert_allclose(got, mean, rtol=1e-12)
        np.testing.assert_allclose(rows.d[i], np.sqrt(variance), rtol=1e-12)
    # In between the marginal of x_s given x_0 stays: c^2 + d^2 = sigma_s^2.
    between = ddim(0.4).prepare(sde, jnp.asarray(ts))
    np.testing.assert_allclose(between.c**2 + between.d**2, s[1:] ** 2, rtol=1e-12)
    np.testing.assert_allclose(between.d, 0.4 * rows.d, rtol=1e-12)


def test_reverse_diffusion_is_the_papers_for_the_ddpm_chain(x64):
    """Song et al. 2021, eq. 46: x (2 - sqrt(1 - b)) + b score + sqrt(b) z."""
    sde = processes.vp()
    ts = np.asarray([0.7, 0.4, 0.1])
    integral = 0.1 * ts + 19.9 * ts**2 / 2
    b = 1 - np.exp(integral[1:] - integral[:-1])
    rows = reverse_diffusion().prepare(sde, jnp.asarray(ts))
    sigma = np.sqrt(1 - np.exp(-integral))[:-1]
    np.testing.assert_allclose(rows.a, 2 - np.sqrt(1 - b), rtol=1e-12)
    np.testing.assert_allclose(rows.b, 0.0, atol=1e-12)
    np.testing.assert_allclose(rows.c * -sigma, b, rtol=1e-12)
    np.testing.assert_allclose(rows.d, np.sqrt(b), rtol=1e-12)


CASES = {
    "ancestral-vp": (ancestral(), processes.vp(), grids.uniform_log_snr),
    "ddim-half-sub_vp": (ddim(0.5), processes.sub_vp(), grids.uniform_log_snr),
    "reverse_diffusion-ve": (reverse_diffusion(), processes.ve(0.05, 10.0), grids.uniform),
    "em-g-vp": (euler_maruyama(), processes.vp(t_min=0.01), grids.quadratic),
    "em-g-edm": (euler_maruyama(), processes.edm(0.05, 10.0), grids.karras),
    "em-sigma-rf": (
        euler_maruyama(dynamics.sigma_noise), processes.rectified_flow(0.02), grids.uniform
    ),
    "em-0-rf": (euler_maruyama(dynamics.no_noise), processes.rectified_flow(0.02), grids.uniform),
}  # fmt: skip


SHORT = ("ancestral-vp", "reverse_diffusion-ve", "em-sigma-rf")
ALL = [c if c in SHORT else pytest.param(c, marks=pytest.mark.slow) for c in CASES]


@pytest.mark.parametrize("case", ALL)
def test_samples_have_the_moments_of_the_mixture(case):
    """From exact draws of p at t_max: mean, variance and skewness at t_min, in standard errors."""
    sampler, sde, grid = CASES[case]
    dist = truth.mixture(*map(jnp.asarray, skewed()))
    denoiser = truth.denoiser(dist, sde)
    ts = grid(sde, 250)
    start = coefficients(sde, sde.t_max)

    def draw(key):
        data_key, noise_key, solve_key = jax.random.split(key, 3)
        x = start.alpha * truth.sample(data_key, dist)
        x = x + start.sigma * jax.random.normal(noise_key, (1,))
        return sample(solve_key, sampler, sde, denoiser, x, ts, denoise=False)

    x, stats = jax.jit(jax.vmap(draw))(jax.random.split(KEY, COUNT))
    end = coefficients(sde, sde.t_min)
    assert_moments(x[:, 0], *skewed_moments(end.alpha, end.sigma))
    assert np.all(stats.nfe == 250)
    assert np.all(stats.result == 0)


def test_the_linear_path_starts_at_alpha_0(x64):
    """From t = 1, where f and g are infinite, DDIM converges to the exact flow of a Gaussian."""
    sde = processes.rectified_flow()
    dist = truth.gaussian(jnp.asarray([0.5, -1.0]), jnp.asarray([[1.0, 0.4], [0.4, 0.5]]))
    z = jnp.asarray([0.7, -1.3])
    start, end = (truth.gaussian_flow(dist, sde, z, t) for t in (sde.t_max, sde.t_min))
    errors = []
    for n in (50, 100, 200):
        x, _ = sample(
            KEY, ddim(), sde, truth.denoiser(dist, sde), start, grids.uniform(sde, n),
            denoise=False,
        )  # fmt: skip
        errors.append(float(jnp.abs(x - end).max()))
    assert errors[0] < 0.05
    assert 0.85 < np.log2(errors[0] / errors[1]) < 1.15
    assert 0.85 < np.log2(errors[1] / errors[2]) < 1.15


@pytest.mark.parametrize("make", [ancestral, reverse_diffusion])
def test_noisy_samplers_start_the_linear_path_at_alpha_0(make):
    """The first step forgets x_1: the moments after it in closed form."""
    sde = processes.rectified_flow(t_min=0.5)
    mean, variance = 0.5, 0.09
    dist = truth.gaussian(jnp.asarray([mean]), jnp.asarray([[variance]]))
    one_step = jnp.asarray([1.0, 0.5])

    def draw(key):
        prior_key, key = jax.random.split(key)
        x = jax.random.normal(prior_key, (1,))
        return sample(key, make(), sde, truth.denoiser(dist, sde), x, one_step, denoise=False)[0]

    x = jax.jit(jax.vmap(draw))(jax.random.split(KEY, 4096))[:, 0]
    # Ancestral: 0.5 E[x0] + 0.5 z. Reverse diffusion: 2 x_1 - x_1 + z, since k = 0 and v = 1.
    expected = {ancestral: (0.5 * mean, 0.25), reverse_diffusion: (0.0, 2.0)}[make]
    assert abs(np.mean(x) - expected[0]) < 5 * np.sqrt(expected[1] / 4096)
    assert abs(np.var(x) / expected[1] - 1) < 5 * np.sqrt(2 / 4096)


def test_eta_outside_0_to_1_is_refused():
    with pytest.raises(ValueError, match=r"ddim: got eta=1.5; expected a number in \[0, 1\]"):
        ddim(1.5)
