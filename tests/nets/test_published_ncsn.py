"""The published NCSNs: parameter counts and names. Forward passes: test_ncsn.py, test_ncsnv2.py."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

from sdejax.nets.ncsn import NCSN
from sdejax.nets.ncsnv2 import NCSNv2
from sdejax.nets.published_ncsn import (
    NCSN_PRESETS,
    NCSNV2_PRESETS,
    from_state_dict,
    parameter_slots,
)

FIXTURES = {"ncsn": NCSN(3, 14, 16), "ncsnv2_64": NCSNv2(3, 24)}
# as the authors' code builds them: parameters, and the side of the images
COUNTS = {
    (NCSN, "cifar10"): (30_117_635, 32),
    (NCSN, "celeba"): (30_117_635, 32),
    (NCSNv2, "cifar10"): (29_694_083, 32),
    (NCSNv2, "celeba"): (29_694_083, 64),
    (NCSNv2, "lsun"): (83_445_379, 128),
    (NCSNv2, "ffhq"): (94_132_611, 256),
}
PRESETS = {
    (cls, name): cls(**kwargs)
    for cls, presets in ((NCSN, NCSN_PRESETS), (NCSNv2, NCSNV2_PRESETS))
    for name, kwargs in presets.items()
}


def test_every_preset_is_checked():
    assert set(PRESETS) == set(COUNTS)


@pytest.mark.parametrize("preset", [k for k in COUNTS if k[1] != "celeba"])
def test_parameter_counts_are_the_published_ones(preset):
    count, side = COUNTS[preset]
    x = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.float32)
    net = PRESETS[preset]
    out, variables = jax.eval_shape(net.init_with_output, jax.random.key(0), x, t)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables)) == count
    assert out.shape == x.shape


@pytest.mark.parametrize("name", FIXTURES)
def test_names_and_shapes_are_the_published_ones(name):
    _, state_dict, fields = parity.stored(name)
    table = parameter_slots(FIXTURES[name])
    assert set(table) == set(fields["@trainable_order"])
    assert {key: slot.shape for key, slot in table.items()} == {
        key: array.shape for key, array in state_dict.items() if key != "sigmas"
    }
    assert sum(math.prod(slot.shape) for slot in table.values()) == fields["@param_count"]


def test_the_stages_of_the_larger_networks_have_their_published_numbers():
    """``res31`` is the fourth of six stages and ``refine31`` joins what it saw."""
    table = parameter_slots(NCSNv2(3, 2, (1, 2, 2, 2, 4, 4), (1, 1, 1, 1, 2, 4)))
    stages = {key.split(".")[0]: slot.path[1] for key, slot in table.items()}
    assert stages == {
        "begin_conv": "conv_in", "normalizer": "norm_out", "end_conv": "conv_out",
        "res1": "stage_0_1", "res2": "stage_1_1", "res3": "stage_2_1", "res31": "stage_3_1",
        "res4": "stage_4_1", "res5": "stage_5_1",
        "refine1": "refine_5", "refine2": "refine_4", "refine31": "refine_3",
        "refine3": "refine_2", "refine4": "refine_1", "refine5": "refine_0",
    }  # fmt: skip
    shapes = {key: slot.shape for key, slot in table.items()}
    assert shapes["res3.0.shortcut.conv.weight"] == (4, 4, 1, 1)  # it halves
    assert shapes["res31.0.conv2.conv.weight"] == (4, 4, 3, 3)  # and so does this one
    assert shapes["res4.0.shortcut.weight"] == (8, 4, 3, 3)  # dilated from here on
    assert shapes["refine2.msf.convs.1.weight"] == (4, 8, 3, 3)
    assert shapes["refine4.msf.convs.0.weight"] == (2, 4, 3, 3)
    assert shapes["refine5.output_convs.3_2_conv.weight"] == (2, 2, 3, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("res1.0.conv1.bias"), r"res1\.0\.conv1\.bias is missing"),
        (lambda s: s.update({"extra": np.ones(2)}), "extra and 0 more have no place"),
        (
            lambda s: s.update({"normalizer.embed.weight": np.ones((10, 48))}),
            r"normalizer\.embed\.weight has shape \(10, 48\), expected \(14, 48\)",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_named(change, message):
    _, state_dict, _ = parity.stored("ncsn")
    change(state_dict)
    with pytest.raises(ValueError, match=message):
        from_state_dict(FIXTURES["ncsn"], state_dict)


@pytest.mark.parametrize(
    "net", [NCSN(), NCSNv2(3, ch_mult=(1, 2, 2), dilations=(1, 1, 2))], ids=["channels", "stages"]
)
def test_a_network_that_was_never_published_is_refused(net):
    with pytest.raises(ValueError, match=r"net: got out_channels=.* expected a number of channels"):
        parameter_slots(net)
