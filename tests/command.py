"""The commands on the tiny config, for the tests of the commands."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from sdejax.cli import main
from sdejax.train.catalog import all_steps

CONFIG = str(Path(__file__).with_name("tiny_config.py"))


def train(workdir, *more, config=CONFIG):
    main(["train", "--config", config, "--workdir", str(workdir), *more])


def steps_of(workdir):
    return all_steps(workdir / "checkpoints")


def sample(workdir, out, *more):
    main(["sample", "--workdir", str(workdir), "--out", str(out), *more])
    with np.load(out, allow_pickle=False) as found:
        return found["x"], found["nfe"]


def fails(capsys, *arguments, code=1):
    """The message of a command that fails: one, on stderr, without a traceback."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert stop.value.code == code
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert error.count("sdejax: error: ") == 1
    return error.split("sdejax: error: ")[1]


def refused(capsys, workdir, *more, config=CONFIG):
    return fails(capsys, "train", "--config", config, "--workdir", workdir, *more)


def logged(workdir, name):
    with (workdir / "metrics.jsonl").open() as lines:
        return [line["step"] for line in map(json.loads, lines) if name in line]


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    """A finished run of the unconditional model."""
    workdir = tmp_path_factory.mktemp("points")
    train(workdir)
    return workdir


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A finished run of the conditional model."""
    workdir = tmp_path_factory.mktemp("digits")
    train(workdir, "--config.train.steps=2", config=f"{CONFIG}:digits")
    return workdir


@pytest.fixture
def copied(points, tmp_path):
    return Path(shutil.copytree(points, tmp_path / "copy"))
