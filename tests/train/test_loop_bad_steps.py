"""Gradients that are not finite: skipped, counted, and in a row the end or a step back."""

import os
import signal

import jax
import numpy as np
import pytest
from loop_run import Run, assert_same, params_of

from sdejax.train.loop import Diverged, Task


def test_a_loss_that_stays_nan_stops_the_run_and_names_the_step(tmp_path):
    straight = params_of(Run(tmp_path / "straight")(steps=8))
    run = Run(tmp_path / "run", bad=range(5, 99))
    with pytest.raises(Diverged, match=r"3 steps in a row, the last at step 7,.*those of step 4"):
        run(steps=99, log_every=50, save_every=50)  # noticed with some delay, but named exactly
    assert run.saved == []
    with pytest.raises(Diverged, match=r"3 steps in a row, the last at step 7,.*those of step 4"):
        run(steps=99, log_every=50, save_every=4)
    assert run.saved == [4]  # nothing of a run that has diverged
    # With the cause gone, the same call goes on from what was saved.
    run.bad = ()
    assert_same(params_of(run(steps=8)), straight)


@pytest.mark.parametrize(("steps", "stop"), [(12, None), (40, None), (40, 11)])
def test_a_streak_ends_the_run_wherever_it_is_cut(tmp_path, steps, stop):
    run = Run(tmp_path, bad=(8, 9, 10))  # over before anybody has looked

    def task(step, state):
        os.kill(os.getpid(), signal.SIGTERM)
        return [{}]

    tasks = (Task(stop, task),) if stop else ()
    with pytest.raises(Diverged, match="3 steps in a row, the last at step 10"):
        run(steps=steps, log_every=50, save_every=12, tasks=tasks)
    assert run.saved == []


def test_skipped_steps_are_counted_and_shown(tmp_path, capsys):
    run = Run(tmp_path, bad=(3, 5))
    state = run(steps=8)
    assert (int(state.skipped), int(state.bad_streak)) == (2, 0)
    assert [line["skipped"] for line in run.lines] == [0, 1, 2, 2]
    assert "skipped=2" in capsys.readouterr().err


def test_nothing_is_saved_amid_bad_steps(tmp_path):
    run = Run(tmp_path, bad=(3, 4))
    run(steps=9, save_every=3)
    assert run.saved == [5, 6, 9]  # the save due at step 3 waits for a good step


@pytest.mark.parametrize(("mode", "fsdp"), [("pmap", 1), ("jit", 4)])
def test_rolling_back_goes_on_from_the_last_checkpoint_with_other_noise(tmp_path, mode, fsdp):
    run = Run(tmp_path / "run", mode, fsdp, bad=range(5, 99))
    with pytest.raises(Diverged):
        run(steps=99, save_every=2)
    assert run.saved == [2, 4]
    run.bad = ()
    plain = Run(tmp_path / "plain", mode, fsdp)(steps=6)
    state = run(steps=6, rolled_back=1)
    assert (int(state.step), int(state.bad_streak), int(state.skipped)) == (6, 0, 0)
    assert not np.array_equal(jax.random.key_data(state.key), jax.random.key_data(plain.key))
    assert not np.array_equal(state.params["w1"], plain.params["w1"])
    # And that key is what a later resume goes on with.
    again = run(steps=8)
    np.testing.assert_array_equal(jax.random.key_data(again.key), jax.random.key_data(state.key))
