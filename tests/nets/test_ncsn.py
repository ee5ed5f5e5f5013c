"""NCSN: the published forward pass, and what it does with levels and labels.

The fixture's weights come through ``published_ncsn``, whose own tests are beside this file.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from quick import jit, random_params

from sdejax import processes
from sdejax.conditioning import level_index
from sdejax.nets.ncsn import NCSN
from sdejax.nets.published_ncsn import from_state_dict

SMALL = {"nf": 4, "num_levels": 5, "ch_mult": (1, 2), "dilations": (1, 2)}
X = jax.random.normal(jax.random.key(1), (3, 4, 4, 2))
LEVEL = jnp.array([0.0, 4.0, 2.0])


@functools.cache
def published():
    """The fixture's network, parameters and fields."""
    config, state_dict, fields = parity.stored("ncsn")
    net = NCSN(3, config["num_scales"], config["nf"], centered=config["centered"])
    return net, from_state_dict(net, state_dict), fields


@functools.cache
def compiled():
    return jit(published()[0].apply)


def gap(dtype, t, want):
    """Largest difference to the reference over its largest value."""
    _, params, fields = published()
    params = jax.tree.map(lambda v: jnp.asarray(v, dtype), params)
    out = compiled()({"params": params}, jnp.asarray(fields["@x"], dtype), jnp.asarray(t, dtype))
    assert out.dtype == dtype
    return np.abs(np.asarray(out) - want).max() / np.abs(want).max()


def test_float64_forward_is_the_published_one_to_rounding():
    fields = published()[2]
    with jax.enable_x64(True):
        assert gap(np.float64, fields["@labels"], fields["@output_f64"]) < 1e-12


def test_float32_forward_is_the_published_one():
    fields = published()[2]
    assert gap(np.float32, fields["@labels"], fields["@output_f64"]) < 2e-5


@pytest.mark.parametrize("at", ["", "_edge"])
def test_the_score_at_a_time_is_the_published_one(at):
    """Times become levels by ``level_index``; t = 0 is the smallest sigma, the last row."""
    net, _, fields = published()
    with jax.enable_x64(True):
        sde = processes.ve(0.01, 1.0)
        index = jax.vmap(lambda t: level_index(net.num_levels)(sde, t))
        t = index(jnp.asarray(fields[f"@t{at}"], jnp.float64))
        assert gap(np.float64, t, fields[f"@score{at}_f64"]) < 1e-12


@functools.cache
def small():
    net = NCSN(**SMALL)
    return net, random_params(net, X, LEVEL), jit(net.apply)


def test_each_example_has_the_scales_of_its_own_level():
    _, params, apply = small()
    together = apply(params, X, LEVEL)
    for i in range(3):
        alone = apply(params, X[i : i + 1], LEVEL[i : i + 1])
        np.testing.assert_allclose(together[i : i + 1], alone, rtol=1e-4, atol=1e-4)
    others = apply(params, X, jnp.array([1.0, 3.0, 0.0]))
    assert np.abs(together - others).max(axis=(1, 2, 3)).min() > 1e-2


def test_levels_are_rounded_and_those_beyond_the_table_give_nan():
    _, params, apply = small()
    near = apply(params, X, LEVEL + jnp.array([0.4, -0.4, 0.3]))
    np.testing.assert_array_equal(near, apply(params, X, LEVEL))
    beyond = apply(params, X, jnp.array([-1.0, 5.0, 2.0]))
    assert np.isnan(beyond[:2]).all()
    assert np.isfinite(beyond[2]).all()


def test_data_in_the_unit_interval_are_centred_inside():
    _, params, apply = small()
    inside = jit(NCSN(**SMALL, centered=False).apply)(params, (X + 1) / 2, LEVEL)
    np.testing.assert_allclose(inside, apply(params, X, LEVEL), rtol=1e-3, atol=1e-3)


def test_bfloat16_computes_and_gives_back_the_type_of_x():
    _, params, apply = small()
    out = jit(NCSN(**SMALL, dtype=jnp.bfloat16).apply)(params, X, LEVEL)
    want = apply(params, X, LEVEL)
    assert out.dtype == jnp.float32
    assert 0 < np.abs(out - want).max() / np.abs(want).max() < 0.1


def test_labels_are_refused():
    net, params, _ = small()
    with pytest.raises(ValueError, match="cond: got labels"):
        net.apply(params, X, LEVEL, jnp.array([1, 2, 3]))
