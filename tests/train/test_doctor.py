"""What the doctor finds, in directories whose state is known; it changes none of them."""

import shutil

import pytest
from saved import save_all, shapes

from sdejax.train.catalog import DamagedCheckpoint
from sdejax.train.checkpoint import Checkpoints
from sdejax.train.doctor import examine, total_size
from sdejax.train.integrity import CheckpointError


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    directory = tmp_path_factory.mktemp("scored")
    save_all(directory, [float("nan"), 1.0, 3.0, 2.0], best="loss")
    return directory


@pytest.fixture
def copy(scored, tmp_path):
    return shutil.copytree(scored, tmp_path / "copy")


def everything(directory):
    return {p: p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def test_a_sound_directory(scored):
    before, read = everything(scored), []
    health = examine(scored, read.append)
    assert everything(scored) == before
    assert [(c.step, c.score, c.good) for c in health.checkpoints] == [
        (2, 1.0, True), (3, 3.0, True), (4, 2.0, True),
    ]  # fmt: skip
    assert (health.resumes_from, health.best, health.passed_over) == (4, 2, ())
    assert health.leftovers == ()
    assert not health.lock.held
    assert sum(read) == total_size(scored) == sum(c.size for c in health.checkpoints) > 10_000
    assert health.checkpoints[0].saved_at <= health.checkpoints[-1].saved_at


def test_damage_leftovers_and_an_unfinished_step_are_told_apart(copy):
    damaged = copy / "4" / "state" / "manifest.ocdbt"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    (copy / "2" / "meta" / "metadata").unlink()
    (copy / "5" / "state").mkdir(parents=True)
    (copy / "trash" / "1").mkdir(parents=True)
    (copy / "trash" / "1" / "file").write_bytes(b"12345")
    (copy / "notes").write_text("mine")
    before = everything(copy)
    health = examine(copy)
    assert everything(copy) == before
    assert (health.resumes_from, health.passed_over, health.best) == (3, (4,), 3)
    state = {c.step: (c.complete, c.problem) for c in health.checkpoints}
    assert state[3] == (True, None)
    assert state[5] == (False, None)
    assert "manifest.ocdbt: expected" in state[4][1]
    assert "metadata: missing" in state[2][1]
    assert [(x.name, x.size) for x in health.leftovers] == [("notes", 4), ("trash", 5)]
    with pytest.warns(DamagedCheckpoint), Checkpoints(copy, best="loss") as checkpoints:
        assert checkpoints.restore(shapes())[1] == {"next": 3}  # as foretold
    after = examine(copy)
    assert (after.resumes_from, after.passed_over) == (3, ())
    assert [x.name for x in after.leftovers] == ["damaged", "notes"]


def test_who_writes(copy):
    with Checkpoints(copy):
        assert examine(copy).lock.held
    assert not examine(copy).lock.held


def test_nothing_good_and_nothing_at_all(copy, tmp_path):
    for step in ("2", "3", "4"):
        (copy / step / "manifest.json").unlink()
    health = examine(copy)
    assert (health.resumes_from, health.passed_over, health.best) == (None, (2, 3, 4), None)
    (tmp_path / "empty").mkdir()
    assert examine(tmp_path / "empty").resumes_from is None
    with pytest.raises(CheckpointError, match="is missing: check --workdir"):
        examine(tmp_path / "nowhere")


def test_a_step_that_goes_away_meanwhile_is_left_out(copy):
    def retire(size):
        shutil.rmtree(copy / "2", ignore_errors=True)

    assert [c.step for c in examine(copy, retire).checkpoints] == [3, 4]
