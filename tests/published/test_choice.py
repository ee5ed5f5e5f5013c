"""Which preset a checkpoint is of: what tensors and levels tell, and what they do not."""

import functools

import numpy as np
import pytest

from sdejax.nets.unet import geometric_levels
from sdejax.published.choice import choose, levels_problem
from sdejax.published.contents import Contents
from sdejax.published.placement import tensor_slots
from sdejax.published.run_config import published_config
from sdejax.published.runs import PUBLISHED

NCSNS = [name for name in PUBLISHED if name.startswith("ncsn")]


@functools.cache
def config(name):
    return published_config(PUBLISHED[name]).to_dict()


@functools.cache
def slots(name):
    return tensor_slots(config(name)["network"])


def contents(name, sigmas=None):
    """Weights of a published network that take no memory."""
    zero = np.zeros((), np.float32)
    params = {key: np.broadcast_to(zero, slot.shape) for key, slot in slots(name).items()}
    return Contents("score_sde_pytorch", params, sigmas=sigmas)


def chosen(found, names, preset=None):
    return choose(found, {name: config(name) for name in names}, preset)[0]


def test_ncsnv2_is_told_by_its_levels():
    for name, levels in (("cifar10", (0.01, 50.0, 232)), ("celeba", (0.01, 90.0, 500))):
        sigmas = geometric_levels(*levels).astype(np.float32)
        assert chosen(contents("ncsnv2/cifar10", sigmas), NCSNS) == f"ncsnv2/{name}"
    with pytest.raises(ValueError, match=r"any of ncsnv2/cifar10, ncsnv2/celeba: .* --preset"):
        chosen(contents("ncsnv2/cifar10"), NCSNS)


def test_data_sets_of_one_network_and_one_table_are_not_told_apart():
    with pytest.raises(ValueError, match=r"any of ncsn/cifar10, ncsn/celeba: their tensors have"):
        chosen(contents("ncsn/cifar10"), NCSNS)
    assert chosen(contents("ncsn/celeba"), ["ncsn/celeba"], "ncsn/celeba") == "ncsn/celeba"


def test_a_short_name_is_settled_by_the_tensors():
    """Under VE the network has Fourier features; VP and sub-VP have one network."""
    names = [f"{sde}/cifar10_ncsnpp_continuous" for sde in ("vp", "subvp", "ve")]
    short = "cifar10_ncsnpp_continuous"
    assert chosen(contents(names[2]), names, short) == names[2]
    with pytest.raises(ValueError, match=f"got '{short}', and the file may be any of {names[0]}, "):
        chosen(contents(names[0]), names, short)


def test_levels_of_none_and_tensors_of_none_are_said():
    sigmas = geometric_levels(0.01, 50.0, 10)
    with pytest.raises(ValueError, match=r"those of none: ncsnv2/cifar10: sigmas has 10 levels"):
        chosen(contents("ncsnv2/cifar10", sigmas), NCSNS)
    other = contents("ncsnv2/cifar10")._replace(params={"begin_conv.weight": np.zeros(3)})
    with pytest.raises(ValueError, match=r"1 tensors .begin_conv.weight .* any published net"):
        chosen(other, NCSNS)
    with pytest.raises(ValueError, match="shapes of ncsn/cifar10 or ncsn/celeba; for a network of"):
        chosen(other, NCSNS[:2], "ncsn")


def test_levels_of_ve_are_compared_and_those_of_vp_are_not():
    table = geometric_levels(0.01, 50.0, 1000)
    for name in ("ve/cifar10_ncsnpp_continuous", "ve/cifar10_ddpm", "vp/cifar10_ddpmpp"):
        assert levels_problem(contents("ncsn/cifar10", table), config(name)) is None
        problem = levels_problem(contents("ncsn/cifar10", table[1:]), config(name))
        assert (problem is None) == name.startswith("vp")
    # Continuous models have no number of levels, and any number of steps to sample in.
    few = {**config("ve/cifar10_ncsnpp_continuous"), "sample": {"steps": 20}}
    for levels in (1000, 500):
        found = contents("ncsn/cifar10", geometric_levels(0.01, 50.0, levels))
        assert levels_problem(found, few) is None
        assert (levels_problem(found, config("ve/cifar10_ddpm")) is None) == (levels == 1000)
    assert levels_problem(contents("ncsn/cifar10"), config("ve/cifar10_ddpm")) is None
    with pytest.raises(ValueError, match=r"preset ve/church.*has 1000 levels from 50 to 0\.01, "):
        chosen(contents("ncsn/cifar10", table), ["ve/church_ncsnpp_continuous"], "church")


@pytest.mark.slow
def test_every_network_fits_the_presets_that_share_it():
    """A table of all published networks: who is taken for whom."""
    by_network = {}
    for name in PUBLISHED:
        shapes = tuple((key, slot.shape) for key, slot in slots(name).items())
        by_network.setdefault(shapes, []).append(name)
    for alike in by_network.values():
        if len(alike) == 1:
            assert chosen(contents(alike[0]), PUBLISHED) == alike[0]
        else:
            with pytest.raises(ValueError, match=f"any of {', '.join(alike)}: "):
                chosen(contents(alike[0]), PUBLISHED)
