"""Rows over devices: no communication, the same samples, and nobody waits for a stiff example."""

import re

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdejax import processes
from sdejax.conditioning import raw_time
from sdejax.denoiser import make_model, no_scaling
from sdejax.prediction import x0
from sdejax.samplers.diffeq import ode
from sdejax.samplers.make import make_sampler
from sdejax.samplers.shards import by_rows, by_shard, replicated

KEY = jax.random.key(0)
SDE = processes.vp(t_min=0.05, t_max=0.9)
ROWS = np.arange(16, dtype=np.int32)
METHOD = ode(dfx.Heun(), controller=dfx.PIDController(rtol=1e-3, atol=1e-3), max_steps=1024)
STIFF = np.where(ROWS == 5, 40.0, 0.0).astype(np.float32)  # one example of sixteen
COMMUNICATION = r"\b(all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)"


def sampler(calls):
    """A model whose calls are counted, one for each step of a device's loop."""

    def network(params, x, t, cond):
        jax.debug.callback(lambda: calls.append(1))
        return params * jnp.sin(x + cond * jnp.sin(30 * t))

    model = make_model(network, x0, batched=False, scaling=no_scaling, conditioning=raw_time)
    return make_sampler(model, METHOD, (2,), devices=jax.devices())


def test_no_device_waits_for_another():
    """Each device calls the network as often as its own slowest example needs."""
    calls = []
    _, stats = sampler(calls)(jnp.float32(0.3), SDE, KEY, jnp.asarray(ROWS), jnp.asarray(STIFF))
    jax.effects_barrier()
    nfe = np.asarray(stats.nfe)
    assert nfe[5] > 3 * np.delete(nfe, 5).max()
    assert len(calls) == nfe.reshape(8, 2).max(axis=1).sum()


def test_the_program_has_no_communication():
    """A loop whose length depends on the example, as every adaptive solve is."""

    def one(scale, index, x):
        return jax.lax.while_loop(lambda v: v < 1e3, lambda v: 2.0 * v + scale * index, x)

    args = jnp.float32(0.1), jnp.asarray(ROWS), jnp.asarray(1.0 + STIFF)
    alone = by_shard(one, (None, 0, 0), jax.devices())
    text = alone.lower(*args).compile().as_text()
    assert "while" in text
    assert not re.search(COMMUNICATION, text)
    rows, shared = by_rows(jax.devices()), replicated(jax.devices())
    placed = [jax.device_put(v, s) for v, s in zip(args, (shared, rows, rows), strict=True)]
    together = by_shard(one, (None, 0, 0), None)
    assert re.search(COMMUNICATION, together.lower(*placed).compile().as_text())
    found = alone(*placed)
    assert len(found.sharding.device_set) == 8
    np.testing.assert_array_equal(found, together(*placed))
    np.testing.assert_array_equal(found, by_shard(one, (None, 0, 0), None)(*args))


def test_rows_that_do_not_divide_are_refused_by_name():
    draw = sampler([])
    with pytest.raises(ValueError, match="indices: got 9 of them for 8 devices"):
        draw(jnp.float32(0.3), SDE, KEY, jnp.arange(9), jnp.zeros(9))
