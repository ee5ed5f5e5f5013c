import itertools
import os
import re
import signal

import jax
import numpy as np
import pytest
from loop_run import Run, assert_same, params_of
from train_toy import ROWS, batch_at, make_state

from sdejax.train.catalog import best_step, read_meta
from sdejax.train.checkpoint import Checkpoints
from sdejax.train.loop import Preempted, Task, host_params
from sdejax.train.reader import restore_params


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The state after eight steps without interruption."""
    return params_of(Run(tmp_path_factory.mktemp("straight"))(steps=8))


@pytest.mark.parametrize(("mode", "fsdp"), [("pmap", 1), ("jit", 4)])
def test_a_resumed_run_goes_through_the_same_states(tmp_path, straight, mode, fsdp):
    if mode == "jit":
        straight = params_of(Run(tmp_path / "straight", mode, fsdp)(steps=8))
    first = Run(tmp_path / "parts", mode, fsdp)
    first(steps=5)
    assert first.found == {}
    second = Run(tmp_path / "parts", mode, fsdp)
    state = second(steps=8)
    assert second.found == {"at": 5}
    assert int(state.step) == 8
    assert_same(params_of(state), straight)


@pytest.mark.parametrize("mode", ["pmap", "jit"])
def test_one_trace_for_a_whole_run(tmp_path, mode):
    run = Run(tmp_path, mode)
    run(steps=7, tasks=(Task(2, lambda step, state: [{"x": float(state.skipped)}]),))
    assert run.traces == 1


def test_the_bar_says_what_is_being_done(tmp_path, capsys):
    tasks = (Task(2, lambda step, state: [{}]), Task(4, lambda *_: [{}], True, "sampling"))
    Run(tmp_path)(steps=5, tasks=tasks)
    said = re.findall(r"(compiling|training|evaluating|sampling): ", capsys.readouterr().err)
    words = [word for word, _ in itertools.groupby(said)]
    evaluated, drawn = ["evaluating", "training"], ["sampling", "training"]
    assert words == ["compiling", "training", *evaluated, *(evaluated + drawn) * 2]


def test_what_is_logged_and_saved_when(tmp_path):
    run, seen = Run(tmp_path), []

    def task(step, state):
        seen.append(step)
        assert int(state.step) == step
        yield {"score": float(abs(step - 4))}

    run(steps=10, tasks=(Task(4, task), Task(5, lambda step, state: [{}])))
    assert seen == [4, 8, 10]
    logged = [line["step"] for line in run.lines if "loss" in line]
    assert logged == [2, 4, 6, 8, 10]
    assert [(n["step"], n["score"]) for n in run.lines if "score" in n] == [(4, 0), (8, 4), (10, 6)]
    assert all(set(line) - {"step"} for line in run.lines)  # no empty lines of silent tasks
    assert run.saved == [3, 6, 9, 10]
    assert best_step(tmp_path / "checkpoints") == 10  # of the saved steps the one with a score
    assert [read_meta(tmp_path / "checkpoints", step) for step in (3, 10)] == [
        {"at": 3},
        {"at": 10},
    ]


def test_the_best_is_a_step_that_was_evaluated(tmp_path):
    scores = {4: 0.1, 8: 0.9, 12: 0.8}
    run = Run(tmp_path, keep=2)
    run(steps=12, save_every=1, tasks=(Task(4, lambda step, state: [{"score": scores[step]}]),))
    assert run.saved == [4, 11, 12]
    assert best_step(tmp_path / "checkpoints") == 4


def test_the_bar_shows_progress_throughput_and_time_left(tmp_path, capsys):
    Run(tmp_path)(steps=6, tasks=(Task(2, lambda step, state: [{"held_out_loss": 0.125}]),))
    last = capsys.readouterr().err.split("\r")[-1]
    # 6/6 [00:01<00:00,  4.55step/s, loss=..., examples/s=..., held-out=...]
    assert re.search(r"training: 100%.*6/6 \[\d\d:\d\d<\d\d:\d\d, ", last)
    assert re.search(r"loss=\d+\.\d{4}, examples/s=[1-9]\d*, held-out=0\.1250", last)
    assert last.rstrip().endswith("saved=6]")
    assert "skipped" not in last


def test_throughput_counts_examples_of_training_alone(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("sdejax.train.loop.time.monotonic", lambda: now[0])

    def batches():
        step = 0
        while True:
            now[0] += 0.5  # each step takes half a second, each look at it a hundred
            yield batch_at(step)
            step += 1

    def slow_look(step, state):
        now[0] += 100.0
        yield {"score": 0.0}

    run = Run(tmp_path)
    run(steps=8, tasks=(Task(2, slow_look),), batches=batches())
    rates = [line["examples_per_second"] for line in run.lines if "loss" in line]
    np.testing.assert_allclose(rates, ROWS / 0.5)


def terminated_at(when):
    def task(step, state):
        if step == when:
            os.kill(os.getpid(), signal.SIGTERM)
        return [{}]

    return (Task(1, task),)


def test_sigterm_saves_at_the_step_boundary_and_resumes(tmp_path, straight):
    before = signal.getsignal(signal.SIGTERM)
    run = Run(tmp_path)
    with pytest.raises(Preempted, match="after step 4, which is saved"):
        run(steps=8, save_every=99, tasks=terminated_at(4))
    assert run.saved == [4]
    assert signal.getsignal(signal.SIGTERM) is before
    assert_same(params_of(run(steps=8)), straight)


def test_sigterm_in_the_last_step_leaves_what_comes_after_to_the_next_start(tmp_path):
    run = Run(tmp_path)
    with pytest.raises(Preempted, match="after step 3, which is saved"):
        run(steps=3, tasks=terminated_at(3))
    assert int(run(steps=3).step) == 3


def test_an_evaluation_is_cut_short_between_its_pieces(tmp_path, straight):
    ran = []

    def evaluation(step, state):
        for piece in range(100):
            ran.append(piece)
            if (step, piece) == (4, 2):
                os.kill(os.getpid(), signal.SIGTERM)
            yield {}
        yield {"score": 1.0}

    run = Run(tmp_path)
    with pytest.raises(Preempted, match="after step 4"):
        run(steps=8, save_every=99, tasks=(Task(4, evaluation), Task(4, lambda *_: 1 / 0)))
    assert ran == [0, 1, 2]
    assert run.saved == [4]
    assert_same(params_of(run(steps=8)), straight)


def test_the_state_is_saved_and_free_to_go_before_a_drawing(tmp_path):
    run, seen = Run(tmp_path), []

    def drawing(step, state):
        seen.append((step, max(run.saved)))
        return [{}]

    run(steps=7, save_every=99, tasks=(Task(4, drawing, saved=True),))
    assert seen == [(4, 4), (7, 7)]
    assert run.saved == [4, 7]


def test_a_failing_data_source_loses_no_finished_save(tmp_path):
    def batches():
        yield from (batch_at(step) for step in range(4))
        raise OSError("disk gone")

    run = Run(tmp_path)
    with pytest.raises(OSError, match="disk gone"):
        run(steps=8, batches=batches())
    assert run.saved == [3]


def test_a_finished_run_does_nothing(tmp_path):
    done = Run(tmp_path)
    before = params_of(done(steps=3))
    again = Run(tmp_path)
    assert_same(params_of(again(steps=3, batches=iter(()))), before)
    assert again.traces == 0
    assert (again.saved, len(again.lines)) == ([3], len(done.lines))


def test_other_processes_show_and_write_nothing_but_run_the_tasks(tmp_path, capsys):
    called = []

    def task(step, state):
        called.append(step)
        return [{"score": 1.0}]

    Run(tmp_path, active=False)(steps=4, tasks=(Task(2, task),))
    assert called == [2, 4]
    assert capsys.readouterr().err == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoints"]


def test_host_params_are_whole_whatever_the_layout(tmp_path):
    expected = jax.tree.map(np.asarray, make_state().params)
    for mode, fsdp in (("pmap", 1), ("jit", 1), ("jit", 4)):
        run = Run(tmp_path, mode, fsdp)
        params = run.layout.init(make_state).params
        if fsdp == 4:
            assert params["w1"].sharding.shard_shape((6, 8)) == (6, 2)
        found = host_params(params)
        assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(found))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)


def test_checkpoints_work_under_a_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = make_state()
    with Checkpoints("here/checkpoints") as checkpoints:
        checkpoints.save(1, state, {"at": 1})
    found = restore_params("here/checkpoints", which="params")
    np.testing.assert_array_equal(found["w1"], np.asarray(state.params["w1"]))
    with Checkpoints("here/checkpoints") as checkpoints:
        restored, meta = checkpoints.restore(jax.eval_shape(make_state))
    assert meta == {"at": 1}
    assert_same(restored.params, state.params)
