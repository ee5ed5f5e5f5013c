"""ESM = ISM + C1 = E_v[SSM] + C1 = DSM - C2: values, differences of values and gradients.

The left side is a sum on a grid over densities written in NumPy, C1 and C2 are a closed form and a
sum; the right sides are means over draws of the library's losses.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from score_family import SIGMA, TARGETS, draw, explicit, grid, noised, params, score
from stats import assert_mean

from sdejax import losses
from sdejax.divergence import hutchinson, orthogonal

KEY = jax.random.key(0)
N = 24_576


def of_score(loss):
    """An objective of x_t as one of (key, theta, x0, eps)."""
    return lambda key, theta, x0, eps: loss(key, lambda x: score(theta, x), x0 + SIGMA * eps)


OBJECTIVES = {
    "implicit": of_score(losses.implicit_loss),
    "hutchinson": of_score(lambda *a: losses.implicit_loss(*a, hutchinson(2, "gaussian"))),
    "orthogonal": of_score(lambda *a: losses.implicit_loss(*a, orthogonal(1))),
    "sliced": of_score(losses.sliced_loss),
    "sliced_signs": of_score(lambda *a: losses.sliced_loss(*a, 3, "rademacher")),
    "sliced_vr": of_score(losses.sliced_vr_loss),
    "finite_difference": of_score(lambda *a: losses.finite_difference_loss(*a, 1e-4)),
    "denoising": lambda key, theta, x0, eps: losses.denoising_score_loss(
        lambda x: score(theta, x), x0, eps, SIGMA
    ),
}


def constants(name):
    """C1 = E|grad log p|^2 / 2 and C2 = d / (2 sigma^2) - C1."""
    g = grid(name)
    c1 = 0.5 * np.sum(g.p * np.sum(g.score**2, axis=-1))
    return c1, 1.0 / SIGMA**2 - c1


def test_the_constants_of_a_gaussian_are_closed_forms():
    """C1 is half the trace of the inverse covariance; C2 half that of Cov[eps | x] / sigma^2."""
    c1, c2 = constants("gaussian")
    total = noised("gaussian")[2][0]
    clean = np.asarray(TARGETS["gaussian"][2][0])
    np.testing.assert_allclose(c1, 0.5 * np.trace(np.linalg.inv(total)), rtol=1e-10)
    left = clean @ np.linalg.inv(total)  # Cov[eps | x]
    np.testing.assert_allclose(c2, 0.5 * np.trace(left) / SIGMA**2, rtol=1e-10)


@pytest.mark.parametrize("name", TARGETS)
def test_all_objectives_are_the_explicit_one_up_to_known_constants(name, x64):
    g = grid(name)
    np.testing.assert_allclose(np.sum(g.p), 1.0, rtol=1e-10)
    thetas = params(1), params(3)
    of_grid = jax.jit(jax.value_and_grad(explicit))
    wanted = [of_grid(theta, g) for theta in thetas]
    assert abs(wanted[0][0] - wanted[1][0]) > 0.1  # the two tell signs apart
    c1, c2 = constants(name)
    x0, eps = map(jnp.asarray, draw(name, N))

    def all_of_them(key, theta, x0, eps):
        return {
            kind: jax.value_and_grad(loss, argnums=1)(key, theta, x0, eps)
            for kind, loss in OBJECTIVES.items()
        }

    run = jax.jit(jax.vmap(all_of_them, in_axes=(0, None, 0, 0)))
    found = [run(jax.random.split(KEY, N), theta, x0, eps) for theta in thetas]
    for kind in OBJECTIVES:
        offset = c2 if kind == "denoising" else -c1
        for (value, gradient), (exact, slope) in zip([f[kind] for f in found], wanted, strict=True):
            assert_mean(value, exact + offset)
            for leaf, entry in gradient.items():
                assert_mean(entry, slope[leaf])
        # The same draws at both: the constant is gone and much of the spread.
        assert_mean(found[0][kind][0] - found[1][kind][0], wanted[0][0] - wanted[1][0])


def test_the_explicit_loss_is_its_own_mean(x64):
    """On draws, with the library's and the grid's score of the same density."""
    g, theta = grid("mixture"), params(1)
    rows = np.random.default_rng(0).choice(len(g.p), size=N, p=g.p / g.p.sum())
    x, target = jnp.asarray(g.x[rows]), jnp.asarray(g.score[rows])
    loss = jax.jit(
        jax.vmap(lambda x, s: losses.explicit_loss(lambda x: score(theta, x), lambda _: s, x))
    )
    assert_mean(loss(x, target), explicit(theta, g))


@pytest.mark.parametrize("kind", [*OBJECTIVES])
def test_jit_vmap_and_float32_give_the_same_gradients(kind, strict):
    """One example without jit, a batch with it, and float64 of the same draws."""
    n = 4
    x0, eps = draw("mixture", n)
    loss = OBJECTIVES[kind]
    if kind == "finite_difference":  # a step that float32 can take
        loss = of_score(lambda *a: losses.finite_difference_loss(*a, 0.1))
    gradient = jax.grad(loss, argnums=1)
    keys = jax.random.split(KEY, n)
    batch = jax.jit(jax.vmap(gradient, in_axes=(0, None, 0, 0)))
    theta, data = params(1, np.float32), (jnp.asarray(x0, "float32"), jnp.asarray(eps, "float32"))
    found = batch(keys, theta, *data)
    alone = gradient(keys[1], theta, *(part[1] for part in data))
    for leaf in theta:
        assert found[leaf].dtype == jnp.float32
        np.testing.assert_allclose(found[leaf][1], alone[leaf], rtol=1e-4, atol=1e-4)
    if kind in ("implicit", "denoising"):  # normal draws differ with the dtype
        with jax.enable_x64(True):
            exact = batch(keys, params(1), jnp.asarray(x0), jnp.asarray(eps))
        for leaf in theta:
            np.testing.assert_allclose(found[leaf], exact[leaf], rtol=1e-4, atol=1e-4)
