"""A small denoising problem on which a train step can be followed, shared by these tests."""

from __future__ import annotations

import hashlib

import jax
import jax.numpy as jnp
import numpy as np

from sdejax.losses.draws import make_draw
from sdejax.processes import vp
from sdejax.times import objective, uniform
from sdejax.train.leaves import named_leaves
from sdejax.train.optimizer import make_optimizer
from sdejax.train.parallel import throttle
from sdejax.train.state import init_state

ROWS, DIM, WIDTH = 16, 6, 8
SGD = make_optimizer("sgd", 0.05, clip_norm=None)
ADAM = make_optimizer("adam", 1e-2, schedule="cosine", warmup_steps=3, total_steps=40)


def loss_fn(params, key, batch):
    """Predict the noise of each row; the noise depends on the row's position, not on its device."""

    def one(x, position):
        eps = jax.random.normal(jax.random.fold_in(key, position), x.shape)
        out = jnp.tanh((x + eps) @ params["w1"] + params["b1"]) @ params["w2"]
        return jnp.sum((out - eps) ** 2), {"output": jnp.mean(out)}

    return jax.vmap(one)(batch["x"], batch["position"])


def make_state(tx=ADAM, width=WIDTH):
    k1, k2 = jax.random.split(jax.random.key(0))
    params = {
        "w1": 0.3 * jax.random.normal(k1, (DIM, width)),
        "b1": jnp.zeros(width),
        "w2": 0.3 * jax.random.normal(k2, (width, DIM)),
    }
    return init_state(params, tx, jax.random.key(7))


def batch_at(step, start=0, stop=ROWS):
    x = np.random.default_rng(step).standard_normal((ROWS, DIM)).astype(np.float32)
    return {"x": x[start:stop], "position": np.arange(ROWS, dtype=np.int32)[start:stop]}


def run(layout, state, first, last, batches=batch_at):
    """Steps first .. last - 1; returns the state and the losses."""
    losses, wait = [], throttle()
    for step in range(first, last):
        state, metrics = layout.step(state, layout.place_batch(batches(step)))
        wait(metrics)
        losses.append(metrics["loss"])
    return state, [float(loss) for loss in losses]


def drawn(mode, batch):
    """Bits of the times and of the noise that a loss draws for this process's rows of a batch."""
    draw = make_draw(ROWS, objective(uniform(vp())))

    def one(x, position):
        found = draw(jax.random.key(5), x, position, None)
        return found.t, found.eps

    wrap = {"jit": jax.jit, "pmap": jax.pmap}[mode]
    t, eps = wrap(jax.vmap(one))(batch["x"], batch["position"])
    return [_local(t).tobytes().hex(), _local(eps).tobytes().hex()]


def _local(array):
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


def digests(state):
    """sha256 of every leaf, by name."""
    return {
        name: hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest()
        for name, leaf in named_leaves(state).items()
    }
