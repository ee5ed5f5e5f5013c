"""A directory is tidied before a run writes into it."""

import numpy as np
import pytest
from saved import shapes, small

from sdejax.train.catalog import DamagedCheckpoint, all_steps
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


def test_an_older_damaged_step_is_left_alone(copied):
    damage(copied / "1")
    with Checkpoints(copied) as checkpoints:
        assert checkpoints.latest_step() == 2
        state, _ = checkpoints.restore(shapes())
    np.testing.assert_array_equal(state["params"]["w"], 2.0)
    assert not (copied / DAMAGED).exists()


def test_trash_is_emptied_and_complete_steps_stay(copied):
    (copied / TRASH / "1").mkdir(parents=True)
    with Checkpoints(copied) as checkpoints:
        tidy(checkpoints.directory)
        assert not (copied / TRASH).exists()
        for step in (1, 7):
            remove_unfinished(checkpoints.directory, step)
    assert all_steps(copied) == [1, 2]
