"""Every example at every time, once; standard errors that are the spread."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import PROCESSES
from planted import MIXTURE, draws, exact
from stats import assert_mean

from sdejax import processes
from sdejax.diagnostics import calibration
from sdejax.diagnostics.levels import Mean, log_snrs, mean, over_levels, ratio, root, times


@pytest.mark.parametrize("name", PROCESSES)
def test_times_are_even_in_log_snr(x64, name):
    sde = PROCESSES[name]()
    ts = times(sde, 7)
    levels = log_snrs(sde, ts)
    assert np.all(np.diff(ts) > 0)
    np.testing.assert_allclose(ts[0], sde.t_min, rtol=1e-6)
    assert levels[-1] >= -9.0 - 1e-6
    np.testing.assert_allclose(np.diff(levels), levels[1] - levels[0], rtol=1e-6)


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_each_example_meets_each_time(x64, chunk):
    """The state is alpha x0 + sigma eps of the example's own x0, eps and t, whatever the chunk."""
    sde, ts = processes.vp(), jnp.asarray([0.1, 0.5, 0.9])
    x0 = jnp.arange(10.0).reshape(5, 2)

    def single(key, at, x, eps, t):
        tag = at(x, t)
        back = (x - jnp.asarray(sde.sigma(t)) * eps) / jnp.asarray(sde.alpha(t))
        return back[1], t, tag, eps[0]

    def fn(x, t, cond):
        return cond["label"]

    def found(key):
        cond = {"label": jnp.arange(5.0)}
        return over_levels(key, single, fn, sde, x0, ts, cond, chunk)

    second, t, tag, eps = found(jax.random.key(0))
    np.testing.assert_allclose(second, jnp.broadcast_to(x0[:, 1], (3, 5)), rtol=1e-12)
    np.testing.assert_array_equal(t, jnp.broadcast_to(ts[:, None], (3, 5)))
    np.testing.assert_array_equal(tag, jnp.broadcast_to(jnp.arange(5.0), (3, 5)))
    assert len(np.unique(eps)) == 15  # noise of its own at each time
    whole = over_levels(jax.random.key(0), single, fn, sde, x0, ts, {"label": jnp.arange(5.0)}, 15)
    np.testing.assert_array_equal(eps, whole[3])
    jitted = jax.jit(jax.vmap(found))(jax.random.split(jax.random.key(1), 2))
    np.testing.assert_allclose(jitted[3][1], found(jax.random.split(jax.random.key(1), 2)[1])[3])


def test_standard_errors_are_the_spread_over_seeds(x64):
    """4000 experiments of 100 examples each, skewed."""
    a, b = jax.random.exponential(jax.random.key(0), (2, 4000, 100))
    below = 1.0 + b
    above = 2.0 * below + a - 1.0
    assert_mean(mean(a).value, 1.0)
    for found, expected in ((mean(a), 0.1), (ratio(above, below), 0.05)):
        np.testing.assert_allclose(np.std(found.value), expected, rtol=0.05)
        np.testing.assert_allclose(np.mean(found.error), expected, rtol=0.05)
    np.testing.assert_allclose(np.mean(ratio(above, below).value), 2.0, atol=0.01)


def test_roots(x64):
    found = root(Mean(jnp.asarray([4.0, 0.0, -0.01]), jnp.asarray([0.1, 0.04, 0.04])))
    np.testing.assert_allclose(found.value, [2.0, 0.0, 0.0])
    np.testing.assert_allclose(found.error, [0.025, 0.2, 0.2])
    assert np.all(np.isfinite(jax.grad(lambda m: root(m).error.sum())(found).value))


def test_derivatives_pass_through(x64):
    """d slope/d factor = -slope/factor for eps_hat = factor eps*, through jit, map and chunks."""
    sde, dist = processes.vp(), MIXTURE()
    x0, ts = draws(dist, 60), jnp.asarray([0.2, 0.6])

    def slope(factor):
        def denoiser(x, t):
            pair = exact(dist, sde)(x, t)
            return pair._replace(eps=factor * pair.eps)

        return calibration(jax.random.key(0), denoiser, sde, x0, ts, chunk=50).slope.value

    value, moved = jax.jit(lambda f: jax.jvp(slope, (f,), (jnp.ones_like(f),)))(jnp.asarray(1.3))
    np.testing.assert_allclose(moved, -value / 1.3, rtol=1e-10)


def test_misuse_is_named():
    sde, x0, ts = processes.vp(), jnp.zeros((1, 2)), jnp.ones((2,))

    def found(x0, ts, chunk=4):
        return over_levels(
            jax.random.key(0), lambda *a: a[4], lambda x, t: x, sde, x0, ts, None, chunk
        )

    with pytest.raises(ValueError, match="got 1 examples at 2 times; expected at least 2 at 1"):
        found(x0, ts)
    with pytest.raises(ValueError, match="chunk: got 0; expected at least 1"):
        found(jnp.zeros((3, 2)), ts, 0)
    with pytest.raises(ValueError, match="times: got m=0"):
        times(sde, 0)
