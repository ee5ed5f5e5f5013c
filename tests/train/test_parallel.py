import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from train_toy import ADAM, ROWS, SGD, batch_at, loss_fn, make_state, run

from sdejax.train.parallel import parallel, throttle


def layout(mode, devices, fsdp, tx=SGD, loss=loss_fn):
    return parallel(mode, loss, tx, 0.9, ROWS, devices=jax.devices()[:devices], fsdp=fsdp)


@pytest.mark.parametrize("mode", ["pmap", "jit"])
def test_one_all_reduce_a_step(mode):
    this = layout(mode, 8, 1, ADAM)
    text = this.step.lower(this.init(make_state), this.place_batch(batch_at(0))).compile().as_text()
    assert len(re.findall(r"= .* all-reduce(?:-start)?\(", text)) == 1


@pytest.mark.parametrize(("mode", "fsdp"), [("pmap", 1), ("jit", 1), ("jit", 4)])
def test_one_trace_for_a_run_and_its_resumption(mode, fsdp):
    traces = []

    def counted(params, key, batch):
        traces.append(1)
        return loss_fn(params, key, batch)

    this = layout(mode, 8, fsdp, ADAM, counted)
    state, _ = run(this, this.init(make_state), 0, 5)
    state, _ = run(
        this, this.place(jax.device_get(state._replace(key=None))._replace(key=state.key)), 5, 7
    )
    state, _ = run(this, this.place(this.portable(state)), 7, 9)
    assert len(traces) == 1
    for _ in range(3):
        this.eval(state.ema_params, jax.random.key(0), this.place_batch(batch_at(0)))
    assert len(traces) == 2


def edgy(params, key, batch):
    """The loss, and one row's term sqrt(edge w^2) - |w|: at edge = 0 its gradient alone is NaN."""
    losses, aux = loss_fn(params, key, batch)
    w = params["w1"][0, 0]
    return losses + jnp.sqrt(batch["edge"] * w**2) - jnp.abs(w), aux


@pytest.mark.parametrize(("mode", "fsdp"), [("pmap", 1), ("jit", 4)])
def test_a_bad_row_on_one_device_is_skipped_on_all(mode, fsdp):
    """Two ways to be bad: a loss that is NaN, and a finite one whose gradient is not."""
    this = layout(mode, 8, fsdp, ADAM, edgy)
    state = this.init(make_state)
    bad_value, bad_gradient = ({**batch_at(n), "edge": np.ones(ROWS, np.float32)} for n in (2, 3))
    bad_value["x"][5] = np.nan
    bad_gradient["edge"][11] = 0.0
    for step in range(2):
        batch = {**batch_at(step), "edge": np.ones(ROWS, np.float32)}
        state, _ = this.step(state, this.place_batch(batch))
    before = jax.tree.map(np.asarray, (state.params, state.opt_state, state.ema_params))
    for count, bad in enumerate((bad_value, bad_gradient), 1):
        state, metrics = this.step(state, this.place_batch(bad))
        assert (int(metrics["skipped"]), int(metrics["bad_streak"])) == (count, count)
        assert np.isfinite(metrics["loss"]) == (count == 2)
        assert not np.isfinite(metrics["grad_norm"])
        after = (state.params, state.opt_state, state.ema_params)
        for new, old in zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True):
            for shard in new.addressable_shards:
                np.testing.assert_array_equal(shard.data, old[shard.index])
    state, metrics = this.step(state, this.place_batch(batch))
    assert (int(state.step), int(metrics["skipped"]), int(metrics["bad_streak"])) == (5, 2, 0)
    assert np.any(np.asarray(state.params["w1"]) != before[0]["w1"])


def test_fsdp_shards_parameters_average_and_optimizer_state():
    this = layout("jit", 8, 4, ADAM)
    state, _ = run(this, this.init(make_state), 0, 2)
    moments = state.opt_state[1][0]
    for tree in (state.params, state.ema_params, moments.mu, moments.nu):
        assert tree["w1"].sharding.shard_shape((6, 8)) == (6, 2)  # the largest axis that divides
        assert tree["w2"].sharding.shard_shape((8, 6)) == (2, 6)
        assert tree["b1"].sharding.shard_shape((8,)) == (2,)
    assert state.key.sharding.is_fully_replicated


@pytest.mark.parametrize("mode", ["pmap", "jit"])
def test_step_donates_its_state_but_place_copies(mode):
    this = layout(mode, 8, 1)
    mine = make_state(SGD)
    shared = mine._replace(ema_params=mine.params)  # one buffer twice
    placed = this.place(shared)
    again = this.place(placed)
    this.step(placed, this.place_batch(batch_at(0)))
    assert placed.params["w1"].is_deleted()
    assert not again.params["w1"].is_deleted()
    np.testing.assert_array_equal(mine.params["w1"], again.params["w1"])
    assert float(jnp.sum(mine.ema_params["w1"])) == float(jnp.sum(again.params["w1"]))


@pytest.mark.parametrize("mode", ["pmap", "jit"])
def test_eval_does_not_depend_on_the_layout(mode):
    params, key = make_state().params, jax.random.key(3)
    this = layout(mode, 8, 1)
    expected = jnp.mean(loss_fn(params, key, batch_at(1))[0])
    metrics = this.eval(this.place(make_state(SGD)).params, key, this.place_batch(batch_at(1)))
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-6)


@pytest.mark.parametrize(("rows", "advice"), [(9, "use 8 or 16"), (4, "use 8"), (0, "use 8")])
@pytest.mark.parametrize("mode", ["pmap", "jit"])
def test_rows_that_do_not_divide_are_refused_by_name(mode, rows, advice):
    with pytest.raises(ValueError, match=f"global_batch_size={rows} .* 8 devices: {advice}$"):
        parallel(mode, loss_fn, SGD, 0.9, rows)


def test_misuse_is_named():
    with pytest.raises(ValueError, match="expected one of"):
        parallel("gspmd", loss_fn, SGD, 0.9, 8)
    with pytest.raises(ValueError, match="fsdp=3"):
        parallel("jit", loss_fn, SGD, 0.9, 8, fsdp=3)
    with pytest.raises(ValueError, match="fsdp=2"):
        parallel("pmap", loss_fn, SGD, 0.9, 8, fsdp=2)
    for mode in ("pmap", "jit"):
        with pytest.raises(ValueError, match=r"batch\['x'\] has shape \(8, 6\).*16 rows"):
            layout(mode, 8, 1).place_batch(batch_at(0, 0, 8))


def test_throttle_waits_for_the_step_before(monkeypatch):
    waited = []

    def block(metrics):
        waited.append(metrics)
        return metrics

    monkeypatch.setattr(jax, "block_until_ready", block)
    wait = throttle(depth=3)
    assert [wait(n) for n in range(8)] == [None, None, None, 0, 1, 2, 3, 4]
    assert waited == [0, 1, 2, 3, 4]
