"""Kills, exits, damage, a full disk and a second writer, against processes that save."""

import shutil

import jax.numpy as jnp
import pytest

from experiments.reliability import best, disk, exits, flips, full, kills, lock, states
from sdejax.train.checkpoint import Checkpoints

SLOW = 60.0  # seconds: on a busy machine limits in seconds say nothing


def passed(outcome):
    assert outcome.passed, outcome
    return outcome


def test_kills_lose_nothing(tmp_path):
    outcome = passed(kills.scenario(8, tmp_path))
    assert "killed during a save 0 times" not in outcome.notes


def test_kills_while_scores_worsen_keep_the_newest_and_the_best(tmp_path):
    passed(best.scenario(6, tmp_path))


def test_every_exit_right_after_a_save_commits_it(tmp_path):
    assert passed(exits.scenario(1, tmp_path)).tries == 8


def test_damage_is_noticed_and_the_step_before_restored(tmp_path):
    assert passed(flips.scenario(20, tmp_path)).tries > 60


def test_a_full_disk(tmp_path):
    passed(disk.scenario(3, tmp_path))


@pytest.mark.slow
def test_files_that_may_not_grow(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "_mounts", lambda mount: False)
    assert "a limit on the size" in passed(disk.scenario(6, tmp_path)).notes


def test_a_second_writer_is_refused_and_the_lock_of_a_dead_one_free(tmp_path):
    passed(lock.scenario(1, tmp_path, limit=SLOW))


# --- the scenarios can fail -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved")
    with Checkpoints(directory, best="loss") as checkpoints:
        for step in range(10, 13):
            score = {"loss": states.worsening(step)}
            checkpoints.save(step, states.content(step), states.meta_of(step), score)
    return directory


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def judged(directory, known=()):
    return +kills.judge(directory, set(known), "worsening")


def test_the_judge_of_kills(copy):
    assert judged(copy) == {}
    assert judged(copy, {13}) == {"lost": 1}
    shutil.rmtree(copy / "10")  # the best
    assert judged(copy, {10}) == {"lost": 1, "wrong": 1}
    (copy / "12" / "manifest.json").unlink()
    assert judged(copy)["unreadable"] == 1


def test_the_judge_sees_wrong_bytes(tmp_path):
    for step, wrong in ((1, {}), (2, {"step": jnp.asarray(7, jnp.int32)})):
        state = {"params": states.content(step)["params"] | wrong}
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(step, state, states.meta_of(step))
    assert kills.judge(tmp_path, set(), "falling") == {"lost": 0, "wrong": 1}


def test_the_judge_of_damage(tmp_path):
    for step in (1, 2):
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(step, states.content(3 - step), states.meta_of(step))
    assert flips.judge(tmp_path) == "unreadable"


def test_what_a_worker_was_doing(tmp_path):
    said = ["saving 1", "committed 1", "deleting x", "deleted x", "saving 2"]
    (tmp_path / "2").mkdir()
    assert +kills._last_moments(said, tmp_path) == {"saving": 1, "partial": 1}
    assert +kills._last_moments(said[:3], tmp_path) == {"deleting": 1}
    assert not +kills._last_moments(said[:2], tmp_path)


def test_a_disk_is_filled_but_for_a_share(tmp_path):
    assert full._size(tmp_path) == 0
    (tmp_path / "x").write_bytes(b"1")
    assert full._size(tmp_path) == 4096
