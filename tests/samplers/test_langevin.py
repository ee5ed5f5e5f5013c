import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import skewed, skewed_moments
from scipy.integrate import solve_ivp
from stats import assert_moments, slope

from sdejax import processes, truth
from sdejax.samplers.langevin import (
    Kernel,
    hmc,
    mala,
    mcmc,
    unadjusted_langevin,
    underdamped_langevin,
)

KEY = jax.random.key(0)


def skewed_target(dtype=np.float32):
    """The mixture noised a little, by a process at one time: any exact density would do."""
    dist, sde = truth.mixture(*map(jnp.asarray, skewed(dtype))), processes.vp()
    return dist, sde, lambda x: truth.log_prob(dist, sde, x, jnp.asarray(0.1, dtype))


def linear_step(kernel, kept):
    """The matrices of a step that is linear in the state's fields ``kept`` and in its noise."""
    states = kernel.init(jnp.zeros((1,)))
    z = float(jax.random.normal(KEY, (1,), jnp.float64)[0])

    def step(values):
        fields = {name: jnp.asarray([value]) for name, value in zip(kept, values, strict=True)}
        x = fields["position"]
        gradient = kernel.init(x).gradient
        out, _ = kernel.step(KEY, states._replace(**fields)._replace(gradient=gradient))
        return np.asarray([float(getattr(out, name)[0]) for name in kept])

    noise = step(np.zeros(len(kept)))
    columns = [step(row) - noise for row in np.eye(len(kept))]
    return np.stack(columns, axis=1), noise / z


def stationary(a, b):
    """The covariance C = A C A' + b b' of a linear chain."""
    n = len(b)
    system = np.eye(n * n) - np.kron(a, a)
    return np.linalg.solve(system, np.outer(b, b).ravel()).reshape(n, n)


def test_ula_has_its_known_bias_on_a_gaussian(x64):
    """Stationary variance s^2/(1 - h/(2 s^2)), mean m."""
    for variance, h in ((0.5, 0.1), (2.0, 0.7), (0.5, 0.9)):
        kernel = unadjusted_langevin(lambda x, v=variance: -0.5 * jnp.sum(x**2) / v, h)
        got = stationary(*linear_step(kernel, ("position",)))
        np.testing.assert_allclose(got[0, 0], variance / (1 - h / (2 * variance)), rtol=1e-12)


def test_baoab_has_no_bias_on_a_gaussian(x64):
    """The law of x is exact for every stable step, whatever the friction; that of v is not."""
    for h in (0.1, 1.0, 1.9):
        for friction in (0.3, 5.0):
            kernel = underdamped_langevin(
                lambda x: -0.5 * jnp.sum(x**2) / 1.7**2, 1.7 * h, friction
            )
            got = stationary(*linear_step(kernel, ("position", "velocity")))
            np.testing.assert_allclose(got[0, 0], 1.7**2, rtol=1e-10)
            np.testing.assert_allclose(got[0, 1], 0.0, atol=1e-10)


def test_baoab_without_friction_solves_newtons_equation_with_order_2(x64):
    """A pendulum, log p = cos x, from rest, against SciPy's DOP853 at 1e-12."""
    start = [2.0, -1.0]
    for i, x in enumerate(start):
        end = solve_ivp(
            lambda t, y: [y[1], -np.sin(y[0])], (0, 4.0), [x, 0], "DOP853", rtol=1e-12, atol=1e-12
        )
        start[i] = (x, end.y[0, -1])
    x, exact = np.asarray(start).T
    ns, errors = [16, 32, 64, 128, 256], []
    for n in ns:
        kernel = underdamped_langevin(lambda x: jnp.sum(jnp.cos(x)), 4.0 / n, 1e-30)
        got, _ = jax.jit(lambda x, kernel=kernel, n=n: mcmc(KEY, kernel, x, n, thin=n))(x)
        errors.append(np.sqrt(np.mean((got[0] - exact) ** 2)))
    assert -2.05 < slope(ns, errors) < -1.95, errors


KERNELS = {
    "ula": (unadjusted_langevin, (0.002,)),
    "underdamped": (underdamped_langevin, (0.1, 2.0)),
    "mala": (mala, (0.4,)),
    "hmc": (hmc, (0.5, 3)),
}


@pytest.mark.parametrize("name", KERNELS)
def test_a_skewed_mixture_is_left_in_place(name):
    """From exact draws, 200 steps on: mean, variance and skewness in standard errors."""
    factory, arguments = KERNELS[name]
    dist, sde, log_prob = skewed_target()
    alpha, sigma = float(sde.alpha(0.1)), float(sde.sigma(0.1))
    kernel = factory(log_prob, *arguments)

    def draw(key):
        start, noise, key = jax.random.split(key, 3)
        x = alpha * truth.sample(start, dist) + sigma * jax.random.normal(noise, (1,))
        return mcmc(key, kernel, x, 200, thin=100)

    x, info = jax.jit(jax.vmap(draw))(jax.random.split(KEY, 4096))
    assert_moments(x[:, -1, 0], *skewed_moments(alpha, sigma))
    rate = float(jnp.mean(info.acceptance_rate))
    assert rate == 1.0 if name in ("ula", "underdamped") else 0.5 < rate < 0.99
    assert np.all(info.result == 0)


