import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from oracles import PROCESSES, PUBLISHED, interior
from stats import assert_mean

from sdejax import prediction, processes, truth
from sdejax.samplers.ancestral import ddim
from sdejax.samplers.base import sample
from sdejax.sde import (
    SDE,
    coefficients,
    diffusion,
    drift,
    log_snr,
    perturb,
    prior_log_prob,
    prior_sample,
)


class Trigonometric(SDE):
    rate: float = 1.0
    t_max: float = 1.5

    def alpha(self, t):
        return jnp.cos(self.rate * t)

    def sigma(self, t):
        return jnp.sin(self.rate * t)


@pytest.mark.parametrize("name", PROCESSES)
def test_drift_and_diffusion_are_the_published_ones(name, x64):
    sde, published = PROCESSES[name](), PUBLISHED[name]
    ts = interior(name)
    x = jnp.asarray([1.0, -2.0])
    both = jax.jit(jax.vmap(lambda t: (drift(sde, x, t), diffusion(sde, t))))
    f, g = both(jnp.asarray(ts))
    expected_f = published.f(ts.astype(np.longdouble)).astype(float)
    expected_g = published.g(ts.astype(np.longdouble)).astype(float)
    assert np.all(np.isfinite(f))
    assert np.all(np.isfinite(g))
    np.testing.assert_allclose(f, expected_f[:, None] * np.asarray([1.0, -2.0]), rtol=1e-10)
    np.testing.assert_allclose(g, expected_g, rtol=1e-10)


@pytest.mark.parametrize("name", ["sub_vp", "cosine"])
def test_derivatives_agree_with_central_differences(name, x64):
    sde = PROCESSES[name]()
    ts = jnp.asarray(interior(name, n=8)[2:-2])
    step = 1e-5 * ts
    c = jax.jit(jax.vmap(lambda t: coefficients(sde, t)))(ts)
    for value, slope in ((sde.alpha, c.dalpha), (sde.sigma, c.dsigma)):
        value = jax.jit(jax.vmap(value))
        difference = (value(ts + step) - value(ts - step)) / (2 * step)
        np.testing.assert_allclose(slope, difference, rtol=1e-6, atol=1e-9)


def test_the_linear_path_has_finite_coefficients_but_infinite_f_and_g_at_its_end():
    sde = processes.rectified_flow()
    assert np.all(np.isfinite(np.asarray(coefficients(sde, 1.0))))
    assert np.isneginf(drift(sde, jnp.ones(()), 1.0))
    assert np.isposinf(diffusion(sde, 1.0))
    assert np.isneginf(log_snr(sde, 1.0))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_dtypes_follow_the_arguments_under_strict_promotion(dtype, x64):
    def everything(sde, t, x):
        return [
            *coefficients(sde, t),
            drift(sde, x, t),
            diffusion(sde, t),
            log_snr(sde, t),
            perturb(sde, x, x, t),
            sde.time_of_log_snr(log_snr(sde, t)),
            prior_log_prob(sde, x),
            prior_sample(jax.random.key(0), sde, (2,), dtype),
        ]

    t, x = jax.ShapeDtypeStruct((), dtype), jax.ShapeDtypeStruct((2, 3), dtype)
    for sde in [*(make() for make in PROCESSES.values()), Trigonometric()]:
        # The fields stay Python numbers, as they are outside of jit.
        out = jax.eval_shape(partial(everything, sde), t, x)
        assert {leaf.dtype for leaf in out} == {jnp.dtype(dtype)}


def test_perturb_is_the_definition(strict):
    sde = processes.vp()
    x0, eps = jnp.asarray([1.0, 2.0]), jnp.asarray([0.5, -1.0])
    published, t = PUBLISHED["vp"], np.longdouble(np.float32(0.3))
    expected = published.alpha(t) * np.asarray(x0) + published.sigma(t) * np.asarray(eps)
    np.testing.assert_allclose(perturb(sde, x0, eps, 0.3), expected.astype(float), rtol=1e-6)


def test_changing_a_field_or_the_time_compiles_nothing_anew():
    traces = []

    @jax.jit
    def g(sde, t):
        traces.append(1)
        return diffusion(sde, t)

    values = [g(processes.vp(beta_max=b), t) for b in (5.0, 10.0, 20.0) for t in (0.1, 0.2)]
    assert len(traces) == 1
    assert len({float(v) for v in values}) == 6


def test_a_jitted_function_never_takes_one_process_for_another():
    """A cache of compiled functions tells arguments apart by the structures of their trees.

    Of 400 dataclasses registered by ``jax.tree_util.register_dataclass`` 65 got another's result.
    """
    defaults = [make() for make in PROCESSES.values()]
    assert len({jax.tree.structure(sde) for sde in defaults}) == len(defaults)
    for sde, other in itertools.combinations(defaults, 2):
        assert jax.tree.structure(sde) != jax.tree.structure(other)

    g = jax.jit(lambda sde: sde.alpha(sde.t_min))
    kinds = [
        type(f"Process{i}", (SDE,), {"alpha": lambda self, t, i=i: jnp.float32(i) + 0.0 * t})
        for i in range(200)
    ]
    assert [float(g(kind())) for kind in kinds] == list(range(200))


