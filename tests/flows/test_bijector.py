import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdejax.flows.bijector import Bijector, chain, sigmoid


def affine() -> Bijector:
    """y = A x + cond: enough to see order and signs in a chain."""

    def forward(params, x, cond):
        return params @ x + cond, jnp.linalg.slogdet(params)[1]

    def inverse(params, y, cond):
        return jnp.linalg.solve(params, y - cond), -jnp.linalg.slogdet(params)[1]

    return Bijector(forward, inverse)


A = np.asarray([[1.0, 0.4, 0.0], [-0.3, 0.5, 0.2], [0.1, 0.0, 2.0]])
B = np.asarray([[0.5, 0.0, 0.1], [0.2, 1.5, -0.4], [0.0, 0.3, 0.8]])


def log_det_of(function, x):
    return jnp.linalg.slogdet(jax.jacfwd(lambda x: function(x)[0])(x))[1]


@pytest.mark.parametrize("which", ["sigmoid", "chain"])
def test_log_determinants_are_those_of_the_jacobian(x64, which):
    flow, params = sigmoid(), None
    if which == "chain":
        flow = chain(affine(), sigmoid(), affine())
        params = (jnp.asarray(A), None, jnp.asarray(B))
    cond = jnp.asarray([0.3, -1.0, 0.7])
    x = jnp.asarray([1.2, -0.4, 2.5])
    y, log_det = flow.forward(params, x, cond)
    back, inverse_log_det = flow.inverse(params, y, cond)
    np.testing.assert_allclose(back, x, rtol=1e-12)
    np.testing.assert_allclose(
        log_det, log_det_of(lambda x: flow.forward(params, x, cond), x), rtol=1e-12
    )
    np.testing.assert_allclose(
        inverse_log_det, log_det_of(lambda y: flow.inverse(params, y, cond), y), rtol=1e-12
    )
    np.testing.assert_allclose(inverse_log_det, -log_det, rtol=1e-12)


def test_a_chain_goes_from_the_first_to_the_last(x64):
    flow, zero = chain(affine(), affine()), jnp.zeros(3)
    y, _ = flow.forward((jnp.asarray(A), jnp.asarray(B)), jnp.ones(3), zero)
    np.testing.assert_allclose(y, B @ A @ np.ones(3), rtol=1e-12)
    y, log_det = chain().forward((), jnp.ones(3), None)
    np.testing.assert_array_equal(y, np.ones(3))
    assert float(log_det) == 0.0
    with pytest.raises(ValueError, match="zip"):
        flow.forward((jnp.asarray(A),), jnp.ones(3), zero)


def test_the_sigmoid_is_finite_far_out_in_float32(strict):
    x = jnp.asarray([-80.0, -20.0, 20.0, 80.0], jnp.float32)
    y, log_det = sigmoid().forward(None, x, None)
    np.testing.assert_allclose(log_det, -200.0, rtol=1e-6)
    assert bool(jnp.all((y >= 0) & (y <= 1)))
    gradient = jax.grad(lambda x: sigmoid().forward(None, x, None)[1])(x)
    np.testing.assert_allclose(gradient, [1.0, 1.0, -1.0, -1.0], rtol=1e-6)
