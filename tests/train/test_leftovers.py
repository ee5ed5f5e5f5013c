"""A directory is tidied before a run writes into it."""

import numpy as np
import pytest
from saved import save_all, shapes, small

from sdejax.train.catalog import DamagedCheckpoint, all_steps, read_meta
from sdejax.train.checkpoint import Checkpoints
from sdejax.train.leftovers import DAMAGED, TRASH, remove_unfinished, tidy


def damage(step):
    file = next((step / "state" / "d").iterdir())
    file.write_bytes(file.read_bytes()[:-1])


def test_a_run_goes_on_from_the_step_before_a_damaged_one(copied):
    for again in (False, True):  # the same step may be damaged twice
        damage(copied / "2")
        with pytest.warns(DamagedCheckpoint, match=r"2 is damaged; moved to"):
            opened = Checkpoints(copied)
        with opened as checkpoints:
            assert checkpoints.latest_step() == checkpoints.newest_step() == 1
            state, meta = checkpoints.restore(shapes())
            np.testing.assert_array_equal(state["params"]["w"], 1.0)
            assert meta == {"next": 1}
            checkpoints.save(2, small(2), {"next": 2})
        assert all_steps(copied) == [1, 2]
        kept = sorted(path.name for path in (copied / DAMAGED).iterdir())
        assert kept == (["2", "2.1"] if again else ["2"])
    with Checkpoints(copied) as checkpoints:
        state, _ = checkpoints.restore(shapes())
    np.testing.assert_array_equal(state["params"]["w"], 2.0)


def test_an_older_damaged_step_is_set_aside_too(tmp_path):
    save_all(tmp_path, [2.0, 1.0, 3.0], best="loss", keep=2)
    assert all_steps(tmp_path) == [2, 3]
    (tmp_path / "2" / "metrics" / "metrics").write_text("[1]")
    with pytest.warns(DamagedCheckpoint, match=r"2 is damaged; moved to .*metrics"):
        opened = Checkpoints(tmp_path, best="loss")
    with opened as checkpoints:
        assert checkpoints.latest_step() == 3
        checkpoints.save(4, small(4), {}, {"loss": 5.0})
    assert all_steps(tmp_path) == [3, 4]


def test_of_several_good_steps_the_newest_is_taken(tmp_path):
    save_all(tmp_path, [1.0] * 4, keep=4)
    damage(tmp_path / "4")
    with pytest.warns(DamagedCheckpoint, match="back to step 3"):
        assert read_meta(tmp_path) == {"next": 3}
    with pytest.warns(DamagedCheckpoint, match="4 is damaged"):
        opened = Checkpoints(tmp_path)
    with opened as checkpoints:
        assert checkpoints.latest_step() == 3
    assert (all_steps(tmp_path), (tmp_path / DAMAGED / "4").exists()) == ([1, 2, 3], True)


def test_trash_is_emptied_and_complete_steps_stay(copied):
    (copied / TRASH / "1").mkdir(parents=True)
    with Checkpoints(copied) as checkpoints:
        tidy(checkpoints.directory)
        assert not (copied / TRASH).exists()
        for step in (1, 7):
            remove_unfinished(checkpoints.directory, step)
    assert all_steps(copied) == [1, 2]
