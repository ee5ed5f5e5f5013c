"""Damage is found and named: flipped bits, truncated and missing files, another config."""

import json
import os

import pytest
from saved import shapes

from sdejax.train.checkpoint import Checkpoints, restore_params
from sdejax.train.integrity import CheckpointError, check_config


def largest_file(directory):
    return max((p for p in directory.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip(path, where):
    data = bytearray(path.read_bytes())
    data[int(where * (len(data) - 1))] ^= 0x10
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("where", [0.0, 0.3, 0.7, 1.0])
def test_a_flipped_bit_is_found_in_every_data_file(copied, where):
    files = json.loads((copied / "2" / "manifest.json").read_text())["files"]
    for name in files:
        path = copied / "2" / name
        good = path.read_bytes()
        if good:
            flip(path, where)
            with (
                Checkpoints(copied) as checkpoints,
                pytest.raises(CheckpointError, match=f"{path.name}.*changed"),
            ):
                checkpoints.restore(shapes())
            path.write_bytes(good)
    with Checkpoints(copied) as checkpoints:
        assert checkpoints.restore(shapes())[1] == {"next": 2}


def truncate(path):
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: truncate(largest_file(d / "state")), r"expected \d+ bytes, found \d+"),
        (lambda d: largest_file(d / "state").unlink(), r"missing, expected \d+ bytes"),
        (lambda d: (d / "manifest.json").unlink(), r"manifest.json: missing"),
        (lambda d: truncate(d / "manifest.json"), r"not readable as a manifest"),
        (lambda d: (d / "meta" / "metadata").unlink(), r"metadata: missing"),
    ],
)
def test_damage_is_named_and_the_step_before_still_restores(copied, damage, message):
    damage(copied / "2")
    files = sorted(copied.rglob("*"))
    with Checkpoints(copied) as checkpoints:
        with pytest.raises(CheckpointError, match=message) as raised:
            checkpoints.restore(shapes())
        assert "another step: [1]" in str(raised.value)
        with pytest.raises(CheckpointError, match=message):
            restore_params(copied, which="params")
        state, meta = checkpoints.restore(shapes(), step=1)
    assert float(state["params"]["w"][3, 4]) == meta["next"] == 1
    assert sorted(copied.rglob("*")) == files


def test_another_config_is_refused_by_naming_the_keys():
    saved = {"model": {"width": 8, "norms": [1, 2]}, "steps": 10, "log": {"every": 5}, "old": 1}
    now = {"model": {"width": 16, "norms": (1, 2)}, "steps": 99, "log": {"every": 7}, "new": None}
    with pytest.raises(CheckpointError) as raised:
        check_config(saved, now, may_change=("steps", "log"))
    lines = [line.strip() for line in str(raised.value).splitlines()]
    assert lines[1:4] == ["model.width: 8 -> 16", "new: '(absent)' -> None", "old: 1 -> '(absent)'"]
    assert "--workdir" in lines[4]
    check_config(saved, {**saved, "steps": 11}, may_change=("steps",))
