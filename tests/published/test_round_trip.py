"""A published checkpoint through convert, save, restore, sampling and further training.

The file is a small DDPM++ of the 8x8 digits, saved by PyTorch; see experiments/published_file.py.
"""

import dataclasses
import functools
import json
import shutil
import sys
from pathlib import Path

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.published_file import NETWORK, as_published
from sdejax import coordinates
from sdejax.build import build_data, build_loss, build_model, build_optimizer, init_params
from sdejax.data.scaling import integers
from sdejax.denoiser import make_denoiser
from sdejax.metrics.report import sample_report
from sdejax.nets.published import parameter_slots
from sdejax.published.convert import convert
from sdejax.published.torch_file import read_torch
from sdejax.run import train
from sdejax.samplers.diffeq import solve_ode
from sdejax.train.catalog import all_steps
from sdejax.train.checkpoint import Checkpoints
from sdejax.train.parallel import parallel
from sdejax.train.reader import restore_params
from sdejax.train.state import init_state
from sdejax.trained import load

FILE = Path(__file__).resolve().parents[2] / "colab" / "digits_ddpmpp.pth"
SLOW = pytest.mark.slow
STEP, BATCH, CHUNK, DECAY = 6000, 64, 64, 0.999
SIZE = {"preset": "vp/cifar10_ddpmpp_continuous", "image_size": 8, "channels": 1, "levels": 17}
CHANGES = {
    **{f"network.{key}": NETWORK[key] for key in ("nf", "ch_mult", "num_res_blocks", "dropout")},
    "network.attn_resolutions": NETWORK["attn_resolutions"],
    "data.source": "digits",
    "data.path": "",
    "data.flip": False,
    "data.batch_size": BATCH,
    "sample.num": CHUNK,
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published") / "run"
    found = convert(FILE, folder, changes=CHANGES, **SIZE)
    assert (found.layout, found.step, found.parameters) == ("score_sde_pytorch", STEP, 78_385)
    assert found.has_average
    assert found.has_moments
    return folder


@pytest.fixture(scope="module")
def model(workdir):
    """Loaded once: it keeps what it compiled for a sampler."""
    return load(workdir)


@pytest.fixture(scope="module")
def images():
    """Digits to train on and held out, in their own values, with labels."""
    from sdejax.data.sources import digits

    return [digits(split).gather(np.arange(len(digits(split)))) for split in ("train", "test")]


# --- restored on eight devices --------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "fsdp"), [("pmap", 1), ("jit", 1), ("jit", 8)])
def test_eight_devices_restore_what_the_file_holds_bit_for_bit(workdir, mode, fsdp):
    assert jax.device_count() == 8
    config = json.loads((workdir / "config.json").read_text())
    parts, tx = build_model(config, (8, 8, 1), None), build_optimizer(config)

    def make_state():
        return init_state(init_params(jax.random.key(0), parts), tx, jax.random.key(0))

    layout = parallel(mode, build_loss(config, parts), tx, DECAY, BATCH, fsdp=fsdp)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        restored, _ = checkpoints.restore(layout.abstract(make_state))
    state = layout.place(restored)
    for leaf in jax.tree.leaves(state.params):
        assert len(leaf.sharding.device_set) == 8
    cut = [not leaf.is_fully_replicated for leaf in jax.tree.leaves(state.ema_params)]
    assert any(cut) == (fsdp > 1)
    assert (int(state.step), int(state.skipped), int(state.bad_streak)) == (STEP, 0, 0)
    tree = optax.tree_utils
    counts = tree.tree_get_all_with_path(state.opt_state, "count")
    assert [int(count) for _, count in counts] == [STEP, STEP]  # of Adam and of the schedule

    held, slots = read_torch(FILE), parameter_slots(NETWORK)
    here = {
        name: as_published(slots, jax.tree.map(np.asarray, node))
        for name, node in {
            "params": state.params,
            "ema": state.ema_params,
            "mu": tree.tree_get(state.opt_state, "mu"),
            "nu": tree.tree_get(state.opt_state, "nu"),
        }.items()
    }
    adam = held["optimizer"]["state"]
    assert len(adam) == len(held["ema"]["shadow_params"]) == len(slots)
    for i, name in enumerate(slots):
        for which, tensor in {
            "params": held["model"][f"module.{name}"],
            "ema": held["ema"]["shadow_params"][i],
            "mu": adam[i]["exp_avg"],
            "nu": adam[i]["exp_avg_sq"],
        }.items():
            np.testing.assert_array_equal(here[which][name], tensor, f"{which} of {name}")
            assert here[which][name].dtype == np.float32


# --- three samplers, eight devices and one --------------------------------------------------------

SAMPLERS = {
    "unipc_3": {"steps": 20, "grid": "log_snr"},
    "ancestral": {"steps": 50, "grid": "log_snr"},
    "tsit5": {"steps": 0},
}
LATER = ("ancestral", "tsit5")


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_on_eight_devices_look_like_digits(model, images, name):
    """To the sliced Wasserstein distance: 0 is fresh real data, 1 is noise."""
    real, unseen = images
    x, stats = model.sample(CHUNK // 2, sampler=name, **SAMPLERS[name])
    assert np.all(stats.result == 0)
    report = sample_report(jax.random.key(0), x, real["x"], unseen["x"])
    assert report["swd_ratio"] < 0.1, report
    assert report["nearest_share"] < 0.1, report  # no copies


@SLOW
def test_a_classifier_recognises_the_samples(model, images):
    real, unseen = images
    x, _ = model.sample(4 * CHUNK, sampler="unipc_3", **SAMPLERS["unipc_3"])
    report = sample_report(
        jax.random.key(0), x, real["x"], unseen["x"], real["label"], unseen["label"]
    )
    assert report["confident_samples"] > 0.75, report  # held-out images 0.95
    assert report["confident_noise"] < 0.05, report


@pytest.mark.parametrize("name", ["unipc_3", *(pytest.param(n, marks=SLOW) for n in LATER)])
def test_one_device_draws_the_images_of_eight(model, images, name, monkeypatch):
    """Of a fixed grid up to rounding; of an adaptive solve up to the solver's own error.

    The network is told 999 t, so it wiggles in t with a period of 0.006. Adaptive steps at the
    default tolerance of 1e-5 are longer; where they end decides what error is estimated, and a last
    digit grows to another sequence of steps (in float64, too). Measured against Dopri8 at 1e-8,
    either sequence errs by 1e-3 of the data's standard deviation in the median, and one image in
    sixty lies so near the border of two digits that it becomes either. So medians are compared.
    """
    few = CHUNK // 2
    eight, _ = model.sample(few, sampler=name, **SAMPLERS[name])
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    fresh = dataclasses.replace(model, _generators={})
    alone, _ = fresh.sample(few, sampler=name, **SAMPLERS[name])
    error = np.sqrt(np.mean((eight - alone) ** 2, axis=(1, 2, 3))) / np.std(images[0]["x"])
    if name == "tsit5":
        assert np.median(error) < 5e-3, error
    else:
        assert error.max() < 1e-5, error


# --- the probability-flow ODE ---------------------------------------------------------------------

TOLERANCE = 1e-7


@pytest.fixture(scope="module")
def flow(model):
    """The images that two fixed noises at t_max flow to in float64, in some coordinates."""
    start = np.random.default_rng(0).normal(size=(2, *model.parts.event_shape))

    @functools.cache
    def images(t_max, each):
        sde = dataclasses.replace(model.parts.sde, t_max=t_max)
        with jax.enable_x64(True):
            params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), model.params)
            denoiser = make_denoiser(model.parts.model, params, sde, None)
            controller = dfx.PIDController(rtol=TOLERANCE, atol=TOLERANCE)

            def solve(x):
                return solve_ode(
                    sde, denoiser, x, solver=dfx.Dopri8(), controller=controller,
                    coordinates=each, denoise=False, max_steps=100_000,
                )  # fmt: skip

            y, stats = jax.jit(jax.vmap(solve))(jnp.asarray(start))
            assert y.dtype == jnp.float64
            assert np.all(stats.result == 0)
            return np.asarray(y)

    return images


