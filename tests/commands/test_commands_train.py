"""``sdejax train`` as users type it, run in this process."""

import json
import re

import jax
import numpy as np
from command import CONFIG, fails, logged, refused, sample, steps_of, train
from tiny_config import STEPS

from sdejax.train.reader import restore_params


def test_a_run_leaves_its_workdir(points):
    assert {
        "config.json",
        "metrics.jsonl",
        "tensorboard",
        "checkpoints",
        "samples",
        "samples.png",
    } == {path.name for path in points.iterdir()}
    assert json.loads((points / "config.json").read_text())["network"]["hidden"] == [16]
    assert logged(points, "loss") == [2, 4, 6]
    assert logged(points, "held_out_loss") == [3, 6]
    assert steps_of(points) == [3, 6]
    assert len(list((points / "samples").glob("step_*.png"))) == 2


def test_a_finished_run_is_left_alone_and_more_steps_go_on(copied, capsys):
    before = restore_params(copied / "checkpoints")
    train(copied)
    assert f"resuming at step {STEPS} of {STEPS}" in capsys.readouterr().out
    assert logged(copied, "loss") == [2, 4, 6]
    jax.tree.map(np.testing.assert_array_equal, restore_params(copied / "checkpoints"), before)
    train(copied, "--config.train.steps=8", "--config.parallel=jit", "--config.fsdp=2")
    assert f"resuming at step {STEPS} of 8" in capsys.readouterr().out
    assert logged(copied, "loss") == [2, 4, 6, 8]
    assert steps_of(copied)[-1] == 8


def test_another_model_in_the_same_workdir_is_refused(copied, capsys):
    before = (copied / "config.json").read_bytes()
    error = refused(
        capsys, copied, "--config.network.hidden=(8,8)", "--config.train.steps=99",
        "--config.optimizer.learning_rate=0.5",
    )  # fmt: skip
    assert "network.hidden: [16] -> [8, 8]" in error
    assert "optimizer.learning_rate: 0.01 -> 0.5" in error
    assert "train.steps" not in error
    assert (copied / "config.json").read_bytes() == before
    assert steps_of(copied) == [3, 6]


def damage(workdir):
    """Shorten the largest file of the newest checkpoint."""
    path = max((workdir / "checkpoints" / str(STEPS)).rglob("*"), key=lambda p: p.stat().st_size)
    path.write_bytes(path.read_bytes()[:-7])
    return path.name


def test_a_damaged_checkpoint_is_named_and_passed_over(copied, capsys, tmp_path):
    name, before = damage(copied), restore_params(copied / "checkpoints", 3)
    asked = ("sample", "--workdir", copied, "--out", tmp_path / "x.npz", f"--step={STEPS}")
    error = fails(capsys, *asked)
    assert f"{name}: expected" in error
    assert "go on from another step: [3]" in error
    sample(copied, tmp_path / "x.npz", "--num=8")
    warned = capsys.readouterr().err
    assert re.search(f"sdejax: warning: going back to step 3.*\n.*{name}: expected", warned)
    train(copied)
    out, warned = capsys.readouterr()
    assert re.search(f"sdejax: warning: .*{STEPS} is damaged; moved to .*damaged", warned)
    assert f"resuming at step 3 of {STEPS}" in out
    assert steps_of(copied) == [3, STEPS]
    assert (copied / "checkpoints" / "damaged" / str(STEPS)).is_dir()
    jax.tree.map(np.testing.assert_array_equal, restore_params(copied / "checkpoints", 3), before)


def test_batches_that_do_not_divide_are_refused(tmp_path, capsys):
    error = refused(capsys, tmp_path / "run", "--config.data.batch_size=65")
    assert "65 does not divide over 8 devices: use 64 or 72" in error
    assert not (tmp_path / "run").exists()


def test_misuse_of_train_is_named(tmp_path, capsys):
    run = tmp_path / "run"
    assert "did you mean 'train.steps'?" in refused(capsys, run, "--config.train.stps=3")
    assert "did you mean 'network.hidden'?" in refused(capsys, run, "--config.network.hiden=(3,)")
    assert "overrides are --config.KEY=VALUE" in refused(capsys, run, "--config.train.steps", "3")
    assert "overrides are --config.KEY=VALUE" in refused(capsys, run, "--worker=3")
    assert "steps" in refused(capsys, run, "--config.train.steps=many")
    assert "no file 'nowhere.py'" in refused(capsys, run, config="nowhere.py")
    (tmp_path / "empty.py").write_text("")
    assert "no function get_config" in refused(capsys, run, config=tmp_path / "empty.py")
    (tmp_path / "plain.py").write_text("def get_config():\n    return None\n")
    assert "too many positional" in refused(capsys, run, config=f"{tmp_path / 'plain.py'}:x")
    (tmp_path / "file").write_text("")
    assert "file" in refused(capsys, tmp_path / "file" / "run")
    missing = ("--config.data.source=idx", "--config.data.path=nowhere")
    assert "no existing folder" in refused(capsys, run, *missing, config=f"{CONFIG}:digits")
    assert not run.exists()
