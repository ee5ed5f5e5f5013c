import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stats import assert_mean

from sdejax import processes
from sdejax.denoiser import make_model
from sdejax.losses import make_loss
from sdejax.losses.dequantised import dequantised
from sdejax.prediction import v

KEY = jax.random.key(0)


def shown(params, key, batch):
    """A loss that gives back the data it sees, and the key."""
    return batch["x"], {"key": jax.random.key_data(key), "label": batch["label"]}


def batch_of(n, shape=(2,)):
    x = np.random.default_rng(0).integers(0, 4, (n, *shape)).astype(np.float32)
    return {"x": jnp.asarray(x), "position": jnp.arange(n), "label": jnp.arange(n)}


@pytest.mark.parametrize("width", [0.5, [0.5], [0.25, 2.0]])
def test_noise_is_uniform_over_the_width_and_independent(width):
    batch = batch_of(20_000)
    x, aux = jax.jit(dequantised(shown, width))(None, KEY, batch)
    u = np.asarray((x - batch["x"]) / np.asarray(width, np.float32) + 0.5, float)
    assert u.min() >= -1e-6
    assert u.max() <= 1 + 1e-6
    for power in (1, 2, 3):
        assert_mean(u**power, 1 / (power + 1))
    assert_mean((u[:, 0] - 0.5) * (u[:, 1] - 0.5), 0.0)
    assert_mean((u[1:, 0] - 0.5) * (u[:-1, 0] - 0.5), 0.0)
    np.testing.assert_array_equal(aux["label"], batch["label"])
    np.testing.assert_array_equal(aux["key"], jax.random.key_data(KEY))


def test_noise_is_that_of_the_place_and_the_step_whatever_the_split():
    batch, loss = batch_of(16, (3, 3, 1)), dequantised(shown, 0.1)
    whole = loss(None, KEY, batch)[0]
    part = loss(None, KEY, jax.tree.map(lambda leaf: leaf[8:12], batch))[0]
    np.testing.assert_array_equal(part, whole[8:12])
    assert np.all(np.asarray(loss(None, jax.random.key(1), batch)[0]) != np.asarray(whole))


def test_the_other_draws_of_an_objective_stay_as_they_are():
    """The loss is that of the plain objective on the data that the noise makes, bit for bit."""
    model = make_model(lambda params, x, t, cond: params * x, v, batched=False)
    plain = make_loss(model, processes.vp(), 16)
    batch = batch_of(16)
    del batch["label"]
    noisy = batch | {"x": dequantised(lambda p, k, b: (b["x"], {}), 0.3)(None, KEY, batch)[0]}
    params = jnp.float32(0.5)
    losses, _ = jax.jit(dequantised(plain, 0.3))(params, KEY, batch)
    np.testing.assert_allclose(losses, jax.jit(plain)(params, KEY, noisy)[0], rtol=1e-6)
    assert np.all(np.asarray(losses) != np.asarray(plain(params, KEY, batch)[0]))


def test_noise_of_the_data_is_independent_of_the_noise_of_the_process():
    """Streams that were one would make the first uniform a function of the first normal."""
    model = make_model(lambda params, x, t, cond: 0 * x, v, batched=False)
    sde, n = processes.vp(), 20_000
    batch = {"x": jnp.zeros((n, 1)), "position": jnp.arange(n)}
    u = dequantised(lambda p, k, b: (b["x"], {}), 1.0)(None, KEY, batch)[0][:, 0]
    losses = make_loss(model, sde, n)(None, KEY, batch)[0]
    assert abs(np.corrcoef(np.asarray(u) ** 2, np.asarray(losses))[0, 1]) < 5 / np.sqrt(n)
    assert abs(np.corrcoef(np.asarray(u), np.asarray(losses))[0, 1]) < 5 / np.sqrt(n)


def test_no_example_draws_from_a_key_that_an_objective_uses():
    """Splits are folds of 0, 1, ...: a fold of the place alone would meet them there."""
    n = 8
    batch = {"x": jnp.zeros((n, 1)), "position": jnp.arange(n)}
    noise = dequantised(lambda p, k, b: (b["x"], {}), 1.0)(None, KEY, batch)[0][:, 0] + 0.5
    time_key, example_key = jax.random.split(KEY)
    own = [jax.random.fold_in(example_key, i) for i in range(n)]
    used = [KEY, time_key, example_key, *own, *(k for key in own for k in jax.random.split(key, 3))]
    others = np.asarray([jax.random.uniform(key, (1,))[0] for key in used])
    assert np.min(np.abs(np.asarray(noise)[:, None] - others)) > 1e-6


def test_misuse_is_named():
    for width in (0.0, -1.0, np.nan, [1.0, np.inf], [[1.0]]):
        with pytest.raises(ValueError, match="expected positive numbers"):
            dequantised(shown, width)
    with pytest.raises(ValueError, match=r"got 3 widths for examples \[2\]"):
        dequantised(shown, [1.0, 1.0, 1.0])(None, KEY, batch_of(4))
