"""The perceptron: it can learn, it is conditioned, and dropout is drawn only in training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from quick import jit, random_params

from sdejax.nets.mlp import MLP

X = jax.random.normal(jax.random.key(1), (6, 2))
T = jnp.linspace(0.1, 0.9, 6)
COND = jnp.array([0, 1, 2, 3, 0, 1])


@pytest.mark.parametrize("embedding", ["fourier", "positional"])
def test_an_untrained_network_returns_zero(embedding):
    net = MLP(embedding_type=embedding)
    out, _ = net.init_with_output(jax.random.key(0), X, T)
    np.testing.assert_array_equal(out, jnp.zeros((6, 2)))


def test_the_output_has_the_shape_of_an_event_of_any_rank():
    net = MLP(hidden=(8,))
    for event in [(), (3,), (2, 3)]:
        x = jnp.ones((6, *event))
        assert net.apply(random_params(net, x, T), x, T).shape == x.shape


def test_it_learns_a_function_of_point_and_time():
    net = MLP(hidden=(32, 32), time_features=16)
    x = jax.random.normal(jax.random.key(2), (256, 1))
    t = jax.random.uniform(jax.random.key(3), (256,))
    y = x * jnp.sin(3 * t)[:, None]

    def loss(p):
        return ((net.apply(p, x, t) - y) ** 2).mean()

    tx = optax.adam(1e-2)
    params = random_params(net, x, t)
    state = tx.init(params)

    @jit
    def step(params, state):
        updates, state = tx.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    for _ in range(200):
        params, state = step(params, state)
    assert loss(params) < 0.02 * (y**2).mean()


def test_labels_and_time_change_the_output_and_none_is_the_null_label():
    net = MLP(num_classes=3)
    params = random_params(net, X, T, COND)
    base = net.apply(params, X, T, COND)
    other = net.apply(params, X, T, (COND + 1) % 4)
    assert (jnp.abs(base - other).max(1) > 1e-3).all()
    assert (jnp.abs(base - net.apply(params, X, T + 0.05, COND)).max(1) > 1e-4).all()
    null = net.apply(params, X, T, jnp.full(6, 3))
    np.testing.assert_array_equal(net.apply(params, X, T), null)


def test_dropout_needs_training_and_follows_its_rng():
    net = MLP(dropout=0.5)
    params = random_params(net, X, T)
    one, two = (
        net.apply(params, X, T, train=True, rngs={"dropout": jax.random.key(k)}) for k in (1, 2)
    )
    assert jnp.abs(one - two).max() > 1e-2
    np.testing.assert_array_equal(net.apply(params, X, T), net.apply(params, X, T))


def test_bfloat16_compute_keeps_float32_parameters_and_output():
    net, half = MLP(), MLP(dtype=jnp.bfloat16)
    params = random_params(half, X, T)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    want, got = net.apply(params, X, T), half.apply(params, X, T)
    assert got.dtype == jnp.float32
    gap = jnp.abs(got - want).max() / jnp.abs(want).max()
    assert 1e-5 < gap < 0.05


def test_float64_parameters_give_a_float64_network(x64):
    net = MLP(num_classes=3)
    x, t = X.astype(jnp.float64), T.astype(jnp.float64)
    params = random_params(net, X, T)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    wide = jax.tree.map(lambda v: v.astype(jnp.float64), params)
    got = net.apply(wide, x, t, COND)
    assert got.dtype == jnp.float64
    np.testing.assert_allclose(got, net.apply(params, X, T, COND), rtol=1e-4, atol=1e-5)


def test_misuse_is_named():
    with pytest.raises(ValueError, match="embedding_type: got 'sine'"):
        MLP(embedding_type="sine").init(jax.random.key(0), X, T)
    with pytest.raises(ValueError, match=r"cond: .*num_classes"):
        MLP().init(jax.random.key(0), X, T, COND)
