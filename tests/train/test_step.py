from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sdejax.train.optimizer import make_optimizer
from sdejax.train.state import init_state
from sdejax.train.step import ema_rate, eval_step, train_step


def pull(params, key, batch):
    """Half the squared distance to each row: the gradient is params - mean row."""
    distance = params["p"][None] - batch["x"]
    return 0.5 * jnp.sum(distance**2, axis=1), {"first": batch["x"][:, 0]}


def rows(step, dtype=np.float32):
    x = np.random.default_rng(step).standard_normal((4, 3)).astype(dtype) + 2
    return {"x": jnp.asarray(x), "position": jnp.arange(4, dtype=jnp.int32)}


def stepper(tx, decay, loss_fn=pull):
    return jax.jit(partial(train_step, loss_fn, tx, decay))


def start(tx, dtype=jnp.float32):
    return init_state({"p": jnp.asarray([1.0, -1.0, 0.5], dtype)}, tx, jax.random.key(0))


@pytest.mark.parametrize("wide", [False, True])
def test_sgd_and_average_follow_their_recurrences(wide):
    with jax.enable_x64(wide):
        dtype, tolerance = (np.float64, 1e-13) if wide else (np.float32, 1e-6)
        rate, decay = 0.1, 0.6  # the warm-up reaches 0.6 at n = 12.5
        tx = optax.sgd(rate)
        state, step = start(tx, dtype), stepper(tx, decay)
        p = ema = np.array([1.0, -1.0, 0.5])
        for n in range(20):
            batch = rows(n, dtype)
            state, metrics = step(state, batch)
            mean = np.asarray(batch["x"], np.float64).mean(0)
            loss = 0.5 * ((p - np.asarray(batch["x"], np.float64)) ** 2).sum(1).mean()
            norm = np.sqrt(((p - mean) ** 2).sum())
            p = p - rate * (p - mean)
            d = min(decay, (1 + n) / (10 + n))
            ema = d * ema + (1 - d) * p
            np.testing.assert_allclose(metrics["loss"], loss, rtol=4 * tolerance)
            np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=4 * tolerance)
        np.testing.assert_allclose(state.params["p"], p, rtol=4 * tolerance)
        np.testing.assert_allclose(state.ema_params["p"], ema, rtol=4 * tolerance)
        assert state.params["p"].dtype == state.ema_params["p"].dtype == dtype
        assert int(state.step) == 20


def test_ema_rate_is_limited_by_decay():
    rates = [float(ema_rate(jnp.asarray(n), 0.9999, jnp.float32)) for n in (0, 90, 10**6)]
    np.testing.assert_allclose(rates, [0.1, 0.91, 0.9999], rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])  # 1e30: the norm overflows
def test_bad_steps_change_only_the_counters(bad):
    tx = make_optimizer("adam", 0.1, warmup_steps=2)
    state = start(tx)
    without, step = start(tx), stepper(tx, 0.9)
    streaks = []
    for n in range(6):
        batch = rows(n)
        if n in (2, 3):
            before = state
            batch["x"] = batch["x"].at[1, 2].set(bad)
        else:
            without, _ = step(without, batch)
        state, metrics = step(state, batch)
        streaks.append((int(metrics["skipped"]), int(metrics["bad_streak"])))
        if n in (2, 3):
            for new, old in zip(
                jax.tree.leaves(state[1:4]), jax.tree.leaves(before[1:4]), strict=True
            ):
                np.testing.assert_array_equal(new, old)
    assert streaks == [(0, 0), (0, 0), (1, 1), (2, 2), (2, 0), (2, 0)]
    assert int(state.step) == 6
    # The good steps, the schedule and the warm-up of the average go on as if nothing had been.
    for new, old in zip(jax.tree.leaves(state[1:4]), jax.tree.leaves(without[1:4]), strict=True):
        np.testing.assert_array_equal(new, old)


def test_each_step_has_its_own_key():
    def seen(params, key, batch):
        losses, _ = pull(params, key, batch)
        return losses, {"draw": jnp.full(4, jax.random.normal(key))}

    tx = optax.sgd(0.1)
    state, draws, step = start(tx), [], stepper(tx, 0.9, seen)
    for _ in range(3):
        state, metrics = step(state, rows(0))
        draws.append(float(metrics["draw"]))
    expected = [jax.random.normal(jax.random.fold_in(jax.random.key(0), n)) for n in range(3)]
    np.testing.assert_allclose(draws, expected, rtol=1e-6)


def test_metrics_hold_means_of_aux_and_own_names_are_refused():
    tx = optax.sgd(0.1)
    state = start(tx)
    _, metrics = train_step(pull, tx, 0.9, state, rows(0))
    np.testing.assert_allclose(metrics["first"], rows(0)["x"][:, 0].mean(), rtol=1e-6)

    def clash(params, key, batch):
        losses, _ = pull(params, key, batch)
        return losses, {"grad_norm": losses}

    with pytest.raises(ValueError, match="grad_norm"):
        train_step(clash, tx, 0.9, state, rows(0))


def test_eval_step_is_the_mean_loss():
    batch = rows(3)
    metrics = eval_step(pull, {"p": jnp.ones(3)}, jax.random.key(0), batch)
    expected = 0.5 * ((1 - np.asarray(batch["x"])) ** 2).sum(1).mean()
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-6)
