"""Traces against matrices whose trace, variance and spectrum are known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stats import assert_mean

from sdejax.divergence import exact, hutchinson, hutchpp, orthogonal, value_and_trace

KEY = jax.random.key(0)
N = 4000
RNG = np.random.default_rng(0)
A = RNG.normal(size=(6, 6)) + np.diag([3.0, -1.0, 0.5, 0.0, 2.0, 1.0])  # not symmetric
S = (A + A.T) / 2
METHODS = {
    "exact": exact(),
    "chunked": exact(4),
    "rademacher": hutchinson(3),
    "gaussian": hutchinson(3, "gaussian"),
    "orthogonal": orthogonal(3),
    "hutchpp": hutchpp(6),
}


def field(x):
    """A nonlinear field of an event of shape [2, 3], with a Jacobian of closed form."""
    return (jnp.asarray(A, x.dtype) @ jnp.tanh(x.ravel())).reshape(x.shape)


def jacobian_trace(x):
    return np.sum(np.diag(A) / np.cosh(np.asarray(x, float).ravel()) ** 2)


def linear(x):
    return jnp.asarray(A) @ x


def draws(method, n=N, fn=linear, x=None):
    x = jnp.zeros(6) if x is None else x
    keys = jax.random.split(KEY, n)
    return np.asarray(jax.jit(jax.vmap(lambda k: value_and_trace(k, fn, x, method)[1]))(keys))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_right_in_the_mean(name, x64):
    x = jnp.asarray(RNG.normal(size=(2, 3)))
    value, _ = value_and_trace(KEY, field, x, METHODS[name])
    np.testing.assert_array_equal(value, field(x))
    found = draws(METHODS[name], fn=field, x=x)
    if name in ("exact", "chunked"):
        np.testing.assert_allclose(found, jacobian_trace(x), rtol=1e-12)
    else:
        assert_mean(found, jacobian_trace(x))


VARIANCES = {  # of the mean of three probes, from the matrix alone
    "rademacher": 2 * (np.sum(S**2) - np.sum(np.diag(S) ** 2)) / 3,
    "gaussian": 2 * np.sum(S**2) / 3,
    # One u on the sphere of radius sqrt(d), then without replacement.
    "orthogonal": 2 * 6 / 8 * (np.sum(S**2) - np.trace(S) ** 2 / 6) / 3 * (1 - 2 / 5),
}


@pytest.mark.parametrize("name", VARIANCES)
def test_variances_are_those_of_theory(name, x64):
    found = draws(METHODS[name], 20_000)
    assert_mean((found - np.trace(A)) ** 2, VARIANCES[name])


@pytest.mark.parametrize("name", ["rademacher", "gaussian", "orthogonal", "hutchpp"])
def test_the_reported_error_is_the_spread(name, x64):
    """The mean of the squared error reported is the variance of the mean."""
    method, x = {**METHODS, "hutchpp": hutchpp(9)}[name], jnp.zeros(6)
    keys = jax.random.split(KEY, 20_000)

    def one(key):
        values = method.traces(linear, method.draw(key, x), x)
        return jnp.mean(values), method.error(values, x.size)

    mean, error = map(np.asarray, jax.jit(jax.vmap(one))(keys))
    assert_mean(error**2 - (mean - np.trace(A)) ** 2, 0.0)


def test_a_whole_frame_is_exact(x64):
    np.testing.assert_allclose(draws(orthogonal(6), 50), np.trace(A), rtol=1e-12)
    method, x = orthogonal(6), jnp.zeros(6)
    values = method.traces(linear, method.draw(KEY, x), x)
    assert np.std(values) > 0.1  # the numbers differ, their mean does not
    assert method.error(values, 6) == 0.0


def test_hutchpp_is_exact_where_the_rank_is_a_third_of_its_probes(x64):
    low = RNG.normal(size=(6, 2)) @ RNG.normal(size=(2, 6))
    found = draws(hutchpp(6), 50, lambda x: jnp.asarray(low) @ x)
    np.testing.assert_allclose(found, np.trace(low), rtol=1e-9)


def test_hutchpp_pays_nothing_for_a_multiple_of_the_identity(x64):
    np.testing.assert_allclose(draws(hutchpp(3), 50, lambda x: -0.7 * x), -0.7 * 6, rtol=1e-12)
    np.testing.assert_allclose(draws(hutchpp(18), 20), np.trace(A), rtol=1e-9)  # nothing is left


def test_rademacher_probes_are_exact_on_diagonals(x64):
    diagonal = jnp.asarray(np.diag(A))
    np.testing.assert_allclose(draws(hutchinson(1), 20, lambda x: diagonal * x), np.trace(A))


def test_one_probe_has_no_error_to_report():
    assert math.isnan(hutchinson(1).error(jnp.ones(1), 6))
    assert exact().error(jnp.ones(1), 6) == 0.0


def test_the_function_is_evaluated_once():
    """However many probes: the tangents share one linearisation."""
    calls = []

    def counted(x):
        jax.debug.callback(lambda: calls.append(1))
        return jnp.tanh(x)

    value_and_trace(KEY, counted, jnp.ones(6), hutchinson(4))
    jax.effects_barrier()
    assert len(calls) == 1


@pytest.mark.parametrize("name", METHODS)
def test_methods_work_under_jit_vmap_and_grad(name, strict):
    x = jnp.asarray(RNG.normal(size=(3, 2, 3)), jnp.float32)
    keys = jax.random.split(KEY, 3)

    def trace(key, x):
        return value_and_trace(key, field, x, METHODS[name])[1]

    batch = jax.jit(jax.vmap(trace))(keys, x)
    np.testing.assert_allclose(batch, [trace(k, row) for k, row in zip(keys, x, strict=True)], 1e-5)
    slope = jax.grad(trace, argnums=1)(keys[0], x[0])
    assert slope.shape == (2, 3)
    assert np.all(np.isfinite(slope))


BAD = [
    (lambda: hutchinson(0), "hutchinson: got probes=0; expected at least 1"),
    (lambda: hutchinson(2, "uniform"), "kind='uniform'"),
    (lambda: orthogonal(0), "orthogonal: got probes=0"),
    (lambda: hutchpp(2), "hutchpp: got probes=2; expected at least 3"),
    (lambda: exact(0), "chunk=0"),
    (lambda: orthogonal(7).draw(KEY, jnp.zeros(6)), "7 probes for 6 entries"),
    (lambda: hutchpp(21).draw(KEY, jnp.zeros(6)), "expected at most 18"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_bad_numbers_of_probes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
