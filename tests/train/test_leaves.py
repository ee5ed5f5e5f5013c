"""Leaves by name: what differs is named before anything is read."""

import jax
import jax.numpy as jnp
import numpy as np

from sdejax.train.checkpoint import Checkpoints
from sdejax.train.reader import restore_params


def test_like_gives_back_lists(tmp_path):
    params = [jnp.arange(3.0), {"a": jnp.ones(())}]
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"ema_params": params}, {})
    restored = restore_params(tmp_path, like=params)
    assert jax.tree.structure(restored) == jax.tree.structure(params)
    np.testing.assert_array_equal(restored[0], params[0])
