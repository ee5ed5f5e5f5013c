"""``sdejax doctor`` as users type it, run in this process."""

import json
import shutil

import jax.numpy as jnp
import pytest
from command import CONFIG, fails
from tiny_config import STEPS, get_config

from sdejax.cli import main
from sdejax.train.checkpoint import Checkpoints


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """What the doctor sees of a finished run: its config and two steps."""
    workdir, config = tmp_path_factory.mktemp("saved"), get_config().to_dict()
    (workdir / "config.json").write_text(json.dumps(config))
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        for step in (3, STEPS):
            checkpoints.save(step, {"w": jnp.full(1000, step)}, {"config": config})
    return workdir


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def doctor(capsys, workdir, *more, code=0):
    """What the doctor says, and whether its exit code is the expected one."""
    capsys.readouterr()
    try:
        main(["doctor", "--workdir", str(workdir), *more])
        found = 0
    except SystemExit as stop:
        found = stop.code
    printed = capsys.readouterr().out
    assert found == code, printed
    return printed


def largest(directory):
    files = (path for path in directory.rglob("*") if path.is_file())
    return max(files, key=lambda path: path.stat().st_size)


def test_a_sound_run(saved, capsys):
    printed = doctor(capsys, saved)
    assert "2 checkpoints" in printed
    assert "lock: free" in printed
    assert f"a resume would go on from step {STEPS}\n" in printed
    assert f"0 steps to go (train.steps={STEPS}); the config fits" in printed
    (row,) = (line for line in printed.splitlines() if line.split()[:2] == [str(STEPS), "good"])
    assert "newest good" in row
    assert "KiB" in row
    printed = doctor(capsys, saved, "--config", CONFIG, "--config.train.steps=10")
    assert "4 steps to go (train.steps=10); the config fits" in printed


def test_a_damaged_step_is_passed_over(copy, capsys):
    path = largest(copy / "checkpoints" / str(STEPS) / "state")
    path.write_bytes(path.read_bytes()[:-1])
    printed = doctor(capsys, copy, code=1)
    assert "DAMAGED" in printed
    assert f"{path.name}: expected" in printed
    assert f"go on from step 3, passing over the damaged {STEPS}" in printed
    assert f"3 steps to go (train.steps={STEPS})" in printed
    (copy / "checkpoints" / "3" / "manifest.json").unlink()
    assert "would be refused: no checkpoint is good" in doctor(capsys, copy, code=1)


def test_what_a_resume_would_refuse(copy, capsys):
    with Checkpoints(copy / "checkpoints"):
        printed = doctor(capsys, copy, code=1)
        assert "lock: held by process" in printed
        assert "would be refused while process" in printed
    changed = ("--config", CONFIG, "--config.optimizer.learning_rate=0.5")
    printed = doctor(capsys, copy, *changed, code=1)
    assert f"a resume from step {STEPS} would be refused" in printed
    assert "optimizer.learning_rate: 0.01 -> 0.5" in printed


def test_no_checkpoints_and_misuse(tmp_path, saved, capsys):
    assert "is missing: check --workdir" in fails(capsys, "doctor", "--workdir", tmp_path)
    (tmp_path / "checkpoints").mkdir()
    assert "would start at step 0" in doctor(capsys, tmp_path, code=1)
    error = fails(capsys, "doctor", "--workdir", saved, "--config.train.steps=3")
    assert "overrides need --config" in error
    assert "no file 'nowhere.py'" in fails(
        capsys, "doctor", "--workdir", saved, "--config=nowhere.py"
    )


def test_help_says_what_the_exit_code_means(capsys):
    with pytest.raises(SystemExit):
        main(["doctor", "--help"])
    printed = capsys.readouterr().out
    assert "Exit code 0 when a resume goes on from the newest step, 1 otherwise" in printed
    assert "--config" in printed