FLOWS = [
    (0.25, coordinates.data),
    *(pytest.param(1.0, each, marks=SLOW) for each in coordinates.ALL[1:]),
]


@pytest.mark.parametrize(("t_max", "each"), FLOWS, ids=lambda v: getattr(v, "name", None))
def test_every_coordinate_gives_the_image_of_native_ones(flow, t_max, each):
    """VP is finite in all of them: alpha is 0.0066 at t = 1, sigma 0.0105 at t_min.

    The network is told 999 t, and steps follow its wiggles: from t = 1 a solve takes 4,000
    evaluations, so what runs always is the last quarter of the way.
    """
    expected = flow(t_max, coordinates.native)
    assert np.std(expected) > 0.3
    error = np.abs(flow(t_max, each) - expected).max()
    assert error < 10 * TOLERANCE, error


# --- training goes on -----------------------------------------------------------------------------


def config_of(folder):
    """The converted run's config for a short time, with a quick sampler at the end."""
    config = json.loads((folder / "config.json").read_text())
    config["train"] |= {
        "steps": STEP + 2, "log_every": 1, "checkpoint_every": 1, "keep": 3, "sample_every": 0,
    }  # fmt: skip
    config["sample"] |= {"sampler": "unipc_3", **SAMPLERS["unipc_3"]}  # compiled already
    return config


