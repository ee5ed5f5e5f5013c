"""What a checkpoint holds: four layouts, read into names and values."""

import functools

import cases
import numpy as np
import pytest

from sdejax.published.contents import flax_contents, torch_contents, torch_weights
from sdejax.published.placement import tensor_slots
from sdejax.published.runs import PUBLISHED

FOURIER, POSITIONAL = "ncsnpp_ve_skip", "ddpmpp_vp_continuous"
WEIGHTS, AVERAGE, FIRST, SECOND = cases.tensors(FOURIER)
NAMES = list(WEIGHTS)


def same(found, want):
    """The same names in the same order, and the same arrays."""
    assert list(found) == list(want)
    for name, array in want.items():
        assert found[name] is array


LAYOUTS = {
    "ddpm_vp_continuous": "score_sde_pytorch",
    POSITIONAL: "score_sde_pytorch",
    FOURIER: "score_sde_pytorch",
    "ncsn": "ncsn",
    "ncsnv2_64": "ncsnv2",
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_tensor_is_found_by_its_name(name):
    found = torch_contents(cases.torch_tree(name))
    weights, average, first, second = cases.tensors(name)
    assert found.layout == LAYOUTS[name]
    same(found.params, weights)
    same(found.moments.first, first)
    same(found.moments.second, second)
    assert found.moments.updates == cases.UPDATES
    assert found.step == (cases.UPDATES if name == "ncsn" else cases.STEP)
    if name == "ncsn":
        assert found.average is found.sigmas is None
        return
    # Of the tensors that take a gradient.
    same(found.average, {key: array for key, array in average.items() if key != cases.FROZEN})
    np.testing.assert_array_equal(found.sigmas, cases.levels(name))


def test_the_frozen_tensor_has_weights_alone():
    found = torch_contents(cases.torch_tree(FOURIER))
    assert NAMES[0] == cases.FROZEN
    assert cases.FROZEN in found.params
    for others in (found.average, found.moments.first, found.moments.second):
        assert cases.FROZEN not in others


def test_the_weights_alone_can_be_read_where_the_lists_do_not_match():
    tree = cases.torch_tree(FOURIER)
    del tree["model"][f"module.{NAMES[3]}"]
    with pytest.raises(ValueError, match=r"ema\.shadow_params: 224 tensors, expected 223"):
        torch_contents(tree)
    found = torch_weights(tree)
    same(found.params, {key: WEIGHTS[key] for key in NAMES if key != NAMES[3]})
    assert (found.average, found.moments, found.step) == (None, None, 0)


@pytest.mark.parametrize("wide_norm", [False, True])
def test_the_original_layout_is_read(wide_norm):
    tree = cases.flax_tree(FOURIER, wide_norm)
    found = flax_contents(tree)
    assert (found.layout, found.step, found.sigmas) == ("score_sde", cases.STEP, None)
    assert found.params is tree["optimizer"]["target"]
    assert found.average is tree["params_ema"]
    assert found.moments.updates == cases.UPDATES
    states = tree["optimizer"]["state"]["param_states"]
    for moments, leaf in ((found.moments.first, "grad_ema"), (found.moments.second, "grad_sq_ema")):
        assert list(moments) == list(found.params)
        for block, inside, name in (("Conv_0", None, "bias"), ("Combine_0", "Conv_0", "kernel")):
            got, state = moments[block], states[block]
            got, state = (got[inside], state[inside]) if inside else (got, state)
            assert got[name] is state[name][leaf]


@pytest.mark.parametrize(
    "step", [7, np.int64(7), np.array(7), np.array([7.0], np.float32), np.float32(7), 7.0]
)
def test_a_step_is_a_number_or_a_tensor(step):
    """PyTorch kept Adam's steps as int at first, then as tensors of one float."""
    tree = {**cases.torch_tree(FOURIER), "step": step}
    for entry in tree["optimizer"]["state"].values():
        entry["step"] = step
    found = torch_contents(tree)
    assert (found.step, found.moments.updates) == (7, 7)
    assert type(found.step) is type(found.moments.updates) is int


ABSENT = [
    lambda tree: (tree.pop("ema"), tree.pop("optimizer"), tree.pop("step")),
    lambda tree: tree.update(ema=None, optimizer=None, step=0),
    lambda tree: (tree.pop("ema"), tree["optimizer"]["state"].clear(), tree.update(step=0)),
    lambda tree: tree.update(ema=None, optimizer={"state": {}, "param_groups": []}, step=0),
]


@pytest.mark.parametrize("change", ABSENT)
def test_what_is_not_there_is_none(change):
    tree = cases.torch_tree(FOURIER)
    change(tree)
    found = torch_contents(tree)
    same(found.params, WEIGHTS)
    assert (found.average, found.moments, found.step) == (None, None, 0)


def test_ncsnv2_may_have_no_average():
    found = torch_contents(cases.torch_tree("ncsnv2_64")[:4])
    assert (found.layout, found.average, found.step) == ("ncsnv2", None, cases.STEP)


@pytest.mark.parametrize("state", [None, {}, {"step": np.int32(0), "param_states": {}}])
def test_flax_may_have_weights_alone(state):
    tree = {"optimizer": {"target": {"Conv_0": {"bias": np.zeros(3)}}, "state": state}}
    for average in ({}, {"params_ema": None}, {"params_ema": {}}):
        found = flax_contents({**tree, **average})
        assert (found.average, found.moments, found.step) == (None, None, 0)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_bare_state_dict_is_taken(prefix):
    sigmas = cases.levels(FOURIER)
    tree = {prefix + key: array for key, array in {"sigmas": sigmas, **WEIGHTS}.items()}
    found = torch_contents(tree)
    same(found.params, WEIGHTS)
    assert found.layout == "state_dict"
    assert (found.average, found.moments, found.step) == (None, None, 0)
    assert found.sigmas is sigmas


def test_parameters_may_be_in_several_groups_by_any_numbers():
    """The first versions of PyTorch numbered parameters by their addresses."""
    tree = cases.torch_tree(FOURIER)
    optimizer = tree["optimizer"]
    numbers = [140_000_000_000_000 + 72 * i for i in range(len(NAMES))]
    optimizer["state"] = {numbers[i]: entry for i, entry in optimizer["state"].items()}
    optimizer["param_groups"] = [{"params": numbers[:5]}, {"params": numbers[5:]}]
    found = torch_contents(tree)
    same(found.moments.first, FIRST)
    same(found.moments.second, SECOND)


LENGTHS = [  # of the published lists of averages
    ("ve/cifar10_ncsnpp_continuous", 570), ("vp/cifar10_ncsnpp", 570),
    ("vp/cifar10_ddpmpp_continuous", 564), ("vp/ddpm/cifar10_continuous", 308),
    *(
        pytest.param(*row, marks=pytest.mark.slow)
        for row in (
            ("ve/church_ncsnpp_continuous", 644), ("ve/ffhq_ncsnpp_continuous", 552),
            ("ve/cifar10_ncsnpp_deep_continuous", 962), ("vp/cifar10_ncsnpp_deep_continuous", 962),
            ("subvp/cifar10_ddpmpp_deep_continuous", 956), ("vp/ddpm/church", 430),
        )
    ),
]  # fmt: skip


@functools.cache
def slots(row):
    run = PUBLISHED[row]
    return tensor_slots({"name": run.network, **run.options})


@pytest.mark.parametrize(("row", "length"), LENGTHS)
def test_the_averages_of_published_networks_are_as_many_as_their_files_have(row, length):
    """A list of that length is taken, and one of another is not."""
    zero = np.zeros((), np.float32)
    weights = {key: np.broadcast_to(zero, slot.shape) for key, slot in slots(row).items()}
    shadow = [array for key, array in weights.items() if key != cases.FROZEN]
    assert len(shadow) == length
    model = {f"module.{key}": array for key, array in weights.items()}
    found = torch_contents({"model": model, "ema": {"shadow_params": shadow}})
    same(found.average, {key: a for key, a in weights.items() if key != cases.FROZEN})
    with pytest.raises(ValueError, match=rf"{length + 1} tensors, expected {length}, "):
        torch_contents({"model": model, "ema": {"shadow_params": [zero, *shadow]}})
