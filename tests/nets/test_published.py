"""Forward passes of the published networks: the same weights give the same numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from quick import jit

from sdejax.nets.presets import PRESETS
from sdejax.nets.published import from_state_dict, parameter_slots
from sdejax.nets.unet import UNet, geometric_levels


@functools.cache
def converted(name):
    """Keyword arguments, parameters and fields of a fixture."""
    kwargs, state_dict, fields = parity.load(name)
    return kwargs, from_state_dict(kwargs, state_dict), fields


def gap(name, dtype):
    """Largest difference to the float64 reference over its largest value, and the output's type."""
    kwargs, params, fields = converted(name)
    params = jax.tree.map(lambda v: jnp.asarray(v, dtype), params)
    x, t = (jnp.asarray(fields[key], dtype) for key in ("@x", "@labels"))
    out, want = jit(UNet(**kwargs).apply)({"params": params}, x, t), fields["@output_f64"]
    return np.abs(out - want).max() / np.abs(want).max(), out.dtype


@pytest.mark.parametrize("name", parity.SMALL)
def test_float64_forward_is_the_published_one_to_rounding(name):
    with jax.enable_x64(True):
        error, dtype = gap(name, np.float64)
    assert dtype == np.float64
    assert error < 1e-12


@pytest.mark.parametrize("name", parity.SMALL)
def test_float32_forward_is_the_published_one(name):
    error, dtype = gap(name, np.float32)
    assert dtype == np.float32
    assert error < 2e-5


@pytest.mark.slow
def test_the_full_size_network_is_the_published_one():
    kwargs, _, _ = converted("full32_ncsnpp_vesde")
    assert UNet(**kwargs) == UNet(**PRESETS["ve/cifar10_ncsnpp_continuous"])
    assert gap("full32_ncsnpp_vesde", np.float32)[0] < 2e-5


@pytest.mark.parametrize("name", parity.SMALL)
def test_parameters_come_in_the_order_of_the_published_averages(name):
    kwargs, params, fields = converted(name)
    slots = parameter_slots(kwargs)
    trainable = [key for key, slot in slots.items() if slot.path[0] != "fourier"]
    assert trainable == list(fields["@trainable_order"])
    size = sum(v.size for v in jax.tree.leaves(params))
    assert size == fields["@param_count"]
    assert [v.shape for v in jax.tree.leaves(params)] == [
        v.shape for v in jax.tree.leaves(init_shapes(kwargs))
    ]


def init_shapes(kwargs):
    side = kwargs["image_size"]
    x = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.float32)
    return jax.eval_shape(UNet(**kwargs).init, jax.random.key(0), x, t)["params"]


def test_noise_levels_are_the_published_table():
    kwargs, state_dict, _ = parity.load("ncsnpp_ve_discrete")
    got = geometric_levels(*kwargs["sigma_levels"])
    np.testing.assert_allclose(got, state_dict["sigmas"], rtol=1e-14)


def broken(change):
    kwargs, state_dict, _ = parity.load("ncsnpp_ve_discrete")
    change(kwargs, state_dict)
    return kwargs, state_dict


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda k, s: s.pop("all_modules.3.Conv_1.bias"),
            r"all_modules\.3\.Conv_1\.bias is missing",
        ),
        (lambda k, s: s.update({"extra.W": np.ones(2)}), r"extra\.W and 0 more have no place"),
        (
            lambda k, s: s.update({"all_modules.7.NIN_2.W": np.ones((64, 65))}),
            r"all_modules\.7\.NIN_2\.W has shape \(64, 65\), expected \(64, 64\)",
        ),
        (lambda k, s: s.update({"sigmas": s["sigmas"][::-1]}), "sigmas has 1000 levels from 0.01"),
        (lambda k, s: k.update({"nf": 16}), r"all_modules\.0\.weight has shape \(128, 32\)"),
        (lambda k, s: k.pop("image_size"), "config_kwargs: image_size is missing"),
        (lambda k, s: k.update({"num_classes": 10}), "num_classes must be None"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        from_state_dict(*broken(change))
