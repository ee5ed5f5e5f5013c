"""The file of experiments/published_file.py against networks and rules of the authors' own."""

import functools
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "nets"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import parity

from experiments.published_file import NETWORK, as_published, get_config, layout, main, mapped
from sdejax.build import build_model, completed
from sdejax.nets.published import from_state_dict, parameter_slots
from sdejax.nets.unet import UNet

POSITIONAL, FOURIER = "ddpmpp_vp_continuous", "ncsnpp_ve_deep_continuous"


@functools.cache
def written(name):
    """Published weights and what is written of them; average and moments are scaled copies."""
    network, weights, fields = parity.load(name)
    weights = {key: array for key, array in weights.items() if key != "sigmas"}
    params, average, mean, square = (
        from_state_dict(network, {key: scale * array for key, array in weights.items()})
        for scale in (1, 2, 3, 4)
    )
    content = layout(
        network, params, average, (mean, square), 7, decay=0.999, learning_rate=1e-3
    )  # fmt: skip
    return weights, [str(key) for key in fields["@trainable_order"]], content


@pytest.fixture(scope="module", params=[POSITIONAL, FOURIER])
def case(request):
    return written(request.param)


def small():
    """A network of this size with random weights, as published arrays."""
    rng = np.random.default_rng(0)
    slots = parameter_slots(NETWORK)
    return {name: rng.standard_normal(slot.shape, np.float32) for name, slot in slots.items()}


def test_the_entries_are_the_published_ones(case):
    content = case[-1]
    assert list(content) == ["optimizer", "model", "ema", "step"]
    assert list(content["ema"]) == ["decay", "num_updates", "shadow_params"]
    assert list(content["optimizer"]) == ["state", "param_groups"]
    assert content["step"] == content["ema"]["num_updates"] == 7
    assert content["ema"]["decay"] == 0.999
    (group,) = content["optimizer"]["param_groups"]
    assert group["lr"] == 1e-3
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.999), 1e-8, 0)


def test_the_model_is_the_state_dict_behind_its_noise_levels(case):
    weights, _, content = case
    assert list(content["model"]) == ["module.sigmas", *(f"module.{name}" for name in weights)]
    sigmas = content["model"]["module.sigmas"]
    assert sigmas.shape == (1000,)
    assert sigmas.dtype == np.float64
    np.testing.assert_allclose(sigmas[[0, -1]], [50.0, 0.01], rtol=1e-12)
    np.testing.assert_allclose(sigmas[1:] / sigmas[:-1], sigmas[1] / sigmas[0], rtol=1e-12)
    for name, array in weights.items():
        np.testing.assert_array_equal(content["model"][f"module.{name}"], array)


def test_the_average_lists_what_takes_a_gradient_in_its_order(case):
    weights, trainable, content = case
    shadow = content["ema"]["shadow_params"]
    assert len(shadow) == len(trainable)
    for name, array in zip(trainable, shadow, strict=True):
        np.testing.assert_array_equal(array, 2 * weights[name])


def test_adam_has_a_state_for_what_takes_a_gradient_and_an_index_for_all(case):
    weights, trainable, content = case
    state = content["optimizer"]["state"]
    (group,) = content["optimizer"]["param_groups"]
    assert group["params"] == list(range(len(weights)))
    names = list(weights)
    assert [names[index] for index in state] == trainable
    for index, entry in state.items():
        assert entry["step"] == 7
        np.testing.assert_array_equal(entry["exp_avg"], 3 * weights[names[index]])
        np.testing.assert_array_equal(entry["exp_avg_sq"], 4 * weights[names[index]])


def test_fourier_frequencies_are_in_the_model_alone():
    weights, trainable, content = written(FOURIER)
    assert "module.all_modules.0.W" in content["model"]
    assert "all_modules.0.W" not in trainable
    assert len(content["ema"]["shadow_params"]) == len(weights) - 1
    assert 0 not in content["optimizer"]["state"]
    assert content["optimizer"]["param_groups"][0]["params"][0] == 0


def test_the_network_of_the_file_goes_there_and_back():
    weights = small()
    back = as_published(parameter_slots(NETWORK), from_state_dict(NETWORK, weights))
    assert list(back) == list(weights)
    for name, array in weights.items():
        np.testing.assert_array_equal(back[name], array)
    shapes = [array.shape for array in back.values()]
    assert shapes[:6] == [(64, 16), (64,), (64, 64), (64,), (16, 1, 3, 3), (16,)]
    assert shapes[-2:] == [(1, 16, 3, 3), (1,)]
    # With its average and two moments in float32 it stays below 1.5 MB, zip entries included.
    assert sum(array.size for array in back.values()) == 78_385


def test_parameters_of_another_network_are_named():
    params = from_state_dict(NETWORK, small())
    with pytest.raises(ValueError, match=r"params: .*expected \(96, 24\) for all_modules\.0\."):
        as_published(parameter_slots({**NETWORK, "nf": 24}), params)


def test_tensors_take_the_place_of_arrays_and_of_nothing_else():
    content = written(POSITIONAL)[-1]
    made = mapped(lambda array: ("tensor", array.shape), content)
    assert type(made["model"]) is type(content["model"])
    assert made["model"]["module.sigmas"] == ("tensor", (1000,))
    assert {kind for kind, _ in made["ema"]["shadow_params"]} == {"tensor"}
    assert made["optimizer"]["param_groups"] == content["optimizer"]["param_groups"]
    assert made["optimizer"]["state"][0]["step"] == made["step"] == 7


def test_the_config_builds_this_network_without_labels():
    parts = build_model(completed(get_config(10).to_dict()), (8, 8, 1), 10)
    assert parts.num_classes is None
    assert parts.network == UNet(**NETWORK)


def test_without_pytorch_the_command_says_so_before_it_trains(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    arguments = ["--workdir", str(tmp_path / "run"), "--out", str(tmp_path / "out.pth")]
    monkeypatch.setattr(sys, "argv", ["published_file", *arguments])
    with pytest.raises(SystemExit, match="pip install torch"):
        main()
    assert not (tmp_path / "run").exists()
