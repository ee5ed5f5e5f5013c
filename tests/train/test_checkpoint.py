import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from saved import save_all, small
from train_toy import ADAM, ROWS, batch_at, digests, loss_fn, make_state, run

from sdejax.train import checkpoint
from sdejax.train.catalog import all_steps, best_step, read_meta
from sdejax.train.checkpoint import Checkpoints
from sdejax.train.integrity import CheckpointError
from sdejax.train.parallel import parallel
from sdejax.train.reader import restore_params


def layout(mode, devices=8, fsdp=1):
    return parallel(mode, loss_fn, ADAM, 0.99, ROWS, devices=jax.devices()[:devices], fsdp=fsdp)


@pytest.mark.parametrize(
    "route",
    [
        [("pmap", 8, 1), ("pmap", 1, 1), ("pmap", 8, 1)],
        [("jit", 8, 4), ("jit", 1, 1), ("jit", 8, 2)],
        [("pmap", 8, 1), ("jit", 8, 8), ("pmap", 2, 1)],
    ],
)
def test_restores_on_other_devices_and_in_the_other_mode(tmp_path, route):
    first = layout(*route[0])
    state, _ = run(first, first.init(make_state), 0, 2)
    expected = digests(state)
    for step, (here, there) in enumerate(itertools.pairwise(route), start=1):
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(step, layout(*here).portable(state), {})
            goal = layout(*there)
            restored, _ = checkpoints.restore(goal.abstract(make_state))
        state = goal.place(restored)
        assert digests(state) == expected
        assert state.key.dtype == jax.random.key(0).dtype
    goal.step(state, goal.place_batch(batch_at(2)))


# --- which steps stay -----------------------------------------------------------------------------


def test_keeps_the_latest_and_the_best_whatever_is_nan(tmp_path):
    save_all(tmp_path, [3.0, 1.0, float("nan"), 2.0, float("nan"), float("inf")], best="loss")
    assert all_steps(tmp_path) == [2, 5, 6]
    assert best_step(tmp_path) == 2
    assert not (tmp_path / "trash").exists()
    with Checkpoints(tmp_path, best="loss") as checkpoints:  # the scores outlive the process
        checkpoints.save(7, small(7), {}, {"loss": 4.0})
        assert checkpoints.newest_step() == 7
    assert all_steps(tmp_path) == [2, 6, 7]


def test_without_scores_only_the_latest_stay(tmp_path):
    save_all(tmp_path, [1.0, 2.0, 3.0, 4.0], keep=1)
    assert all_steps(tmp_path) == [4]
    assert best_step(tmp_path) == 4


def test_a_failed_save_is_reported_and_leaves_the_step_before(tmp_path, monkeypatch):
    def full(directory):
        raise OSError(28, "No space left on device")

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, small(1), {})
        checkpoints.wait()
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "write_manifest", full)
            checkpoints.save(2, small(2), {})
            with pytest.raises(CheckpointError, match=r"step 2 .*No space left"):
                checkpoints.wait()
        assert checkpoints.latest_step() == checkpoints.newest_step() == 1
        checkpoints.save(3, small(3), {})
    assert all_steps(tmp_path) == [1, 3]


# --- reading a part -------------------------------------------------------------------------------


def test_params_are_read_without_optimizer_or_devices(tmp_path):
    this = layout("jit", fsdp=4)
    state, _ = run(this, this.init(make_state), 0, 3)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, this.portable(state), {"config": {"a": [1, 2]}})
        checkpoints.wait()
        read = {w: restore_params(tmp_path, which=w) for w in ("params", "ema_params")}
    for which, tree in read.items():
        expected = jax.tree.map(np.asarray, getattr(state, which))
        jax.tree.map(np.testing.assert_array_equal, tree, expected)
        assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(tree))
    assert np.any(read["params"]["w1"] != read["ema_params"]["w1"])
    assert read_meta(tmp_path) == {"config": {"a": [1, 2]}}
    with pytest.raises(CheckpointError, match=r"params/w1.*float32\[6, 8\].*float32\[6, 9\]"):
        restore_params(tmp_path, like=make_state(width=9).params)
    with pytest.raises(CheckpointError, match="no 'encoder': choose one of"):
        restore_params(tmp_path, which="encoder")


# --- what is refused ------------------------------------------------------------------------------


def test_steps_only_grow(copied):
    with Checkpoints(copied) as checkpoints:
        for step in (1, 2):
            with pytest.raises(CheckpointError, match="already has step 2"):
                checkpoints.save(step, small(9), {})
        checkpoints.save(3, small(3), {})
        with pytest.raises(CheckpointError, match="already has step 3"):  # still in progress
            checkpoints.save(3, small(3), {})
    np.testing.assert_array_equal(restore_params(copied, 2, which="params")["w"], 2.0)


def test_one_writer_at_a_time(tmp_path):
    with (
        Checkpoints(tmp_path),
        pytest.raises(CheckpointError, match="being written by another run"),
    ):
        Checkpoints(tmp_path)
    with Checkpoints(tmp_path):
        pass


def test_what_cannot_be_stored_is_named(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(ValueError, match="meta holds"):
            checkpoints.save(1, small(1), {"x": jnp.ones(2)})
        with pytest.raises(ValueError, match=r"'e'.* empty"):
            checkpoints.save(1, {"e": jnp.zeros((0, 3))}, {})
        with pytest.raises(ValueError, match="'/'"):
            checkpoints.save(1, {"a/b": jnp.ones(1)}, {})
    with pytest.raises(ValueError, match="keep=0"):
        Checkpoints(tmp_path, keep=0)
    assert all_steps(tmp_path) == []
