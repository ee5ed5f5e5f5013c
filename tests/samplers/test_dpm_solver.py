"""DPM-Solver++(2M), (3M) and SDE (2M) against the recurrences of the paper, order and limits.

With lambda = log(alpha/sigma), h = lambda_s - lambda_t, phi1 = e^-h - 1 and phi2 = phi1/h + 1,
the authors write 2M as x_s = (sigma_s/sigma_t) x_t - alpha_s phi1 D, D = (1 + 1/(2r)) m_0 -
1/(2r) m_1, and 3M as x_s = (sigma_s/sigma_t) x_t - alpha_s phi1 m_0 + alpha_s phi2 D1 -
alpha_s phi3 D2 with phi3 = phi2/h - 1/2. Here they run on a list of given m.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import assert_skewed_moments
from local_error import LENGTHS, errors_on_gentle_grids, gaussian, one_step_errors
from oracles import PUBLISHED, skewed
from stats import slope

from sdejax import grids, processes, truth
from sdejax.samplers.adams import exponential_adams
from sdejax.samplers.ancestral import ancestral
from sdejax.samplers.base import sample
from sdejax.samplers.dpm_solver import dpmpp_2m, dpmpp_3m
from sdejax.samplers.exponential import DATA

KEY = jax.random.key(0)
TIMES = {
    "vp": [0.95, 0.7, 0.62, 0.35, 0.2, 0.04],
    "edm": [60.0, 21.0, 14.0, 3.0, 0.7, 0.02],
    "rectified_flow": [0.97, 0.8, 0.66, 0.35, 0.2, 0.03],
}
M = [0.7, -1.3, 0.4, 2.2, -0.6]


def paper(name, ts, method, eta=0.0, z=()):
    """The states of the published recurrence for x_T = 1.7 and x0 = M[i] at the i-th time."""
    alpha, sigma = (np.asarray(k(np.asarray(ts)), float) for k in PUBLISHED[name][:2])
    lam = np.log(alpha / sigma)
    x = 1.7
    for i in range(len(ts) - 1):
        h = lam[i + 1] - lam[i]
        a, s = alpha[i + 1], sigma[i + 1]
        phi1 = np.exp(-h) - 1
        if method == "2m_sde":
            data = M[i]
            if i > 0:
                r = (lam[i] - lam[i - 1]) / h
                data = M[i] + (M[i] - M[i - 1]) / (2 * r)
            x = (
                s / sigma[i] * np.exp(-h) * x
                + a * (1 - np.exp(-2 * h)) * data
                + s * np.sqrt(1 - np.exp(-2 * h)) * z[i]
            )
        elif method == "2m" or i < 2:
            data = M[i]
            slope_term = 0.0
            if i > 0:
                r0 = (lam[i] - lam[i - 1]) / h
                if method == "2m":
                    data = (1 + 1 / (2 * r0)) * M[i] - 1 / (2 * r0) * M[i - 1]
                else:  # 3M begins with the Taylor variant of second order
                    slope_term = a * (phi1 / h + 1) * (M[i] - M[i - 1]) / r0
            x = s / sigma[i] * x - a * phi1 * data + slope_term
        else:
            r0, r1 = (lam[i] - lam[i - 1]) / h, (lam[i - 1] - lam[i - 2]) / h
            d10, d11 = (M[i] - M[i - 1]) / r0, (M[i - 1] - M[i - 2]) / r1
            d1 = d10 + r0 / (r0 + r1) * (d10 - d11)
            d2 = (d10 - d11) / (r0 + r1)
            phi2 = phi1 / h + 1
            x = s / sigma[i] * x - a * phi1 * M[i] + a * phi2 * d1 - a * (phi2 / h - 0.5) * d2
    return x


def run(rows, z=None):
    """The rows of a multistep table applied to M."""
    x = 1.7
    for i in range(5):
        x = float(rows.a[i]) * x + sum(
            float(rows.b[i, j]) * M[i - j] for j in range(min(i + 1, rows.b.shape[1]))
        )
        if z is not None:
            x = x + float(rows.d[i]) * z[i]
    return x


@pytest.mark.parametrize("name", TIMES)
def test_rows_are_the_papers_recurrences(name, x64):
    sde, ts = getattr(processes, name)(), TIMES[name]
    z = [0.3, -1.1, 0.8, 2.0, -0.4]
    for sampler, method, eta in (
        (dpmpp_2m(), "2m", 0.0), (dpmpp_3m(), "3m", 0.0), (dpmpp_2m(eta=1.0), "2m_sde", 1.0),
    ):  # fmt: skip
        rows = jax.jit(lambda ts, sampler=sampler: sampler.prepare(sde, ts))(jnp.asarray(ts))
        noise = z if eta else None
        np.testing.assert_allclose(
            run(rows, noise), paper(name, ts, method, eta, z), rtol=1e-10, atol=1e-10
        )
        assert (rows.d is None) == (eta == 0.0)
        for i in range(5):  # nothing of evaluations that do not exist
            assert np.all(rows.b[i, i + 1 :] == 0.0)


def test_one_step_of_2m_and_3m_has_an_error_of_h_cubed(x64):
    """Of 3M as well, whose second difference has half its weight; the full weight gives h^4."""
    sde = processes.vp()
    full = one_step_errors(exponential_adams(3), sde, DATA.pick, 3)
    assert slope(LENGTHS, full) > 3.85, full
    published = one_step_errors(dpmpp_3m(), sde, DATA.pick, 3, LENGTHS / 16)
    two = one_step_errors(dpmpp_2m(), sde, DATA.pick, 2, LENGTHS / 16)
    assert 2.85 < slope(LENGTHS, published) < 3.2, published
    assert 2.85 < slope(LENGTHS, two) < 3.2, two
    assert published[-1] < two[-1]


def test_3m_has_half_of_the_quadratics_second_difference(x64):
    """The two tables differ by (phi2/h - 1/2) D2: seen on even steps and the data 1, -2, 1."""
    sde, h = processes.edm(0.01, 10.0), 0.3
    ts = jnp.exp(-h * jnp.arange(4.0))
    published = dpmpp_3m().prepare(sde, ts).b[-1]
    full = exponential_adams(3).prepare(sde, ts).b[-1]
    phi3 = ((np.exp(-h) - 1) / h + 1) / h - 0.5
    np.testing.assert_allclose(full - published, -0.5 * phi3 * np.asarray([1, -2, 1]), rtol=1e-9)


@pytest.mark.parametrize("make", [dpmpp_2m, dpmpp_3m])
def test_the_solve_has_order_2(make, x64):
    ns = [64, 128, 256, 512, 1024]
    errors = errors_on_gentle_grids(make(), processes.vp(t_max=0.9), ns)
    assert 1.85 < -slope(ns, errors) < 2.3, errors


def test_a_step_to_sigma_0_is_x0_and_from_alpha_0_forgets(x64):
    sde, ts = processes.rectified_flow(), jnp.asarray([1.0, 0.7, 0.5, 0.2, 0.0])
    for sampler in (dpmpp_2m(), dpmpp_3m(), dpmpp_2m(1.0), dpmpp_2m(0.5)):
        rows = sampler.prepare(sde, ts)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(rows))
        np.testing.assert_allclose(rows.a[-1], 0.0, atol=1e-15)
        np.testing.assert_allclose(rows.b[-1], np.eye(rows.b.shape[1])[0], atol=1e-15)
        np.testing.assert_allclose(rows.b[0], 0.3 * np.eye(rows.b.shape[1])[0], rtol=1e-12)
        if rows.d is not None:
            assert rows.d[-1] == 0.0  # sigma_s sqrt(1 - 0)
            np.testing.assert_allclose(rows.d[0], 0.7, rtol=1e-12)


def test_derivatives_are_finite_at_both_ends(x64):
    ts = jnp.asarray([1.0, 0.7, 0.5, 0.2, 0.0])
    for sampler in (dpmpp_2m(), dpmpp_3m(), dpmpp_2m(1.0)):

        def total(sde, ts, sampler=sampler):
            return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(sampler.prepare(sde, ts)))

        grads = jax.jit(jax.grad(total, (0, 1)))(processes.rectified_flow(), ts)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grads))


def test_one_step_of_the_sde_is_ancestral(x64):
    sde = processes.cosine()
    denoiser = truth.denoiser(gaussian(), sde)
    x, ts = jnp.asarray([0.4, -1.3]), jnp.asarray([0.8, 0.3])

    def end(sampler):
        return sample(KEY, sampler, sde, denoiser, x, ts, denoise=False)[0]

    np.testing.assert_allclose(end(dpmpp_2m(eta=1.0)), end(ancestral()), rtol=1e-12)


@pytest.mark.parametrize("eta", [1.0, pytest.param(0.5, marks=pytest.mark.slow)])
def test_samples_of_the_sde_have_the_moments_of_the_mixture(eta):
    sde = processes.vp(t_min=0.01)
    ts = grids.uniform_log_snr(sde, 120)

    def run(key, sde, denoiser, x):
        return sample(key, dpmpp_2m(eta), sde, denoiser, x, ts, denoise=False)

    assert_skewed_moments(run, sde)


def test_the_sde_has_strong_order_1(x64):
    """Coarse and fine steps on one Brownian path.

    With S = sigma e^-lambda the step is x_s/S_s = x_t/S_t + ... + N(0, SNR_s - SNR_t): the noise of
    x/S is Brownian motion in SNR, so noises of fine steps add there. A step's z is that increment
    over its standard deviation.
    """
    sde = processes.vp(t_min=0.02, t_max=0.9)
    denoiser = truth.denoiser(truth.mixture(*map(jnp.asarray, skewed(np.float64))), sde)
    finest, ns = 1024, [8, 16, 32, 64, 128]
    fine = np.asarray(grids.uniform_log_snr(sde, finest))
    snr = np.asarray((PUBLISHED["vp"].alpha(fine) / PUBLISHED["vp"].sigma(fine)) ** 2, float)
    random = np.random.default_rng(0)
    path = random.normal(size=(64, finest)) * np.sqrt(np.diff(snr))
    start = jnp.asarray(random.normal(size=64))

    def solve(n):
        stride = finest // n
        z = path.reshape(64, n, stride).sum(-1) / np.sqrt(np.diff(snr[::stride]))
        z, ts = (
            np.pad(z, ((0, 0), (0, finest - n))),
            np.pad(fine[::stride], (0, finest - n), "edge"),
        )
        return np.asarray(run(jnp.asarray(z), jnp.asarray(ts)))

    sampler = dpmpp_2m(eta=1.0)

    @jax.jit
    def run(z, ts):
        rows = sampler.prepare(sde, ts)

        def one(x, z):
            def advance(state, inputs):
                z, row = inputs
                still = sampler.step(denoiser, KEY, state, row._replace(d=None))
                return still._replace(x=still.x + row.d * z), None

            return jax.lax.scan(advance, sampler.init(x[None]), (z[:, None], rows))[0].x[0]

        return jax.vmap(one)(start, z)

    reference = solve(finest)
    errors = [np.sqrt(np.mean((solve(n) - reference) ** 2)) for n in ns]
    assert 0.85 < -slope(ns, errors) < 1.4, errors


def test_a_negative_eta_is_refused():
    with pytest.raises(ValueError, match=r"dpmpp_2m: got eta=-0.5; expected a number >= 0"):
        dpmpp_2m(-0.5)
