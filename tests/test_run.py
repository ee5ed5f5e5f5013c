import dataclasses
import json
import threading

import jax
import numpy as np
import pytest
from PIL import Image
from tiny_config import BATCH, HELD_OUT, STEPS, get_config

from sdejax.build import build_data, build_loss, build_model, change, default_config
from sdejax.data.pipeline import batches
from sdejax.data.scaling import Scaling, integers
from sdejax.results import generator_of
from sdejax.run import MAY_CHANGE, may_change, train
from sdejax.tables import component
from sdejax.train.catalog import all_steps, read_meta
from sdejax.train.checkpoint import Checkpoints
from sdejax.train.integrity import CheckpointError
from sdejax.train.loop import Diverged
from sdejax.train.preemption import preemption_notice
from sdejax.train.reader import restore_params


def plain(**changes):
    config = get_config()
    change(config, {key.replace("__", "."): value for key, value in changes.items()})
    return config.to_dict()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run: its folder, its model and its last state."""
    workdir = tmp_path_factory.mktemp("run")
    return workdir, *train(plain(), workdir)


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").open()]


def test_what_a_run_leaves_behind(run):
    workdir, _, state = run
    assert int(state.step) == STEPS
    assert json.loads((workdir / "config.json").read_text())["train"]["steps"] == STEPS
    assert [n["step"] for n in lines(workdir) if "loss" in n] == [2, 4, 6]
    assert [n["step"] for n in lines(workdir) if "held_out_loss" in n] == [3, 6]
    assert all(n["examples_per_second"] > 0 for n in lines(workdir) if "loss" in n)
    assert sorted(p.name for p in (workdir / "samples").iterdir()) == [
        "step_0000003.png",
        "step_0000006.png",
    ]
    assert all_steps(workdir / "checkpoints") == [3, 6]
    assert any((workdir / "tensorboard").iterdir())
    assert not (workdir / "report.json").exists()  # not asked for
    with Image.open(workdir / "samples.png") as picture:
        assert min(picture.size) > 100
    meta = read_meta(workdir / "checkpoints")
    assert (meta["event_shape"], meta["num_classes"], meta["data"]["next_step"]) == ([2], None, 6)


def test_held_out_loss_is_that_of_the_average_over_fixed_batches_and_noise(run):
    workdir, parts, _ = run
    config = plain()
    _, held_out = build_data(config)
    loss = jax.jit(build_loss(config, parts, training=False))
    eval_key = jax.random.split(jax.random.key(config["seed"]), 3)[2]
    for step, logged in [(n["step"], n["held_out_loss"]) for n in lines(workdir) if len(n) == 2]:
        ema, raw = (
            restore_params(workdir / "checkpoints", step, which=which)
            for which in ("ema_params", "params")
        )
        means = {"ema": [], "raw": []}
        with batches(held_out, BATCH, seed=0) as rows:
            for index in range(HELD_OUT):
                batch, key = next(rows), jax.random.fold_in(eval_key, index)
                means["ema"].append(float(loss(ema, key, batch)[0].mean()))
                means["raw"].append(float(loss(raw, key, batch)[0].mean()))
        assert logged == pytest.approx(np.mean(means["ema"]), rel=1e-5)
        assert logged != pytest.approx(np.mean(means["raw"]), rel=1e-4)


def test_training_lowers_the_held_out_loss(run):
    first, last = (n["held_out_loss"] for n in lines(run[0]) if "held_out_loss" in n)
    assert last < first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__batch_size": 65}, "65 does not divide over 8 devices: use 64 or 72"),
        ({"sample__sampler": "hein"}, r"did you mean 'heun'\?"),
        ({"sample__grid": "karas"}, r"did you mean 'karras'\?"),
        ({"sample__clip": True}, "sample.clip: got True"),
        ({"train__eval_every": 0}, "train.eval_every: got 0"),
        ({"parallel": "pmp"}, "mode='pmp'"),
        ({"fsdp": 2}, "fsdp=2"),
        ({"sde__name": "vq"}, r"sde: got 'vq'.*mean 'vp'\?"),
        ({"optimizer__name": "adm"}, "name='adm'"),
        ({"conditional": True}, "the data have no labels"),
        ({"data__options__toy": "moons"}, "toy: got 'moons'"),
    ],
)
def test_a_config_that_cannot_run_is_refused_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train(plain(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_that_its_sampler_cannot_start_from_is_refused_before_training(tmp_path):
    config = get_config()
    config.sde = component("sde", "rectified_flow")
    config.prediction = component("prediction", "eps")
    config.sample.grid, config.train.sample_every = "uniform", 0
    with pytest.raises(ValueError, match="alpha"):
        train(config.to_dict(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_data_are_refused(run):
    workdir, *_ = run
    before = (workdir / "config.json").read_text()
    train_data, held_out = build_data(plain())
    other = dataclasses.replace(train_data, x=train_data.x + np.float32(1))
    with pytest.raises(ValueError, match="fingerprint: the checkpoint was trained with"):
        train(plain(), workdir, data=(other, held_out))
    assert (workdir / "config.json").read_text() == before


def test_what_may_change_exists_and_leaves_the_mathematics_alone():
    config = default_config().to_dict()
    for key in (*MAY_CHANGE, *may_change({"converted": {}})):
        value = config
        for part in key.split("."):
            value = value[part]
    means = {"sde", "network", "prediction", "conditioning", "scaling", "energy"}
    assert not {"seed", "optimizer", "data", "train", *means} & set(may_change({"data": {}}))
    assert not means & set(may_change({"converted": {}}))


def test_two_runs_into_one_folder_are_refused(run):
    workdir, *_ = run
    with (
        Checkpoints(workdir / "checkpoints"),
        pytest.raises(CheckpointError, match="another run"),
    ):
        train(plain(), workdir)


def test_clipping_needs_a_range():
    config = get_config("digits").to_dict()
    config["sample"]["clip"] = True
    parts = build_model(config, (8, 8, 1), 10)
    assert generator_of(config, parts, integers(17))
    with pytest.raises(ValueError, match="no fixed range"):
        generator_of(config, parts, Scaling())


def test_another_thread_may_train_but_is_not_told_of_signals():
    found = []

    def work():
        with preemption_notice() as notice:
            found.append(notice.requested())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]


def test_real_numbers_have_no_bins_to_be_spread_over(tmp_path):
    with pytest.raises(ValueError, match=r"data\.dequantise: got True for real-valued data"):
        train(plain(data__dequantise=True), tmp_path)


@pytest.mark.slow
def test_a_run_may_spread_integers_over_their_bins(tmp_path):
    losses = {}
    for dequantise in (False, True):
        config = get_config("digits")
        change(config, {
            "data.dequantise": dequantise, "train.steps": 1, "train.eval_every": 1,
            "train.log_every": 1, "train.sample_every": 0, "sample.steps": 1, "sample.num": 4,
        })  # fmt: skip
        workdir = tmp_path / str(dequantise)
        train(config.to_dict(), workdir)
        losses[dequantise] = [n["held_out_loss"] for n in lines(workdir) if "held_out_loss" in n]
    assert losses[True] != losses[False]
    assert losses[True] == pytest.approx(losses[False], rel=0.1)  # a bin is 1/8 of the half-range


def test_a_run_that_diverges_goes_back_as_often_as_it_is_told(tmp_path):
    config = plain(
        optimizer__name="sgd", optimizer__learning_rate=1e30,
        train__max_bad_steps=2, train__max_rollbacks=1, train__checkpoint_every=1,
        train__eval_every=100,
    )  # fmt: skip
    with (
        pytest.warns(UserWarning, match=r"Going back to step \d+ .*time 1 of 1") as told,
        pytest.raises(Diverged, match="2 steps in a row"),
    ):
        train(config, tmp_path)
    assert len([w for w in told if "Going back" in str(w.message)]) == 1
    rolled = [line for line in lines(tmp_path) if "rollbacks" in line]
    assert [line["rollbacks"] for line in rolled] == [1]
