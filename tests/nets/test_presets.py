"""Parameter counts of the published full-size networks, without allocating them."""

import functools
import math

import jax
import jax.numpy as jnp
import pytest

from sdejax.nets.presets import PRESETS
from sdejax.nets.unet import UNet

# all parameters, and the fixed Fourier frequencies among them, as the authors' code builds them
COUNTS = {
    (35_218_947, 0): [
        "subvp/cifar10_ddpm_continuous",
        "ve/cifar10_ddpm",
        "vp/ddpm/cifar10",
        "vp/ddpm/cifar10_continuous",
    ],
    (61_804_419, 0): [
        "subvp/cifar10_ddpmpp_continuous",
        "vp/cifar10_ddpmpp",
        "vp/cifar10_ddpmpp_continuous",
    ],
    (62_693_251, 0): [
        "subvp/cifar10_ncsnpp_continuous",
        "ve/celeba_ncsnpp",
        "ve/cifar10_ncsnpp",
        "vp/cifar10_ncsnpp",
        "vp/cifar10_ncsnpp_continuous",
    ],
    (62_758_915, 128): ["ve/cifar10_ncsnpp_continuous"],
    (65_574_549, 128): [
        "ve/bedroom_ncsnpp_continuous",
        "ve/celebahq_256_ncsnpp_continuous",
        "ve/church_ncsnpp_continuous",
        "ve/ffhq_256_ncsnpp_continuous",
    ],
    (105_785_896, 16): ["ve/celebahq_ncsnpp_continuous", "ve/ffhq_ncsnpp_continuous"],
    (106_632_579, 0): [
        "subvp/cifar10_ddpmpp_deep_continuous",
        "vp/cifar10_ddpmpp_deep_continuous",
    ],
    (107_521_411, 0): [
        "subvp/cifar10_ncsnpp_deep_continuous",
        "vp/cifar10_ncsnpp_deep_continuous",
    ],
    (107_587_075, 128): ["ve/cifar10_ncsnpp_deep_continuous"],
    (111_569_923, 0): ["vp/ddpm/bedroom", "vp/ddpm/celebahq", "vp/ddpm/church"],
}
PUBLISHED = [(name, *counts) for counts, names in COUNTS.items() for name in names]


@functools.cache
def counted(net):
    """Number of parameters, number of fixed frequencies, and the output's shape."""
    side = net.image_size
    x = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.float32)
    out, variables = jax.eval_shape(net.init_with_output, jax.random.key(0), x, t)
    flat = jax.tree_util.tree_flatten_with_path(variables["params"])[0]
    frozen = sum(math.prod(leaf.shape) for path, leaf in flat if path[-1].key == "W")
    return sum(math.prod(leaf.shape) for _, leaf in flat), frozen, out.shape


@pytest.mark.parametrize(("name", "total", "frozen"), PUBLISHED)
def test_parameter_counts_are_the_published_ones(name, total, frozen):
    net = UNet(**PRESETS[name])
    side = net.image_size
    assert counted(net) == (total, frozen, (1, side, side, 3))


def test_every_preset_is_checked():
    assert {name for name, *_ in PUBLISHED} == set(PRESETS)


def test_presets_follow_their_sde():
    for name, kwargs in PRESETS.items():
        assert kwargs["centered"] == (not name.startswith("ve/")), name
        assert kwargs["scale_by_sigma"] == name.startswith("ve/"), name
