import json
import struct

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from sdejax.train.logs import Logs


def events(workdir):
    """The records of a TensorBoard file: length, checksum, event, checksum, over and over."""
    (path,) = (workdir / "tensorboard").iterdir()
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(event_pb2.Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return [(e.step, value) for e in found for value in e.summary.value]


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_scalars_reach_json_and_tensorboard(tmp_path):
    with Logs(tmp_path / "run") as logs:
        logs.scalars(3, {"loss": np.float32(0.5), "rate": 2})
        assert lines(tmp_path / "run") == [{"step": 3, "loss": 0.5, "rate": 2.0}]  # at once
        logs.scalars(4, {"loss": 0.25})
    assert lines(tmp_path / "run")[1] == {"step": 4, "loss": 0.25}
    written = [(step, v.tag, v.simple_value) for step, v in events(tmp_path / "run")]
    assert written == [(3, "loss", 0.5), (3, "rate", 2.0), (4, "loss", 0.25)]


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1), (4, 6, 3)])
def test_pictures_reach_tensorboard(tmp_path, shape):
    with Logs(tmp_path) as logs:
        logs.picture(5, "samples", np.zeros(shape, np.uint8))
    ((step, value),) = events(tmp_path)
    assert (step, value.tag) == (5, "samples")
    assert (value.image.height, value.image.width) == (4, 6)


def test_a_resumed_run_appends(tmp_path):
    for step in (1, 2):
        with Logs(tmp_path, step=step - 1) as logs:
            logs.scalars(step, {"loss": 1.0})
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


def test_other_processes_write_nothing(tmp_path):
    with Logs(tmp_path / "run", active=False) as logs:
        logs.scalars(1, {"loss": 1.0})
        logs.picture(1, "samples", np.zeros((2, 2), np.uint8))
    assert not (tmp_path / "run").exists()


def test_files_are_closed_on_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="mine"), Logs(tmp_path) as logs:  # noqa: PT012
        logs.scalars(1, {"loss": 1.0})
        raise RuntimeError("mine")
    assert [step for step, _ in events(tmp_path)] == [1]


def test_a_run_that_goes_on_drops_what_it_will_write_again(tmp_path):
    with Logs(tmp_path) as logs:
        for step in (2, 4, 6):
            logs.scalars(step, {"loss": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')  # cut off
    with Logs(tmp_path, step=4) as logs:
        logs.scalars(6, {"loss": 66})
    assert lines(tmp_path) == [{"step": s, "loss": n} for s, n in ((2, 2), (4, 4), (6, 66))]
    with Logs(tmp_path, active=False, step=0):
        pass
    assert len(lines(tmp_path)) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl", "tensorboard"]
