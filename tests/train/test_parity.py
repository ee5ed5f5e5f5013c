"""All layouts compute the same: parameters after twenty steps, the first gradient, the noise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from train_toy import ROWS, SGD, batch_at, loss_fn, make_state, run

from sdejax.losses.draws import make_draw
from sdejax.processes import vp
from sdejax.times import objective, uniform
from sdejax.train import step
from sdejax.train.parallel import parallel
from sdejax.train.state import init_state

LAYOUTS = [  # the reference is ("jit", 1, 1)
    ("pmap", 1, 1),
    ("pmap", 2, 1),
    ("pmap", 4, 1),
    ("pmap", 8, 1),
    ("jit", 2, 1),
    ("jit", 2, 2),
    ("jit", 4, 1),
    ("jit", 4, 4),
    ("jit", 8, 1),
    ("jit", 8, 2),
    ("jit", 8, 8),
]
# Keeps the gradient that it is given: the mean over the batch, as every device has it.
KEPT = optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params), lambda grads, old, params: (grads, grads)
)
SLOW = pytest.mark.slow
NOISY = make_draw(ROWS, objective(uniform(vp())))


def layout(mode, devices, fsdp, tx, loss):
    return parallel(mode, loss, tx, 0.9, ROWS, devices=jax.devices()[:devices], fsdp=fsdp)


def flat(*trees):
    return np.concatenate([np.ravel(np.asarray(leaf)) for leaf in jax.tree.leaves(trees)])


@functools.cache
def start():
    """One state for all layouts: its initialisation is compiled once."""
    tx = optax.chain(KEPT, SGD)
    return tx, make_state(tx)


def trajectory(mode, devices, fsdp):
    """The first gradient, and losses, parameters and their average after twenty steps."""
    tx, state = start()
    this = layout(mode, devices, fsdp, tx, loss_fn)
    state, first = run(this, this.place(state), 0, 1)
    gradient = flat(state.opt_state[0])
    state, rest = run(this, state, 1, 20)
    return gradient, flat(first, rest, state.params, state.ema_params)


@pytest.fixture(scope="module")
def reference():
    return trajectory("jit", 1, 1)


def distance(a, b):
    return np.max(np.abs(a - b)) / np.max(np.abs(b))


@pytest.mark.parametrize(("mode", "devices", "fsdp"), LAYOUTS)
def test_every_layout_gives_the_same_gradient_losses_and_parameters(mode, devices, fsdp, reference):
    gradient, rest = trajectory(mode, devices, fsdp)
    assert distance(gradient, reference[0]) < 1e-6
    assert distance(rest, reference[1]) < 1e-5


MUTANTS = {
    "a sum in place of the mean": jax.lax.psum,
    "the mean divided once more": lambda tree, name: jax.lax.pmean(
        jax.tree.map(lambda v: v / jax.lax.axis_size(name), tree), name
    ),
    "no mean": lambda tree, name: tree,
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_mean_is_refused(name, reference, monkeypatch):
    """Of the gradients only: the reported loss is right, so that it is they that tell."""
    mean, wrong = step._across, MUTANTS[name]

    def mutant(axis_name, tree):
        loss, grads = tree
        return mean(axis_name, loss), wrong(grads, axis_name)

    monkeypatch.setattr(step, "_across", mutant)
    gradient, rest = trajectory("pmap", 2, 1)
    assert distance(gradient, reference[0]) > 1e-2
    assert distance(rest, reference[1]) > 1e-3


def reading(params, key, batch):
    """A loss whose gradient is what each row has drawn, divided by the number of rows.

    Every row has parameters of its own, so that the mean adds zeros to them: it is exact.
    """

    def one(x, position):
        seen = visible(NOISY(key, x, position, None))
        mine = jax.tree.map(lambda p: p[position], params)
        return sum(jnp.sum(mine[name] * seen[name]) for name in seen), {}

    return jax.vmap(one)(batch["x"], batch["position"])


def visible(draw):
    """The draws of a row as numbers that are exact in float32, the key by its leading bits."""
    bits = jax.random.key_data(draw.key) >> 8
    return {"eps": draw.eps, "t": draw.t, "key": bits.astype(jnp.float32)}


@pytest.fixture(scope="module")
def rows():
    """What each row draws, without any layout."""
    key, batch = jax.random.fold_in(jax.random.key(7), 0), batch_at(0)
    draw = jax.vmap(lambda x, position: visible(NOISY(key, x, position, None)))
    found = jax.tree.map(np.asarray, jax.jit(draw)(batch["x"], batch["position"]))
    assert len(np.unique(found["eps"])) == found["eps"].size
    return found


NOISES = [
    each if each[0] == "pmap" or each == ("jit", 8, 8) else pytest.param(*each, marks=SLOW)
    for each in LAYOUTS[1:]
]


@pytest.mark.parametrize(("mode", "devices", "fsdp"), NOISES)
def test_every_row_draws_the_same_bits_in_every_layout(mode, devices, fsdp, rows):
    """Of noise, time and the key of what else it draws, as the train step sees them."""
    this = layout(mode, devices, fsdp, KEPT, reading)
    params = jax.tree.map(jnp.zeros_like, rows)
    state = this.place(init_state(params, KEPT, jax.random.key(7)))
    state, _ = this.step(state, this.place_batch(batch_at(0)))
    for name, expected in rows.items():
        np.testing.assert_array_equal(ROWS * np.asarray(state.opt_state[name]), expected)
