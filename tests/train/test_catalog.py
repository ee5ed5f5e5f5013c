"""Which steps there are: only committed ones, and the same answer for everyone."""

import time

import numpy as np
import pytest
from saved import small

from sdejax.train import checkpoint
from sdejax.train.catalog import DamagedCheckpoint, all_steps, best_step, numbered, read_meta
from sdejax.train.checkpoint import Checkpoints
from sdejax.train.integrity import CheckpointError
from sdejax.train.reader import restore_params


def test_leftovers_of_a_killed_save_are_no_steps(tmp_path):
    (tmp_path / "8").mkdir()
    (tmp_path / "9" / "state").mkdir(parents=True)
    (tmp_path / "9" / "manifest.json").write_text("{}")
    with pytest.warns(DamagedCheckpoint, match="cut off"):
        opened = Checkpoints(tmp_path)
    with opened as checkpoints:
        assert checkpoints.latest_step() is None
        checkpoints.save(8, small(8), {})
        checkpoints.save(9, small(9), {})
    assert all_steps(tmp_path) == [8, 9]


def test_an_uncommitted_save_is_cleared_away_so_that_the_disk_cannot_fill(copied):
    (copied / "2" / "commit_success.txt").unlink()
    assert all_steps(copied) == [1]
    with pytest.warns(DamagedCheckpoint, match="cut off"):
        opened = Checkpoints(copied)
    with opened as checkpoints:
        assert checkpoints.newest_step() == 1
        checkpoints.save(3, small(3), {})
    assert not (copied / "2").exists()
    assert all_steps(copied) == [1, 3]


def test_a_save_in_progress_is_not_a_step_yet(tmp_path, monkeypatch):
    def slowly(directory):
        time.sleep(0.3)
        write(directory)

    write = checkpoint.write_manifest
    monkeypatch.setattr(checkpoint, "write_manifest", slowly)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, small(1), {})
        assert (checkpoints.latest_step(), checkpoints.newest_step()) == (None, 1)
        checkpoints.wait()
        assert checkpoints.latest_step() == 1


def test_missing_directories_and_steps(tmp_path, two_steps):
    with pytest.raises(CheckpointError, match="is missing: check --workdir"):
        read_meta(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(CheckpointError, match="holds no complete checkpoint"):
        restore_params(tmp_path)
    with pytest.raises(CheckpointError, match=r"no step 5: choose one of \[1, 2\]"):
        read_meta(two_steps, step=5)


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_without_a_number_the_newest_good_step_is_read_and_the_damage_named(copied):
    flip(copied / "2" / "state" / "manifest.ocdbt")
    with pytest.warns(DamagedCheckpoint, match=r"back to step 1:[^$]*2/state/manifest.ocdbt"):
        assert read_meta(copied) == {"next": 1}
    with pytest.warns(DamagedCheckpoint):
        np.testing.assert_array_equal(restore_params(copied, which="params")["w"], 1.0)
    with pytest.warns(DamagedCheckpoint):
        assert best_step(copied) == 1
    with pytest.raises(CheckpointError, match="its content changed"):
        restore_params(copied, 2, which="params")
    assert all_steps(copied) == [1, 2]  # a reader changes nothing


def test_no_good_step_at_all_is_an_error_with_every_problem(copied):
    for step in ("1", "2"):
        flip(copied / step / "meta" / "metadata")
    for read in (read_meta, restore_params, Checkpoints):
        with pytest.raises(CheckpointError, match=r"no checkpoint that is good") as found:
            read(copied)
        assert all(f"{copied}/{step}/meta/metadata" in str(found.value) for step in (1, 2))
    assert all_steps(copied) == [1, 2]


def test_only_plain_numbers_are_steps(tmp_path):
    for name in ("1", "08", "+9", "-1", "1.0", "٣", "²", "state", "1e3"):
        (tmp_path / name).mkdir()
    assert list(numbered(tmp_path)) == [1]
