"""Damage is found and named: flipped bits, truncated and missing files, another config."""

import os

import pytest

from sdejax.train.integrity import CheckpointError, check_config
from sdejax.train.reader import restore_params


def largest_file(directory):
    return max((p for p in directory.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(bytes(data))


def truncate(path):
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: truncate(largest_file(d / "state")), r"expected \d+ bytes, found \d+"),
        (lambda d: largest_file(d / "state").unlink(), r"missing, expected \d+ bytes"),
        (lambda d: flip(largest_file(d / "state")), "its content changed since it was saved"),
        (lambda d: (d / "manifest.json").unlink(), r"manifest.json: missing"),
        (lambda d: truncate(d / "manifest.json"), r"not readable as a manifest"),
        (lambda d: (d / "meta" / "metadata").unlink(), r"metadata: missing"),
    ],
)
def test_damage_is_named(copied, damage, message):
    damage(copied / "2")
    files = sorted(copied.rglob("*"))
    with pytest.raises(CheckpointError, match=message) as raised:
        restore_params(copied, 2, which="params")
    assert "another step: [1]" in str(raised.value)
    assert len(str(raised.value).splitlines()) <= 20
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
