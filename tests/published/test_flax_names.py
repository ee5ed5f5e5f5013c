"""The trees of the original JAX networks, built from the published layout, give the state_dict."""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "nets"))

import parity

from sdejax.nets.presets import PRESETS
from sdejax.nets.published import from_state_dict, parameter_slots
from sdejax.published.flax_names import flax_paths, to_state_dict


def classify(tensors, ddpm, downward):
    """Class of one of ``all_modules`` by what it holds; ``downward``: before the lowest level."""
    inside = {name.split(".")[0] for name in tensors}
    if "NIN_3" in inside:
        return "AttnBlock" if ddpm else "AttnBlockpp"
    if "GroupNorm_1" in inside:
        return "ResnetBlockDDPM" if ddpm else "ResnetBlockBigGANpp"
    if "Conv_0" in inside and tensors["Conv_0.weight"].shape[-1] == 1:
        return "Combine"
    if inside & {"Conv_0", "Conv2d_0"}:
        return "Downsample" if downward else "Upsample"
    if inside == {"W"}:
        return "GaussianFourierProjection"
    return {4: "Conv", 2: "Dense", 1: "GroupNorm"}[tensors["weight"].ndim]


def flax_leaf(owner, leaf, array, wide_norm):
    """Name and layout of a tensor in the original network."""
    if owner.startswith("GroupNorm"):
        array = array.reshape(1, 1, 1, -1) if wide_norm else array
        return {"weight": "scale"}.get(leaf, leaf), array
    if leaf != "weight":
        return leaf, array
    if owner.startswith("Dense"):
        return "kernel", array.T
    name = "weight" if owner == "Conv2d_0" else "kernel"
    return name, np.moveaxis(array, (2, 3, 1, 0), (0, 1, 2, 3))


def flax_tree(published, weights, wide_norm=False):
    """The tree of the original network with these published weights."""
    layers = {}
    for name, array in weights.items():
        if name != "sigmas":
            _, k, leaf = name.split(".", 2)
            layers.setdefault(int(k), {})[leaf] = array
    tree, counts = {}, Counter()
    for k in sorted(layers):
        downward = counts["Downsample"] < len(published["ch_mult"]) - 1
        kind = classify(layers[k], published["name"] == "ddpm", downward)
        top = f"{kind}_{counts[kind]}"
        counts[kind] += 1
        for name, array in layers[k].items():
            *inside, leaf = name.split(".")
            leaf, array = flax_leaf(inside[-1] if inside else top, leaf, array, wide_norm)
            node = tree.setdefault(top, {})
            for key in inside:
                node = node.setdefault(key, {})
            node[leaf] = np.ascontiguousarray(array)
    return tree


@pytest.mark.parametrize("wide_norm", [False, True])
@pytest.mark.parametrize("name", parity.SMALL)
def test_the_original_tree_gives_the_published_state_dict(name, wide_norm):
    published, weights, _ = parity.stored(name)
    kwargs = parity.unet_kwargs(published)
    found = to_state_dict(kwargs, flax_tree(published, weights, wide_norm))
    weights.pop("sigmas", None)
    assert list(found) == list(parameter_slots(kwargs))
    assert set(found) == set(weights)
    for key, array in weights.items():
        assert found[key].dtype == array.dtype
        np.testing.assert_array_equal(found[key], array)
    from_state_dict(kwargs, found)


def tops(kwargs):
    paths = flax_paths(kwargs)
    return Counter(name.rsplit("_", 1)[0] for name in {path[0] for path in paths.values()}), paths


@pytest.mark.parametrize("preset", ["vp/ddpm/cifar10", "ve/celeba_ncsnpp"])
def test_classes_are_as_many_as_the_architecture_has(preset):
    kwargs = PRESETS[preset]
    levels, blocks = len(kwargs["ch_mult"]), kwargs["num_res_blocks"]
    counts, paths = tops(kwargs)
    residual = levels * blocks + levels * (blocks + 1) + 2
    want = {"Conv": 2, "Dense": 2, "GroupNorm": 1, "Downsample": levels - 1}
    if kwargs.get("resblock_type") == "ddpm":
        want |= {"Upsample": levels - 1, "ResnetBlockDDPM": residual, "AttnBlock": blocks + 2}
        inside = "Conv_0"
    else:
        want |= {"ResnetBlockBigGANpp": residual + 2 * (levels - 1), "AttnBlockpp": blocks + 2}
        inside = "Conv2d_0"
    assert counts == want
    resamplers = {p[1] for p in paths.values() if p[0].split("_")[0] in ("Downsample", "Upsample")}
    assert resamplers == {inside}


