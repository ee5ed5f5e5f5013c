"""Leaves by name: what differs is named before anything is read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from saved import shapes

from sdejax.train.checkpoint import Checkpoints, restore_params
from sdejax.train.integrity import CheckpointError


def test_another_model_is_refused_by_naming_the_leaves(two_steps):
    other = shapes(width=16) | {"m": jax.ShapeDtypeStruct((), jnp.float32)}
    other["n"] = jax.ShapeDtypeStruct((), jnp.float32)
    with Checkpoints(two_steps) as checkpoints, pytest.raises(CheckpointError) as raised:
        checkpoints.restore(other)
    lines = [line.strip() for line in str(raised.value).splitlines()]
    assert "m: not saved, expected float32[]" in lines
    assert "n: saved int32[], expected float32[]" in lines
    assert "params/w: saved float32[32, 32], expected float32[16, 32]" in lines


def test_at_most_twenty_lines_of_differences(two_steps):
    many = {f"leaf{i:02}": jax.ShapeDtypeStruct((), jnp.float32) for i in range(40)}
    with Checkpoints(two_steps) as checkpoints, pytest.raises(CheckpointError) as raised:
        checkpoints.restore(many)
    lines = str(raised.value).splitlines()
    assert "42 leaves" in lines[0]
    assert len(lines) == 22
    assert lines[-2].strip() == "... and 23 more"


def test_like_gives_back_lists(tmp_path):
    params = [jnp.arange(3.0), {"a": jnp.ones(())}]
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"ema_params": params}, {})
    restored = restore_params(tmp_path, like=params)
    assert jax.tree.structure(restored) == jax.tree.structure(params)
    np.testing.assert_array_equal(restored[0], params[0])
