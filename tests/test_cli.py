"""The commands as users type them, run in this process."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from command import CONFIG, compiled_once, steps_of, train  # noqa: F401
from PIL import Image
from tiny_config import STEPS

from sdejax import viz
from sdejax.cli import main, parser, read_config
from sdejax.train.checkpoint import restore_params


def sample(workdir, out, *more):
    main(["sample", "--workdir", str(workdir), "--out", str(out), *more])
    with np.load(out) as found:
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


# --- training -------------------------------------------------------------------------------------


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


def damage(workdir, kind):
    """Remove or shorten the largest file of the newest checkpoint."""
    path = max((workdir / "checkpoints" / str(STEPS)).rglob("*"), key=lambda p: p.stat().st_size)
    if kind == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-7])
    return path.name


@pytest.mark.parametrize(("kind", "message"), [("missing", "missing"), ("truncated", "expected")])
def test_a_damaged_checkpoint_is_named(copied, capsys, tmp_path, kind, message):
    name = damage(copied, kind)
    commands = (
        ["train", "--config", CONFIG, "--workdir", copied],
        ["sample", "--workdir", copied, "--out", tmp_path / "x.npz"],
    )
    for command in commands:
        error = fails(capsys, *command)
        assert name in error
        assert message in error
        assert "go on from another step: [3]" in error
    sample(copied, tmp_path / "x.npz", "--step=3", "--num=8")  # the other one still serves


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


def test_overrides_reach_the_config():
    config = read_config(
        f"{CONFIG}:digits",
        ["--config.network.dtype=bfloat16", "--config.network.hidden=(8, 4)", "--config.seed=7",
         "--config.conditional=False", "--config.optimizer.learning_rate=1e-3"],
    ).to_dict()  # fmt: skip
    assert config["network"]["dtype"] == "bfloat16"  # None until now
    assert tuple(config["network"]["hidden"]) == (8, 4)
    assert (config["seed"], config["conditional"]) == (7, False)
    assert config["optimizer"]["learning_rate"] == 1e-3
    assert config["network"]["num_classes"] is None  # None where it is left alone


def test_options_of_the_source_may_be_any_and_another_source_starts_without():
    own = ["--config.data.options.n=100", "--config.data.options.toy=rings"]
    options = read_config(str(CONFIG), own).to_dict()["data"]["options"]
    assert (options["n"], options["toy"]) == (100, "rings")
    other = ["--config.data.source=folder", "--config.data.options.size=32"]
    assert read_config(str(CONFIG), other).to_dict()["data"]["options"] == {"size": 32}


@pytest.mark.parametrize("command", ["train", "sample"])
def test_help_names_every_flag(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    (commands,) = [a for a in parser()._actions if a.dest == "command"]
    flags = [f for a in commands.choices[command]._actions for f in a.option_strings]
    assert len(flags) > 6
    assert all(flag in text for flag in flags)
    assert "--config.KEY=VALUE" in text or command == "sample"


# --- sampling -------------------------------------------------------------------------------------


def test_samples_are_reproducible_and_depend_on_their_index(points, tmp_path, capsys):
    few, nfe = sample(points, tmp_path / "few.npz", "--num=8")
    assert f"8 samples, averaged weights of step {STEPS}, 4 evaluations" in capsys.readouterr().out
    assert few.shape == (8, 2)
    assert np.isfinite(few).all()
    np.testing.assert_array_equal(nfe, np.full(8, 3 + 1))
    many, _ = sample(points, tmp_path / "many.npz", "--num=16")
    np.testing.assert_allclose(many[:8], few, atol=1e-5)
    for other in ("--seed=1", "--raw", "--step=3"):
        x, _ = sample(points, tmp_path / "other.npz", "--num=8", other)
        assert not np.allclose(x, few, atol=1e-5), other


def test_samplers_steps_and_grids_can_be_chosen(points, tmp_path):
    choice = ("--sampler=heun", "--steps=4", "--grid=uniform", "--num=8")
    _, nfe = sample(points, tmp_path / "x.npz", *choice)
    np.testing.assert_array_equal(nfe, np.full(8, 2 * 4 + 1))
    _, nfe = sample(points, tmp_path / "x.npz", "--sampler=tsit5", "--num=8")
    assert len(set(nfe.tolist())) > 1  # adaptive where no steps are given


def test_a_solver_is_fitted_and_sampled_with(points, tmp_path, capsys):
    out = tmp_path / "few.npz"
    fit = ["fit-solver", "--workdir", points, "--evaluations=3", "--pairs=16", "--iterations=4"]
    main([str(word) for word in [*fit, "--batch=4", "--out", out]])
    assert "few.npz: 3 evaluations; loss on held-out noise" in capsys.readouterr().out
    x, nfe = sample(points, tmp_path / "x.npz", "--num=8", f"--solver={out}")
    assert np.isfinite(x).all()
    np.testing.assert_array_equal(nfe, np.full(8, 3))
    command = ["sample", "--workdir", points, "--out", tmp_path / "y.npz", f"--solver={out}"]
    assert "leave out --sampler" in fails(capsys, *command, "--steps=3")
    out.write_bytes(b"no solver")
    assert "few.npz: no solver" in fails(capsys, *command)


def test_pictures_of_points_and_of_images(points, digits, tmp_path, monkeypatch):
    sizes, beside, plot = [], [], viz.plot_points
    monkeypatch.setattr(viz, "plot_points", lambda x, y: beside.append(y) or plot(x, y))
    for workdir in (points, digits):
        out = tmp_path / "new" / f"{workdir.name}.png"
        main(["sample", "--workdir", str(workdir), "--num=8", "--out", str(out)])
        with Image.open(out) as picture:
            sizes.append(picture.size)
    assert min(sizes[0]) > 100
    assert min(sizes[1]) >= 2 * 8  # images of 8 x 8 in at least two rows and columns
    assert beside == [None]  # a workdir holds no data to show the samples beside


def test_labels(digits, tmp_path, capsys):
    default, _ = sample(digits, tmp_path / "x.npz", "--num=8")
    threes, _ = sample(digits, tmp_path / "x.npz", "--num=8", "--label=3")
    assert default.shape == (8, 8, 8, 1)
    np.testing.assert_allclose(threes[3], default[3], atol=1e-4)
    assert all(not np.allclose(threes[i], default[i], atol=1e-4) for i in (0, 1, 7))
    assert "quantile=2.0" in fails(
        capsys, "sample", "--workdir", digits, "--out", tmp_path / "y.npz", "--threshold=2"
    )
    command = ["sample", "--workdir", digits, "--out", tmp_path / "y.npz", "--num=8"]
    assert "0 to 9, or 10 for no label" in fails(capsys, *command, "--label=11")


def test_misuse_of_sample_is_named(points, tmp_path, capsys):
    command = ["sample", "--workdir", points, "--out", tmp_path / "x.npz"]
    for extra, message in {
        "--num=0": "num: got 0",
        "--sampler=hein": "did you mean 'heun'?",
        "--grid=karas": "did you mean 'karras'?",
        "--label=1": "not conditional",
        "--threshold=0.9": "sample.threshold: got 0.9, but the data have no fixed range",
        "--steps=-2": "at least 1",
        "--step=5": "choose one of [3, 6]",
        "--out=x.jpg": ".png or .npz",
        "--colour=red": "unknown argument '--colour=red'",
    }.items():
        assert message in fails(capsys, *command, extra)
    assert "train first" in fails(capsys, "sample", "--workdir", tmp_path / "no", "--out=x.npz")
    assert not (tmp_path / "x.npz").exists()


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert re.fullmatch(r"sdejax \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


def test_the_package_runs_as_a_module():
    command = [sys.executable, "-m", "sdejax", "--help"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "fit-solver" in found.stdout
