"""Tensors of a checkpoint go where the network reads them, and to no other network."""

import functools

import cases
import jax
import numpy as np
import parity
import pytest

from sdejax.nets import published, published_ncsn
from sdejax.nets.ncsn import NCSN
from sdejax.nets.ncsnv2 import NCSNv2
from sdejax.published.adam_state import Moments
from sdejax.published.contents import flax_contents, torch_contents
from sdejax.published.placement import fits, may_fit, place, tensor_slots

FOURIER = "ncsnpp_ve_skip"
BIAS = "all_modules.3.bias"


@functools.cache
def network(name):
    """The network of a fixture, as in a config, and its table of tensors."""
    found = cases.config(name)["network"]
    return found, tensor_slots(found)


@functools.cache
def contents(name):
    return torch_contents(cases.torch_tree(name))


def tree_of(name, tensors):
    """The parameters as the network's own conversion makes them."""
    options = cases.run(name).options
    if name in cases.NCSN_RUNS:
        net = (NCSN if name == "ncsn" else NCSNv2)(**options)
        return published_ncsn.from_state_dict(net, tensors)
    return published.from_state_dict(options, tensors)


def same(found, want):
    """One structure, and the same float32 numbers."""
    assert jax.tree.structure(found) == jax.tree.structure(want)
    for path, leaf in jax.tree.leaves_with_path(found):
        assert leaf.dtype == np.float32, path
    jax.tree.map(np.testing.assert_array_equal, found, want)


@pytest.mark.parametrize("name", cases.NAMES)
def test_every_value_lies_where_the_network_reads_it(name):
    weights, average, first, second = cases.tensors(name)
    zeros = {key: np.zeros_like(array) for key, array in weights.items()}
    found = place(contents(name), *network(name))
    same(found.params, tree_of(name, weights))
    same(found.average, tree_of(name, average))  # with the frequencies, from the weights
    same(found.first, tree_of(name, {**zeros, **first}))  # whose moments are zero
    same(found.second, tree_of(name, {**zeros, **second}))


@pytest.mark.parametrize("wide_norm", [False, True])
@pytest.mark.parametrize("name", parity.SMALL)
def test_both_codes_of_a_network_give_one_tree(name, wide_norm):
    original = place(flax_contents(cases.flax_tree(name, wide_norm)), *network(name))
    for found, want in zip(original, place(contents(name), *network(name)), strict=True):
        same(found, want)


@pytest.mark.parametrize("name", ["ncsnpp_ve_discrete", "ncsnv2_64"])
def test_weights_stand_for_an_average_that_is_not_there(name):
    found = place(contents(name)._replace(average=None, moments=None), *network(name))
    same(found.params, tree_of(name, cases.tensors(name)[0]))
    same(found.average, found.params)
    assert found.first is found.second is None


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.dtype(">f4")])
def test_other_floating_point_numbers_become_float32(dtype):
    """bfloat16 comes as float32 already: the readers widen it."""
    weights = {key: array.astype(dtype) for key, array in cases.tensors(FOURIER)[0].items()}
    found = place(contents(FOURIER)._replace(params=weights), *network(FOURIER))
    rounded = {key: array.astype(np.float32) for key, array in weights.items()}
    same(found.params, tree_of(FOURIER, rounded))


def with_bias(value):
    """The weights with another bias, or without it."""
    changed = dict(cases.tensors(FOURIER)[0])
    if value is None:
        del changed[BIAS]
    else:
        changed[BIAS] = value
    return changed


def holed(value, dtype=np.float32):
    array = cases.tensors(FOURIER)[0][BIAS].astype(dtype)
    array[5] = value
    return array


