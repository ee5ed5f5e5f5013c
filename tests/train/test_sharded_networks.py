"""Every network of the table trains fully sharded: an eighth of its state on each of eight devices.

The widths are the least that eight divides; what is tested holds leaf by leaf.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdejax.build import build_loss, build_model, build_optimizer, default_config, init_params
from sdejax.tables import NETWORKS, component
from sdejax.train.parallel import parallel
from sdejax.train.state import init_state

ROWS, FSDP = 8, 8
IMAGE = {"nf": 8, "ch_mult": (1,)}
SMALL = {
    "mlp": {"hidden": (64,), "time_features": 16},
    "unet": {**IMAGE, "num_res_blocks": 1, "attn_resolutions": (4,)},
    "ncsn": {**IMAGE, "dilations": (1,)},
    "ncsnv2": {**IMAGE, "dilations": (1,)},
}
# A compilation of ten seconds for each layout: one network with convolutions is enough here.
NAMES = [n if n == "ncsnv2" else pytest.param(n, marks=pytest.mark.slow) for n in SMALL]


def problem(name):
    """A state, a batch of the event's shape, the loss and the optimizer."""
    config = default_config()
    config.network = component("network", name, **SMALL[name])
    config.data.batch_size = ROWS
    if name == "ncsn":
        config.conditioning = component("conditioning", "level_index")
    shape = (8,) if name == "mlp" else (4, 4, 1)
    spec = config.to_dict()
    parts = build_model(spec, shape, None)
    tx, rng = build_optimizer(spec), np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: init_params(jax.random.key(0), parts))
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.1 * rng.normal(size=leaf.shape), leaf.dtype), shapes
    )
    batch = {
        "x": rng.normal(size=(ROWS, *shape)).astype(np.float32),
        "position": np.arange(ROWS, dtype=np.int32),
    }
    return init_state(params, tx, jax.random.key(7)), batch, build_loss(spec, parts), tx


def test_every_network_is_here():
    assert set(SMALL) == set(NETWORKS)


def assert_sharded(state):
    """Every leaf of 64 numbers or more is cut in eight; all in all a device has about an eighth."""
    bytes_of = np.zeros(FSDP)
    total = 0
    tree = (state.params, state.opt_state, state.ema_params)
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        sizes = [shard.data.nbytes for shard in leaf.addressable_shards]
        assert len(sizes) == FSDP
        if leaf.size >= 64:
            assert set(sizes) == {leaf.nbytes // FSDP}, jax.tree_util.keystr(path)
        bytes_of += sizes
        total += leaf.nbytes
    assert bytes_of.max() < 1.05 * total / FSDP


@pytest.mark.parametrize("name", NAMES)
def test_state_is_sharded_donated_and_compiled_once(name):
    start, batch, loss_fn, tx = problem(name)
    traces, losses = [], {}

    def counted(params, key, rows):
        traces.append(1)
        return loss_fn(params, key, rows)

    for mode, fsdp in {"jit": FSDP, "pmap": 1}.items():
        this = parallel(mode, counted, tx, 0.9, ROWS, fsdp=fsdp)
        state, losses[mode] = this.place(start), []
        traces.clear()
        for _ in range(3):
            before = state
            with warnings.catch_warnings():
                warnings.filterwarnings("error", message=".*donated")
                state, metrics = this.step(state, this.place_batch(batch))
            losses[mode].append(float(metrics["loss"]))
            assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
            if mode == "jit":
                assert_sharded(state)
        assert len(traces) == 1
        assert int(metrics["skipped"]) == 0
    np.testing.assert_allclose(losses["jit"], losses["pmap"], rtol=1e-5)
