"""A checkpoint of another model, optimizer or config is refused by naming what differs, and how.

Every case raises the one error type before an array is read, in at most twenty lines.
"""

import jax
import jax.numpy as jnp
import pytest
from train_toy import ADAM, SGD, make_state

from sdejax.train.checkpoint import Checkpoints
from sdejax.train.integrity import CheckpointError, check_config
from sdejax.train.optimizer import make_optimizer
from sdejax.train.reader import restore_params


def abstract(tree):
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), tree
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved")
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(1, make_state(ADAM), {})
    return directory


def with_params(change):
    state = make_state(ADAM)
    return state._replace(params=change(dict(state.params)))


def without_bias(params):
    del params["b1"]
    return params


STATES = {
    "missing": (
        lambda: with_params(lambda params: params | {"b2": jnp.zeros(6)}),
        ["params/b2: not saved, expected float32[6]"],
    ),
    "extra": (
        lambda: with_params(without_bias),
        ["params/b1: saved float32[8], not expected"],
    ),
    "shape": (
        lambda: make_state(ADAM, width=9),
        [
            "params/w1: saved float32[6, 8], expected float32[6, 9]",
            "ema_params/b1: saved float32[8], expected float32[9]",
        ],
    ),
    "dtype": (
        lambda: with_params(lambda params: jax.tree.map(jnp.bfloat16, params)),
        ["params/w2: saved float32[8, 6], expected bfloat16[8, 6]"],
    ),
    "rank of the same size": (
        lambda: with_params(lambda params: params | {"b1": jnp.zeros((8, 1))}),
        ["params/b1: saved float32[8], expected float32[8, 1]"],
    ),
    "kind of key": (
        lambda: make_state(ADAM)._replace(key=jax.random.key(7, impl="rbg")),
        ["key: saved uint32[2], expected uint32[4]"],
    ),
    "optimizer without moments": (lambda: make_state(SGD), ["/mu/w1: saved float32[6, 8], not ex"]),
    "another optimizer": (
        lambda: make_state(make_optimizer("sgd", 0.1, momentum=0.9)),
        ["/mu/w1: saved float32[6, 8], not ex", "/trace/w1: not saved, expected float32[6, 8]"],
    ),
}


@pytest.mark.parametrize("case", STATES)
def test_another_state_is_refused(saved, case):
    make, expected = STATES[case]
    with Checkpoints(saved) as checkpoints, pytest.raises(CheckpointError) as raised:
        checkpoints.restore(abstract(make()))
    lines = str(raised.value).splitlines()
    assert len(lines) <= 20
    for line in expected:
        assert any(line in found for found in lines), lines
    assert "Use the config it was saved with, or another --workdir" in lines[-1]


@pytest.mark.parametrize("case", ["shape", "dtype", "missing", "extra"])
def test_parameters_alone_are_refused_too(saved, case):
    make, (expected, *_) = STATES[case]
    with pytest.raises(CheckpointError) as raised:
        restore_params(saved, which="params", like=make().params)
    assert expected in [line.strip() for line in str(raised.value).splitlines()]


def test_what_fits_is_restored(saved):
    with Checkpoints(saved) as checkpoints:
        checkpoints.restore(abstract(make_state(ADAM)))


def test_a_long_list_is_cut_to_twenty_lines(saved):
    many = {f"leaf{i:02}": jnp.zeros(()) for i in range(40)}
    with Checkpoints(saved) as checkpoints, pytest.raises(CheckpointError) as raised:
        checkpoints.restore(abstract(many))
    lines = str(raised.value).splitlines()
    assert len(lines) == 20
    total = int(lines[0].split("differ in ")[1].split()[0])
    assert total > 40
    assert lines[-2].strip() == f"... and {total - 17} more"


CONFIGS = {
    "value": ({"lr": 0.5}, "lr: 0.1 -> 0.5"),
    "type": ({"lr": "0.1"}, "lr: 0.1 -> '0.1'"),
    "missing": ({"new": 1}, "new: '(absent)' -> 1"),
    "nested": ({"net": {"width": 8, "norms": [1, 3]}}, "net.norms: [1, 2] -> [1, 3]"),
    "extra": ({"net": {"width": 8}}, "net.norms: [1, 2] -> '(absent)'"),
    "many": ({f"key{i:02}": i for i in range(40)}, "key00: '(absent)' -> 0"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_another_config_is_refused(case):
    config = {"lr": 0.1, "net": {"width": 8, "norms": [1, 2]}}
    change, expected = CONFIGS[case]
    with pytest.raises(CheckpointError) as raised:
        check_config(config, config | change)
    lines = [line.strip() for line in str(raised.value).splitlines()]
    assert expected in lines
    assert len(lines) <= 20
    check_config(config, config | change, may_change=list(change))