WRONG = {
    "NaN": (holed(np.nan), "has values that are not finite"),
    "infinite": (holed(-np.inf), "has values that are not finite"),
    "too large for float32": (holed(1e39, np.float64), "has values that are not finite"),
    "integers": (np.ones(16, np.int64), "got int64, expected floating-point numbers"),
    "flags": (np.ones(16, bool), "got bool, expected floating-point numbers"),
    "complex": (np.ones(16, np.complex64), "got complex64, expected floating-point numbers"),
    "missing": (None, r"is missing \(for conv_in/bias\)"),
    "of another shape": (np.ones((16, 1), np.float32), r"has shape \(16, 1\), expected \(16,\)"),
    "of no dimension": (np.ones((), np.float32), r"has shape \(\), expected \(16,\)"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_tensor_that_is_wrong_is_named_in_the_weights(what):
    value, says = WRONG[what]
    found = contents(FOURIER)._replace(params=with_bias(value), average=None, moments=None)
    with pytest.raises(ValueError, match=rf"^weights: .*all_modules\.3\.bias:? {says}"):
        place(found, *network(FOURIER))


@pytest.mark.parametrize("what", [what for what in WRONG if what != "missing"])
def test_and_in_the_average_and_in_the_moments(what):
    value, says = WRONG[what]
    found, names = contents(FOURIER), rf".*all_modules\.3\.bias:? {says}"
    with pytest.raises(ValueError, match=f"^average: {names}"):
        place(found._replace(average=with_bias(value)), *network(FOURIER))
    for moments in (Moments(with_bias(value), {}, 1), Moments({}, with_bias(value), 1)):
        with pytest.raises(ValueError, match=f"^Adam's state: {names}"):
            place(found._replace(moments=moments), *network(FOURIER))


def test_a_surplus_tensor_is_named():
    surplus = {**contents(FOURIER).params, "extra.weight": np.ones(3, np.float32)}
    with pytest.raises(ValueError, match=r"^weights: .*extra\.weight and 0 more have no place"):
        place(contents(FOURIER)._replace(params=surplus), *network(FOURIER))


FLAX_WRONG = {
    "missing": (lambda node: node.pop("bias"), "Conv_0/bias is missing"),
    "misshapen": (lambda node: node.update(bias=np.ones(3)), r"Conv_0/bias has shape \(3,\)"),
    "surplus": (lambda node: node.update(more=np.ones(3)), "no place in this network, Conv_0/more"),
    "text": (lambda node: node.update(bias="x"), "Conv_0/bias is str"),
    "NaN": (lambda node: node.update(bias=holed(np.nan)), r"all_modules\.3\.bias: has values"),
    "integers": (lambda node: node.update(bias=np.ones(16, int)), r"3\.bias: got int64, expected"),
}


@pytest.mark.parametrize("part", ["weights", "average", "Adam's state"])
@pytest.mark.parametrize("what", FLAX_WRONG)
def test_a_wrong_tensor_of_the_original_code_is_named(what, part):
    change, says = FLAX_WRONG[what]
    found = flax_contents(cases.flax_tree(FOURIER))
    change({
        "weights": found.params, "average": found.average, "Adam's state": found.moments.second
    }[part]["Conv_0"])  # fmt: skip
    with pytest.raises(ValueError, match=f"^{part}: .*{says}"):
        place(found, *network(FOURIER))


SHAPES = {
    name: {key: array.shape for key, array in cases.tensors(name)[0].items()}
    for name in cases.NAMES
}


@pytest.mark.parametrize("name", cases.NAMES)
def test_a_checkpoint_fits_networks_of_its_names_and_shapes_alone(name):
    params = contents(name).params
    found = [contents(name), contents(name)._replace(params=dict(reversed(params.items())))]
    if name in parity.SMALL:
        found.append(flax_contents(cases.flax_tree(name)))
    for other in cases.NAMES:
        alike = SHAPES[name] == SHAPES[other]
        assert alike == (name == other)
        for each in found:
            assert fits(each, *network(other)) == alike
            assert may_fit(each, network(other)[0]) or not alike


KINDS = {  # what the names alone tell
    "ncsnpp_ve_skip": {"ncsnpp_ve_skip", "ncsnpp_ve_deep_continuous"},
    "ncsn": {"ncsn"},
    "ncsnv2_64": {"ncsnv2_64"},
}
REST = set(cases.NAMES) - set().union(*KINDS.values())


@pytest.mark.parametrize("name", [*KINDS, "ncsnpp_ve_discrete", "ddpm_vp_continuous"])
def test_most_networks_are_excluded_by_names(name):
    kinds = {other for other in cases.NAMES if may_fit(contents(name), network(other)[0])}
    assert kinds == KINDS.get(name, REST)


def test_a_single_tensor_more_or_less_does_not_fit():
    params = contents(FOURIER).params
    less = {key: array for key, array in params.items() if key != BIAS}
    for changed in (less, {**params, "x": np.ones(3)}, with_bias(np.ones(15))):
        assert not fits(contents(FOURIER)._replace(params=changed), *network(FOURIER))


@pytest.mark.parametrize("name", ["ncsn", "ncsnv2_64"])
def test_the_original_code_of_score_sde_had_no_such_network(name):
    found = flax_contents(cases.flax_tree(FOURIER))
    assert not fits(found, *network(name))
    with pytest.raises(ValueError, match=f"of score_sde is of a unet, not of {name[:4]}"):
        place(found, *network(name))


def test_another_order_is_refused_where_lists_follow_it():
    """Two tensors of one shape, exchanged: no list without names would notice."""
    found = contents(FOURIER)
    names = list(found.params)
    one = names.index(BIAS)
    shape = found.params[BIAS].shape
    other = next(i for i in range(one + 1, len(names)) if found.params[names[i]].shape == shape)
    names[one], names[other] = names[other], names[one]
    moved = found._replace(params={name: found.params[name] for name in names})
    with pytest.raises(ValueError, match=f"{names[one]} stands where {BIAS} does"):
        place(moved, *network(FOURIER))
    assert place(moved._replace(layout="state_dict", average=None, moments=None), *network(FOURIER))


def test_a_mean_of_squares_below_0_is_refused():
    found = contents(FOURIER)
    second = {**found.moments.second, BIAS: -found.moments.second[BIAS]}
    with pytest.raises(ValueError, match=f"Adam's state: {BIAS}: a mean of squares is below 0"):
        place(found._replace(moments=found.moments._replace(second=second)), *network(FOURIER))


def test_a_network_without_published_weights_is_refused():
    with pytest.raises(ValueError, match="got 'mlp'; published weights fit unet, ncsn, ncsnv2"):
        tensor_slots({"name": "mlp", "hidden": (4,)})
