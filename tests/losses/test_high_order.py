import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import plane
from score_family import TARGETS, params, score
from stats import assert_mean

from sdejax import losses, processes, truth
from sdejax.divergence import exact, hutchinson

KEY = jax.random.key(0)
SDE, T = processes.edm(), 0.5  # x = x0 + 0.5 eps


def posterior(x, n=161, span=6.0):
    """Noise that may have led to x, and its probabilities, from densities written in NumPy."""
    axis = np.linspace(-span, span, n)
    x0 = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    prior = 0.0
    for w, m, c in zip(*(np.asarray(part) for part in TARGETS["mixture"]), strict=True):
        away = x0 - m
        square = np.einsum("ni,ij,nj->n", away, np.linalg.inv(c), away)
        prior = prior + w * np.exp(-0.5 * square) / np.sqrt(np.linalg.det(c))
    eps = (np.asarray(x) - x0) / T
    p = prior * np.exp(-0.5 * np.sum(eps**2, -1))
    return jnp.asarray(eps), jnp.asarray(p / p.sum())


def true_score(x):
    return truth.score(plane(), SDE, x, T)


def best_trace(mean):
    """The lowest point of a parabola."""
    start = jnp.asarray(0.7)
    return start - jax.grad(mean)(start) / jax.hessian(mean)(start)


def test_the_best_trace_is_that_of_the_hessian(x64):
    """Of a mixture: the mean over the posterior is a parabola in tr J, its lowest point the truth.

    J = c I / d at x, with the exact first-order score.
    """

    @jax.jit
    def best(x, eps, p):
        value = true_score(x)

        def mean(c):
            def score_fn(y):
                return value + 0.5 * c * (y - x)

            each = jax.vmap(lambda e: losses.second_order_loss(KEY, score_fn, x, e, T))(eps)
            return jnp.sum(p * each)

        c = best_trace(mean)
        return c, mean(c + 0.1) - mean(c), jnp.trace(jax.jacfwd(true_score)(x))

    for x in ((0.4, -1.3), (1.2, 0.1), (-0.6, 0.9)):
        found, rise, expected = best(jnp.asarray(x), *posterior(x))
        np.testing.assert_allclose(found, expected, rtol=1e-9)
        assert rise > 0


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_the_best_jacobian_along_directions_is_the_hessian(kind, x64):
    """For every draw of directions: the slope in each entry of J vanishes at the Hessian."""
    x = jnp.asarray([0.4, -1.3])
    eps, p = posterior(x)
    value, hessian = true_score(x), jax.jacfwd(true_score)(x)

    def mean(jacobian):
        def score_fn(y):
            return value + jacobian @ (y - x)

        def each(e):
            return losses.second_order_loss(KEY, score_fn, x, e, T, hutchinson(5, kind))

        return jnp.sum(p * jax.vmap(each)(eps))

    slope = jax.jit(jax.grad(mean))
    np.testing.assert_allclose(slope(hessian), 0.0, atol=1e-9)
    assert np.all(np.abs(slope(hessian + 0.1)) > 1e-3)


def test_an_error_of_the_first_order_moves_the_trace_by_its_square(x64):
    """With sigma e added to l, the best sigma^2 tr J is too large by |sigma e|^2."""
    x, off = jnp.asarray([0.4, -1.3]), jnp.asarray([0.2, -0.1])
    eps, p = posterior(x)

    def mean(c):
        each = jax.vmap(
            lambda e: losses.second_order_loss(
                KEY, lambda y: 0.5 * c * y, x, e, T, first_fn=lambda y: true_score(y) + off
            )
        )(eps)
        return jnp.sum(p * each)

    expected = np.trace(jax.jacfwd(true_score)(x)) + np.sum(off**2)
    np.testing.assert_allclose(jax.jit(best_trace, static_argnums=0)(mean), expected, rtol=1e-9)


def test_the_first_order_learns_nothing_from_the_second(strict):
    """A constant in the score changes the value of the loss and has no gradient through it."""
    x, eps = jnp.asarray([0.4, -1.3]), jnp.asarray([0.3, 0.6])

    def loss(b):
        return losses.second_order_loss(KEY, lambda y: b - y, x, eps, T)

    assert loss(1.0) != loss(0.0)
    assert jax.grad(loss)(1.0) == 0.0


def test_both_orders_add_up(x64):
    theta, x, eps = params(1), jnp.asarray([0.4, -1.3]), jnp.asarray([0.3, 0.6])
    s = lambda y: score(theta, y)  # noqa: E731
    first = losses.denoising_score_loss(s, x - T * eps, eps, T)
    for divergence in (exact(), hutchinson(3)):
        second = losses.second_order_loss(KEY, s, x, eps, T, divergence)
        both = losses.high_order_loss(KEY, s, x, eps, T, 0.3, divergence)
        np.testing.assert_allclose(both, (2 * T**2 * first + 0.3 * second) / 2, rtol=1e-12)


def test_the_gradient_vanishes_at_the_truth_over_draws():
    """Of both orders, on draws of the mixture in float32: the whole gradient of a perturbation."""
    dist = plane()

    def one(key, theta):
        data_key, noise_key, probe_key = jax.random.split(key, 3)
        x0, eps = truth.sample(data_key, dist), jax.random.normal(noise_key, (2,))

        def score_fn(x):
            return true_score(x) + theta * score(params(1, np.float32), x)

        x = x0 + T * eps
        return losses.high_order_loss(probe_key, score_fn, x, eps, T, 1.0, hutchinson(1))

    slopes = jax.jit(jax.vmap(jax.grad(one, argnums=1), in_axes=(0, None)))
    keys = jax.random.split(KEY, 20_000)
    assert_mean(slopes(keys, 0.0), 0.0)
    assert np.mean(slopes(keys, 0.3)) > 0.1