@pytest.mark.parametrize("name", PROCESSES)
def test_prior_log_prob_against_scipy(name):
    sde = PROCESSES[name]()
    x = 3.0 * jax.random.normal(jax.random.key(1), (4, 2))
    std = PUBLISHED[name].prior_std
    expected = scipy.stats.norm(scale=std).logpdf(np.asarray(x, np.float64)).sum()
    np.testing.assert_allclose(prior_log_prob(sde, x), expected, rtol=2e-6)


def test_prior_sample_has_the_moments_of_the_prior():
    sde = processes.ve(sigma_max=7.0)
    keys = jax.random.split(jax.random.key(2), 20_000)
    x = jax.vmap(lambda key: prior_sample(key, sde, (2,)))(keys)
    assert_mean(x, 0.0)
    assert_mean(np.asarray(x, float) ** 2, 49.0)
    assert_mean(np.asarray(x, float).prod(axis=1), 0.0)


def test_a_process_without_alpha_says_so():
    class Empty(SDE):
        pass

    with pytest.raises(TypeError, match=r"Empty has to define alpha"):
        Empty().alpha(0.1)
    with pytest.raises(TypeError, match=r"Empty has to define sigma"):
        Empty().sigma(0.1)


def test_a_users_process_jit_vmap_grad(x64):
    ts = jnp.linspace(0.1, 1.4, 5)
    c = jax.jit(jax.vmap(coefficients, in_axes=(None, 0)))(Trigonometric(), ts)
    np.testing.assert_allclose(c.dalpha, -np.sin(ts), rtol=1e-12)
    np.testing.assert_allclose(c.dsigma, np.cos(ts), rtol=1e-12)
    gs = jax.vmap(lambda t: diffusion(Trigonometric(), t))(ts)
    np.testing.assert_allclose(gs**2, 2 * np.tan(ts), rtol=1e-10)  # VP: g^2 = -2 f
    slope = jax.grad(lambda sde: diffusion(sde, jnp.asarray(0.7)))(Trigonometric())
    expected = (
        diffusion(Trigonometric(rate=1 + 1e-6), 0.7) - diffusion(Trigonometric(rate=1 - 1e-6), 0.7)
    ) / 2e-6
    np.testing.assert_allclose(slope.rate, expected, rtol=1e-8)
    assert Trigonometric().prior_std == np.sin(1.5)


def test_a_users_process_inverts_its_log_snr_by_bisection(x64):
    sde = Trigonometric()
    ts = jnp.linspace(sde.t_min, sde.t_max, 33)
    levels = jax.vmap(lambda t: log_snr(sde, t))(ts)
    back = jax.jit(jax.vmap(sde.time_of_log_snr))(levels)
    np.testing.assert_allclose(back, ts, rtol=1e-12)
    # log-SNR = -2 log tan(rate t), so t = arctan(exp(-level/2))/rate and its derivatives are known.
    level = jnp.asarray(1.3)
    by_level = jax.grad(sde.time_of_log_snr)(level)
    ratio = np.exp(-0.65)
    np.testing.assert_allclose(by_level, -0.5 * ratio / (1 + ratio**2), rtol=1e-10)
    by_rate = jax.grad(lambda rate: Trigonometric(rate=rate).time_of_log_snr(level))(1.0)
    np.testing.assert_allclose(by_rate, -np.arctan(ratio), rtol=1e-10)


def test_bisection_in_float32(strict):
    sde = Trigonometric()
    ts = jnp.linspace(sde.t_min, sde.t_max, 33, dtype=jnp.float32)
    levels = jax.vmap(lambda t: log_snr(sde, t))(ts)
    np.testing.assert_allclose(jax.vmap(sde.time_of_log_snr)(levels), ts, rtol=3e-6)


def test_a_users_process_decodes_and_samples(x64):
    sde = Trigonometric()
    dist = truth.gaussian(jnp.asarray([1.0, -2.0]), jnp.diag(jnp.asarray([0.25, 4.0])))
    z = jnp.asarray([0.3, -1.1])
    ts = jnp.linspace(1.4, 0.01, 4001)
    x = truth.gaussian_flow(dist, sde, z, ts[0])
    run = jax.jit(
        lambda x: sample(
            jax.random.key(0), ddim(), sde, truth.denoiser(dist, sde), x, ts, denoise=False
        )
    )
    np.testing.assert_allclose(run(x)[0], truth.gaussian_flow(dist, sde, z, ts[-1]), atol=5e-3)
    prediction.require_decodable(prediction.eps, sde, sde.t_max)


def test_the_inverse_stays_on_the_interval_where_the_log_snr_is_infinite():
    class Line(SDE):
        def alpha(self, t):
            return 1.0 - t

        def sigma(self, t):
            return t

    line = Line()
    for level, t in ((-jnp.inf, 1.0), (jnp.inf, line.t_min), (-1e4, 1.0)):
        assert float(line.time_of_log_snr(jnp.asarray(level))) == pytest.approx(t, abs=1e-6)
