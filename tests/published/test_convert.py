"""A published file becomes a workdir: what it holds arrives, and what does not fit is refused."""

import json
import shutil
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import serialization
from torch_writer import write_pth

from sdejax.api import load
from sdejax.data.scaling import integers, uncentred
from sdejax.published.convert import convert, read
from sdejax.published.flax_names import flax_paths
from sdejax.published.placement import tensor_slots
from sdejax.published.torch_file import read_torch
from sdejax.train.catalog import all_steps, read_meta

FILE = Path(__file__).parents[2] / "colab" / "digits_ddpmpp.pth"
OPTIONS = {
    "preset": "vp/cifar10_ddpmpp_continuous", "image_size": 8, "channels": 1, "levels": 17,
    "changes": {
        "network.nf": 16, "network.ch_mult": (1, 1), "network.num_res_blocks": 1,
        "network.attn_resolutions": (4,), "network.dropout": 0.0,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("converted")
    return convert(FILE, workdir, **OPTIONS), workdir


def leaves(tree):
    return {jax.tree_util.keystr(k): np.asarray(v) for k, v in jax.tree.leaves_with_path(tree)}


def test_the_workdir_holds_what_the_file_does(converted):
    found, workdir = converted
    tree = read_torch(FILE)
    assert (found.preset, found.layout) == (OPTIONS["preset"], "score_sde_pytorch")
    assert (found.step, found.event_shape) == (tree["step"], (8, 8, 1))
    assert (found.has_average, found.has_moments) == (True, True)
    assert all_steps(workdir / "checkpoints") == [tree["step"]]
    assert json.loads((workdir / "config.json").read_text()) == json.loads(json.dumps(found.config))
    raw, average = load(workdir, raw=True), load(workdir)
    weights = [v for k, v in tree["model"].items() if not k.endswith("sigmas")]
    assert found.parameters == sum(v.size for v in weights)
    for model, tensors in ((raw, weights), (average, tree["ema"]["shadow_params"])):
        got = sum(
            float(np.sum(np.asarray(v, np.float64) ** 2)) for v in leaves(model.params).values()
        )
        np.testing.assert_allclose(got, sum(float(np.sum(np.float64(v) ** 2)) for v in tensors))
    assert average.scaling == integers(17)
    meta = read_meta(workdir / "checkpoints")
    assert meta["converted"] == {"file": FILE.name, "preset": OPTIONS["preset"]}


def test_the_decay_is_the_files_then_the_presets_unless_it_is_given(converted, tmp_path):
    def decay(found):
        return found.config["train"]["ema_decay"]

    assert decay(converted[0]) == read_torch(FILE)["ema"]["decay"] == 0.999
    given = {**OPTIONS, "changes": {**OPTIONS["changes"], "train.ema_decay": 0.9}}
    assert decay(convert(FILE, tmp_path / "given", **given)) == 0.9
    write_pth(tmp_path / "untold.pth", broken(lambda t: t["ema"].pop("decay")))
    untold = convert(tmp_path / "untold.pth", tmp_path / "untold", **OPTIONS)
    assert untold.has_average
    assert decay(untold) == 0.9999  # of the published run


def test_a_flax_file_gives_the_same_weights(converted, tmp_path):
    """The file's tensors, written as the JAX code does."""
    found, workdir = converted
    contents, network = read(FILE), found.config["network"]
    slots = tensor_slots(network)
    options = {key: value for key, value in network.items() if key != "name"}

    def tree(tensors, wrap=lambda v: v):
        nested = {}
        for name, path in flax_paths(options).items():
            node = nested
            for key in path[:-1]:
                node = node.setdefault(key, {})
            node[path[-1]] = wrap(np.ascontiguousarray(tensors[name].transpose(slots[name].axes)))
        return nested

    moments = tree(contents.moments.first, lambda v: {"grad_ema": v, "grad_sq_ema": v * v})
    file = tmp_path / "checkpoint_7"
    file.write_bytes(
        serialization.to_bytes(
            {
                "step": 7, "lr": 2e-4, "model_state": {}, "ema_rate": 0.9999,
                "optimizer": {"target": tree(contents.params),
                              "state": {"step": np.int32(7), "param_states": moments}},
                "params_ema": tree(contents.average), "rng": np.zeros(2, np.uint32),
            }
        )
    )  # fmt: skip
    again = convert(file, tmp_path / "flax", **OPTIONS)
    assert (again.layout, again.step, again.parameters) == ("score_sde", 7, found.parameters)
    for raw in (False, True):
        want, got = (leaves(load(w, raw=raw).params) for w in (workdir, tmp_path / "flax"))
        assert want.keys() == got.keys()
        for name in want:
            np.testing.assert_array_equal(got[name], want[name])


def test_weights_alone_are_their_own_average_and_data_may_lie_in_0_1(tmp_path):
    tensors = read(FILE).params
    write_pth(tmp_path / "weights.pth", dict(tensors))
    changes = {**OPTIONS["changes"], "data.centered": False}
    found = convert(tmp_path / "weights.pth", tmp_path / "w", **{**OPTIONS, "changes": changes})
    assert (found.layout, found.step) == ("state_dict", 0)
    assert (found.has_average, found.has_moments) == (False, False)
    model = load(tmp_path / "w")
    assert model.scaling == uncentred(integers(17))
    raw = leaves(load(tmp_path / "w", raw=True).params)
    for name, value in leaves(model.params).items():
        np.testing.assert_array_equal(value, raw[name])


def hostile(marker):
    """A pickle that makes a file when it is run: open(marker, "w")."""
    name = str(marker).encode()
    text = b"X" + len(name).to_bytes(4, "little") + name
    return b"\x80\x02}X\x05\x00\x00\x00modelcio\nopen\n(" + text + b"X\x01\x00\x00\x00wtRs."


def broken(change):
    tree = read_torch(FILE)
    change(tree)
    return tree


BROKEN = {
    "a tensor is missing": (
        lambda t: t["model"].pop("module.all_modules.4.Conv_1.bias"),
        r"all_modules\.4\.Conv_1\.bias is missing",
    ),
    "an average too few": (
        lambda t: t["ema"]["shadow_params"].pop(),
        r"ema\.shadow_params: 151 tensors, expected 152, one for each .* all_modules\.17\.bias",
    ),
    "a tensor too many": (
        lambda t: t["model"].update({"module.extra": np.zeros(2, np.float32)}),
        r"extra and 0 more have no place",
    ),
    "another shape": (
        lambda t: t["model"].update({"module.all_modules.0.bias": np.zeros(3, np.float32)}),
        r"all_modules\.0\.bias has shape \(3,\), expected \(64,\)",
    ),
    "an average of another shape": (
        lambda t: t["ema"]["shadow_params"].__setitem__(1, np.zeros(3, np.float32)),
        r"ema\.shadow_params\[1\] \(for all_modules\.0\.bias\): shape \(3,\), expected \(64,\)",
    ),
    "not finite": (
        lambda t: t["ema"]["shadow_params"].__setitem__(1, np.full(64, np.nan, np.float32)),
        r"average: all_modules\.0\.bias: has values that are not finite",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_what_does_not_fit_is_named_and_nothing_is_written(what, tmp_path):
    change, message = BROKEN[what]
    file = tmp_path / "broken.pth"
    write_pth(file, broken(change))
    with pytest.raises(ValueError, match=message) as error:
        convert(file, tmp_path / "w", **OPTIONS)
    assert str(file) in str(error.value)
    assert not (tmp_path / "w").exists()


def test_damaged_and_hostile_files_write_and_run_nothing(tmp_path):
    marker, raw = tmp_path / "ran", FILE.read_bytes()
    files = {
        "cut.pth": raw[: len(raw) // 2],
        "empty.pth": b"",
        "hostile.pth": hostile(marker),
        "page.pth": b"<!DOCTYPE html><html>Google Drive can't scan this file for viruses",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            convert(tmp_path / name, tmp_path / "w", **OPTIONS)
    with pytest.raises(ValueError, match=r"asks for io\.open"):
        convert(tmp_path / "hostile.pth", tmp_path / "w", **OPTIONS)
    assert not marker.exists()
    assert not (tmp_path / "w").exists()
    with zipfile.ZipFile(tmp_path / "run.zip", "w") as archive:
        archive.writestr("run/logs/checkpoint.pth", "x")
    with pytest.raises(ValueError, match=r"'run/logs/checkpoint\.pth' in it; unpack it and give"):
        convert(tmp_path / "run.zip", tmp_path / "w", **OPTIONS)
    with pytest.raises(FileNotFoundError, match=r"no such file. The authors link their files"):
        convert(tmp_path / "absent.pth", tmp_path / "w")


def test_a_run_is_not_written_over(converted, tmp_path):
    copy = shutil.copytree(converted[1], tmp_path / "copy")
    with pytest.raises(ValueError, match="holds a run already; give another folder"):
        convert(FILE, copy, **OPTIONS)
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match="file is no folder that can be written to"):
            convert(FILE, folder, **OPTIONS)


def test_changes_need_a_preset(tmp_path):
    with pytest.raises(ValueError, match="preset: options of the config need one"):
        convert(FILE, tmp_path / "w", changes={"network.nf": 16})
    with pytest.raises(ValueError, match=r"network\.nff: the config has no such key"):
        convert(FILE, tmp_path / "w", preset=OPTIONS["preset"], changes={"network.nff": 16})