def test_without_acceptance_mala_would_be_biased():
    """At MALA's step size the unadjusted chain is far off, so accepting is what keeps it exact."""
    dist, sde, log_prob = skewed_target()
    kernel = unadjusted_langevin(log_prob, KERNELS["mala"][1][0])

    def draw(key):
        start, key = jax.random.split(key)
        return mcmc(key, kernel, truth.sample(start, dist), 200, thin=200)[0][-1, 0]

    x = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(KEY, 4096)))
    with pytest.raises(AssertionError, match="standard errors from"):
        assert_moments(x, *skewed_moments(sde.alpha(0.1), sde.sigma(0.1)))


@pytest.mark.parametrize("name", KERNELS)
def test_a_chain_is_pure(name, strict):
    """Kept samples are every third state; jit and vmap change nothing; float32 stays."""
    factory, arguments = KERNELS[name]
    kernel = factory(lambda x: -0.5 * jnp.sum((x - 1.0) ** 2) / 0.7, *arguments)
    keys = jax.random.split(KEY, 3)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 2)), jnp.float32)
    step = jax.jit(kernel.step)
    states, rates, state = [], [], kernel.init(x[1])
    for i in range(6):
        state, info = step(jax.random.fold_in(keys[1], i), state)
        states.append(state.position)
        rates.append(info.acceptance_rate)
    run = jax.jit(jax.vmap(lambda key, x: mcmc(key, kernel, x, 6, thin=3)))
    samples, info = run(keys, x)
    assert samples.dtype == info.acceptance_rate.dtype == jnp.float32
    assert samples.shape == (3, 2, 2, 2)
    np.testing.assert_allclose(samples[1], np.stack([states[2], states[5]]), rtol=1e-5)
    np.testing.assert_allclose(
        info.acceptance_rate[1], np.mean(np.reshape(rates, (2, 3)), axis=1), rtol=1e-5
    )
    others, _ = run(keys.at[0].set(KEY), x.at[0].set(9.0))
    np.testing.assert_array_equal(others[1:], samples[1:])


@pytest.mark.parametrize("name", KERNELS)
def test_a_chain_keeps_float64(name, x64):
    factory, arguments = KERNELS[name]
    kernel = factory(lambda x: -0.5 * jnp.sum(x**2), *arguments)
    samples, info = jax.eval_shape(lambda x: mcmc(KEY, kernel, x, 2), jnp.ones((2,)))
    assert samples.dtype == info.acceptance_rate.dtype == jnp.float64


def test_any_kernel_of_blackjax_fits():
    import blackjax

    kernel = blackjax.additive_step_random_walk(
        lambda x: -0.5 * jnp.sum(x**2), blackjax.mcmc.random_walk.normal(jnp.ones((2,)))
    )
    samples, info = jax.jit(lambda key: mcmc(key, kernel, jnp.zeros((2,)), 40, thin=4))(KEY)
    assert samples.shape == (10, 2)
    assert 0.2 < float(info.acceptance_rate.mean()) < 0.9


def test_a_nan_is_a_result_code():
    kernel = unadjusted_langevin(lambda x: jnp.sum(jnp.log(x)), 10.0)
    far = Kernel(kernel.init, lambda key, state: kernel.step(key, state._replace(gradient=jnp.nan)))
    assert mcmc(KEY, far, jnp.ones((2,)), 3)[1].result == 2


def test_without_blackjax_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "blackjax", None)
    for factory in (mala, hmc):
        with pytest.raises(ImportError, match=r"blackjax.*pip install 'sdejax\[mcmc\]'"):
            factory(lambda x: -jnp.sum(x**2), 0.1)


def test_bad_arguments_are_refused():
    kernel = unadjusted_langevin(lambda x: -jnp.sum(x**2), 0.1)
    for steps, thin in ((0, 1), (5, 2), (4, 0)):
        with pytest.raises(ValueError, match=rf"mcmc: got steps={steps}, thin={thin}; expected"):
            mcmc(KEY, kernel, jnp.ones((1,)), steps, thin=thin)
    for factory in (unadjusted_langevin, underdamped_langevin, mala, hmc):
        with pytest.raises(ValueError, match=r"got step_size=0\.0; expected a positive number"):
            factory(lambda x: -jnp.sum(x**2), 0.0)
    with pytest.raises(ValueError, match="got friction=-1"):
        underdamped_langevin(lambda x: -jnp.sum(x**2), 0.1, -1.0)
    with pytest.raises(ValueError, match="got leapfrog_steps=0"):
        hmc(lambda x: -jnp.sum(x**2), 0.1, 0)
