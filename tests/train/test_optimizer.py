import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sdejax.train.optimizer import make_optimizer, make_schedule


def rates(schedule, steps):
    return [float(schedule(n)) for n in steps]


def test_warm_up_rises_from_above_zero_to_the_rate():
    schedule = make_schedule(0.5, warmup_steps=4)
    np.testing.assert_allclose(
        rates(schedule, range(7)), [0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("constant", lambda u: 1.0),
        ("linear", lambda u: 1 - 0.9 * u),
        ("cosine", lambda u: 0.1 + 0.9 * (1 + np.cos(np.pi * u)) / 2),
    ],
)
def test_schedules_have_their_shape_after_the_warm_up(name, shape):
    schedule = make_schedule(2.0, schedule=name, warmup_steps=5, total_steps=25, end_factor=0.1)
    steps = [5, 9, 15, 25, 40]
    expected = [2.0 * shape(min((n - 5) / 20, 1)) for n in steps]
    np.testing.assert_allclose(rates(schedule, steps), expected, rtol=1e-5)


def first_update(tx, gradient):
    params = {"p": jnp.ones(2)}
    updates, _ = tx.update({"p": jnp.asarray(gradient)}, tx.init(params), params)
    return np.asarray(updates["p"])


def test_gradients_are_clipped_to_the_global_norm():
    tx = make_optimizer("sgd", 1.0, clip_norm=0.5)
    np.testing.assert_allclose(first_update(tx, [3.0, 4.0]), [-0.3, -0.4], rtol=1e-6)
    np.testing.assert_allclose(first_update(tx, [0.03, 0.04]), [-0.03, -0.04], rtol=1e-6)


def test_first_updates_of_each_optimizer():
    g = [3.0, -4.0]
    adam = make_optimizer("adam", 0.1, clip_norm=None)
    np.testing.assert_allclose(first_update(adam, g), [-0.1, 0.1], rtol=1e-4)
    adamw = make_optimizer("adamw", 0.1, clip_norm=None, weight_decay=0.5)
    np.testing.assert_allclose(first_update(adamw, g), [-0.15, 0.05], rtol=1e-4)
    sgd = make_optimizer("sgd", 0.1, clip_norm=None, momentum=0.9)
    state, params = sgd.init({"p": jnp.ones(2)}), {"p": jnp.ones(2)}
    for _ in range(2):
        updates, state = sgd.update({"p": jnp.asarray(g)}, state, params)
    np.testing.assert_allclose(updates["p"], -0.1 * 1.9 * np.asarray(g), rtol=1e-6)


def test_rate_counts_updates():
    tx = make_optimizer("sgd", 1.0, warmup_steps=3, clip_norm=None)
    params = {"p": jnp.zeros(())}
    state = tx.init(params)
    for _ in range(4):
        updates, state = tx.update({"p": jnp.ones(())}, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["p"], -(0.25 + 0.5 + 0.75 + 1.0), rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "adams"}, "expected one of"),
        ({"schedule": "step"}, "expected one of"),
        ({"schedule": "cosine"}, "total_steps > warmup_steps"),
        ({"schedule": "linear", "total_steps": 5, "warmup_steps": 5}, "total_steps"),
        ({"weight_decay": 0.1}, "adamw"),
        ({"momentum": 0.9}, "sgd"),
        ({"clip_norm": 0.0}, "positive"),
    ],
)
def test_misuse_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(**arguments)