def test_pyramids_have_their_classes():
    base = {"image_size": 8, "out_channels": 3, "nf": 8, "ch_mult": (1, 1), "num_res_blocks": 1,
            "attn_resolutions": ()}  # fmt: skip
    pyramids = {"progressive": "residual", "progressive_input": "residual"}
    counts, _ = tops({**base, **pyramids})
    assert counts["Downsample"] == counts["Upsample"] == 1
    pyramids = {"progressive": "output_skip", "progressive_input": "input_skip"}
    counts, _ = tops({**base, **pyramids})
    assert counts["Combine"] == 1
    assert counts["Downsample"] == counts["Upsample"] == 0
    assert counts["GroupNorm"] == 2
    assert counts["Conv"] == 3


BLOCK = "ResnetBlockBigGANpp_1"


@pytest.fixture
def case():
    published, weights, _ = parity.stored("ncsnpp_ve_skip")
    return parity.unet_kwargs(published), flax_tree(published, weights)


def test_a_missing_tensor_is_named(case):
    kwargs, tree = case
    del tree[BLOCK]["Conv_0"]["kernel"]
    with pytest.raises(ValueError, match=rf"{BLOCK}/Conv_0/kernel is missing.*right preset"):
        to_state_dict(kwargs, tree)


def test_a_surplus_tensor_is_named(case):
    kwargs, tree = case
    tree["Upsample_7"] = {"Conv_0": {"kernel": np.zeros(3)}}
    with pytest.raises(ValueError, match=r"1 tensors have no place.*Upsample_7/Conv_0/kernel"):
        to_state_dict(kwargs, tree)


def test_a_wrong_shape_is_told_with_the_right_one(case):
    kwargs, tree = case
    tree[BLOCK]["Conv_0"]["kernel"] = np.zeros((3, 3, 16, 5), np.float32)
    says = rf"{BLOCK}/Conv_0/kernel has shape \(3, 3, 16, 5\), expected \(3, 3, 16, 16\)"
    with pytest.raises(ValueError, match=says):
        to_state_dict(kwargs, tree)


def test_only_norms_may_be_wide(case):
    kwargs, tree = case
    tree[BLOCK]["Conv_0"]["bias"] = tree[BLOCK]["Conv_0"]["bias"].reshape(1, 1, 1, -1)
    with pytest.raises(ValueError, match=rf"{BLOCK}/Conv_0/bias has shape \(1, 1, 1, 16\)"):
        to_state_dict(kwargs, tree)


@pytest.mark.parametrize("leaf", [None, "text", b"bytes"])
def test_a_leaf_that_is_no_array_is_named(case, leaf):
    kwargs, tree = case
    tree[BLOCK]["Conv_0"]["bias"] = leaf
    with pytest.raises(ValueError, match=rf"{BLOCK}/Conv_0/bias is {type(leaf).__name__}"):
        to_state_dict(kwargs, tree)


def test_another_network_is_refused(case):
    _, tree = case
    with pytest.raises(ValueError, match="is this the right preset"):
        to_state_dict(PRESETS["vp/ddpm/cifar10"], tree)


def test_dtypes_pass_through(case):
    kwargs, tree = case
    tree["Conv_0"]["kernel"] = tree["Conv_0"]["kernel"].astype(np.float64)
    tree["Conv_0"]["bias"] = tree["Conv_0"]["bias"].astype(np.float16)
    found = to_state_dict(kwargs, tree)
    assert found["all_modules.3.weight"].dtype == np.float64
    assert found["all_modules.3.bias"].dtype == np.float16
