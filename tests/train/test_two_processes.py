import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from train_toy import ROWS, SGD, batch_at, digests, drawn, loss_fn, make_state, run

from sdejax.train.checkpoint import Checkpoints
from sdejax.train.parallel import parallel

WORKER = str(Path(__file__).with_name("train_worker.py"))


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """Two processes of two CPU devices each; what they printed, and where they saved."""
    directory = tmp_path_factory.mktemp("members")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    processes = [
        subprocess.Popen(
            [sys.executable, WORKER, "member", str(i), str(port), str(directory)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    outputs = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=300)
            assert process.returncode == 0, err[-4000:]
            outputs.append(json.loads(out.splitlines()[-1]))
    finally:
        for process in processes:
            process.kill()
    return outputs, directory


@pytest.fixture(scope="module")
def one_process():
    this = parallel("jit", loss_fn, SGD, 0.99, ROWS, devices=jax.devices()[:4])
    at_five, first = run(this, this.init(lambda: make_state(SGD)), 0, 5)
    saved = jax.device_get(at_five.params)
    _, rest = run(this, at_five, 5, 8)
    return first + rest, saved


@pytest.mark.parametrize("name", ["pmap1", "jit1", "jit4"])
def test_two_processes_give_the_losses_of_one(members, one_process, name):
    outputs, _ = members
    for output in outputs:
        np.testing.assert_allclose(output["losses"][name], one_process[0], rtol=1e-5)


@pytest.mark.parametrize("name", ["pmap1", "jit4"])  # jit1 was damaged on purpose
def test_what_two_processes_save_one_restores(members, one_process, name):
    this = parallel("pmap", loss_fn, SGD, 0.99, ROWS)
    with Checkpoints(members[1] / name) as checkpoints:
        state, meta = checkpoints.restore(this.abstract(lambda: make_state(SGD)))
    assert (int(state.step), meta) == (5, {"next": 5})
    for leaf, expected in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(one_process[1]), strict=True
    ):
        np.testing.assert_allclose(leaf, expected, rtol=1e-5, atol=1e-6)
    assert digests(this.place(state)) == digests(state)


def test_states_move_between_modes_across_processes(members):
    for output in members[0]:
        for name in ("pmap1", "jit1", "jit4"):
            pair = [output["evals"][f"{name}-{other}"] for other in ("pmap", "jit")]
            np.testing.assert_allclose(pair[0], pair[1], rtol=1e-6)
    assert members[0][0]["evals"] == members[0][1]["evals"]


@pytest.mark.parametrize("mode", ["pmap", "jit"])
@pytest.mark.parametrize("devices", [1, 8])
def test_the_draws_of_two_processes_are_those_of_one_bit_for_bit(members, mode, devices):
    alone = parallel(mode, loss_fn, SGD, 0.99, ROWS, devices=jax.devices()[:devices])
    expected = drawn(mode, alone.place_batch(batch_at(9)))
    for other in ("pmap", "jit"):
        parts = [output["draws"][other] for output in members[0]]
        assert ["".join(pair) for pair in zip(*parts, strict=True)] == expected


def test_refusals_are_raised_by_both(members):
    for output in members[0]:
        assert "being written by another run" in output["refused"][0]
        assert "another process found damage" in output["refused"][1] or (
            "bytes, found" in output["refused"][1]
        )
        assert "data set: process(es) [1] have another one than process 0" in output["refused"][2]


def test_a_signal_to_one_process_stops_both_at_one_step(members):
    steps = [output["stopped_at"] for output in members[0]]
    assert steps[0] is not None
    assert steps[0] == steps[1]
