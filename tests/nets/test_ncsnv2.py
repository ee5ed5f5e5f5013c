"""NCSNv2: the published forward pass, and its division by sigma."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from quick import jit, random_params

from sdejax.nets.ncsnv2 import NCSNv2
from sdejax.nets.published_ncsn import from_state_dict

SMALL = {"nf": 4, "ch_mult": (1, 2), "dilations": (1, 2)}
X = jax.random.normal(jax.random.key(1), (3, 4, 4, 2))
SIGMA = jnp.array([0.5, 2.0, 8.0])


@functools.cache
def published():
    """The fixture's network, parameters, table of levels and fields."""
    config, state_dict, fields = parity.stored("ncsnv2_64")
    net = NCSNv2(3, config["nf"], centered=config["centered"])
    return net, from_state_dict(net, state_dict), state_dict["sigmas"], fields


@functools.cache
def compiled():
    return jit(published()[0].apply)


def gap(dtype, sigma, want):
    """Largest difference to the reference over its largest value."""
    _, params, _, fields = published()
    params = jax.tree.map(lambda v: jnp.asarray(v, dtype), params)
    x, sigma = jnp.asarray(fields["@x"], dtype), jnp.asarray(sigma, dtype)
    out = compiled()({"params": params}, x, sigma)
    assert out.dtype == dtype
    return np.abs(np.asarray(out) - want).max() / np.abs(want).max()


def test_float64_forward_is_the_published_one_to_rounding():
    _, _, sigmas, fields = published()
    with jax.enable_x64(True):
        assert gap(np.float64, sigmas[fields["@labels"]], fields["@output_f64"]) < 1e-12


def test_float32_forward_is_the_published_one():
    _, _, sigmas, fields = published()
    assert gap(np.float32, sigmas[fields["@labels"]], fields["@output_f64"]) < 2e-5


@pytest.mark.parametrize("at", ["", "_edge"])
def test_the_score_at_a_time_is_the_published_one(at):
    """The reference takes the nearest of its 100 levels, counted from the largest."""
    _, _, sigmas, fields = published()
    index = np.round((1 - fields[f"@t{at}"].astype(np.float64)) * 99).astype(int)
    with jax.enable_x64(True):
        assert gap(np.float64, sigmas[index], fields[f"@score{at}_f64"]) < 1e-12


@functools.cache
def small():
    net = NCSNv2(**SMALL)
    return net, random_params(net, X, SIGMA), jit(net.apply)


def test_sigma_times_the_score_does_not_know_sigma():
    _, params, apply = small()
    first, second = apply(params, X, SIGMA), apply(params, X, SIGMA[::-1])
    row = (slice(None), None, None, None)
    np.testing.assert_allclose(first * SIGMA[row], second * SIGMA[::-1][row], rtol=1e-5)
    assert np.abs(first).max() > 1e-2


def test_data_in_the_unit_interval_are_centred_inside():
    _, params, apply = small()
    inside = jit(NCSNv2(**SMALL, centered=False).apply)(params, (X + 1) / 2, SIGMA)
    np.testing.assert_allclose(inside, apply(params, X, SIGMA), rtol=1e-3, atol=1e-3)


def test_bfloat16_computes_and_gives_back_the_type_of_x():
    _, params, apply = small()
    out = jit(NCSNv2(**SMALL, dtype=jnp.bfloat16).apply)(params, X, SIGMA)
    want = apply(params, X, SIGMA)
    assert out.dtype == jnp.float32
    assert 0 < np.abs(out - want).max() / np.abs(want).max() < 0.1


def test_labels_are_refused():
    net, params, _ = small()
    with pytest.raises(ValueError, match="cond: got labels"):
        net.apply(params, X, SIGMA, jnp.array([1, 2, 3]))