def test_training_goes_on_from_the_converted_step(workdir, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(workdir, folder)
    _, state = train(config_of(folder), folder)
    assert int(state.step) == STEP + 2
    assert int(state.skipped) == 0
    counts = optax.tree_utils.tree_get_all_with_path(state.opt_state, "count")
    assert [int(count) for _, count in counts] == [STEP + 2] * 2
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [STEP + 1, STEP + 2]
    # An untrained network, whose last layer starts near 0, has a loss of 1.
    losses = [line[key] for line in lines for key in ("loss", "held_out_loss") if key in line]
    assert len(losses) == 3
    assert max(losses) < 0.25, losses

    steps = [STEP, STEP + 1, STEP + 2]
    assert all_steps(folder / "checkpoints") == steps
    raw, average = (
        [restore_params(folder / "checkpoints", step, which=which) for step in steps]
        for which in ("params", "ema_params")
    )
    # The average still warms up: its weight is (1 + n)/(10 + n) until 9000 updates.
    for n in (0, 1):
        weight = min(DECAY, (1 + STEP + n) / (10 + STEP + n))
        trees = (average[n], raw[n + 1], average[n + 1])
        for old, new, found in zip(*map(jax.tree.leaves, trees), strict=True):
            expected = weight * old.astype(np.float64) + (1 - weight) * new
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)
    # Adam with moments moves no weight by much more than its rate; anew it moves all by just that.
    rate = config_of(folder)["optimizer"]["learning_rate"]
    moved = np.concatenate(
        [np.ravel(a - b) for a, b in zip(*map(jax.tree.leaves, raw[1::-1]), strict=True)]
    )
    assert 0 < np.abs(moved).max() < 3 * rate
    assert np.sqrt(np.mean(moved**2)) < 0.5 * rate


def test_data_of_another_scaling_are_refused_by_name(workdir):
    config = config_of(workdir)
    before = (workdir / "config.json").read_text()
    data = tuple(dataclasses.replace(each, scaling=integers(256)) for each in build_data(config))
    with pytest.raises(ValueError, match=r"scaling: the checkpoint was trained with .*: 17"):
        train(config, workdir, data=data)
    assert (workdir / "config.json").read_text() == before


def test_a_second_run_in_the_same_workdir_is_refused(workdir):
    before = (workdir / "config.json").read_text()
    with pytest.raises(ValueError, match="holds a run already; give another folder"):
        convert(FILE, workdir, changes=CHANGES, **SIZE)
    assert (workdir / "config.json").read_text() == before
    assert all_steps(workdir / "checkpoints") == [STEP]
