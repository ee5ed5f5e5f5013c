"""Embeddings against their formulas written out in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdejax.nets.embed import GaussianFourier, LabelEmbed, check_choice, check_label, sinusoidal

LABELS = np.array([0.0, 0.37, 42.5, 999.0])


def test_sinusoidal_features_are_sines_then_cosines_of_geometric_frequencies(x64):
    got = sinusoidal(jnp.asarray(LABELS), 8)
    frequencies = 10_000.0 ** (-np.arange(4) / 3)
    phase = LABELS[:, None] * frequencies[None, :]
    np.testing.assert_allclose(got, np.hstack([np.sin(phase), np.cos(phase)]), atol=1e-12)


def test_an_odd_number_of_sinusoidal_features_ends_in_zero():
    got = sinusoidal(jnp.asarray(LABELS, jnp.float32), 9)
    assert got.shape == (4, 9)
    np.testing.assert_array_equal(got[:, 8], 0)
    np.testing.assert_array_equal(got[:, :8], sinusoidal(jnp.asarray(LABELS, jnp.float32), 8))


def test_phases_are_not_computed_in_bfloat16():
    t = jnp.asarray([640.0, 644.0], jnp.bfloat16)  # both exact in bfloat16
    got = sinusoidal(t, 16)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, sinusoidal(t.astype(jnp.float32), 16))


def test_too_few_sinusoidal_features_are_refused():
    with pytest.raises(ValueError, match="features: got 3"):
        sinusoidal(jnp.zeros(1), 3)


def test_fourier_features_match_their_formula():
    net = GaussianFourier(5, scale=3.0)
    t = jnp.array([-1.5, 0.0, 2.0])
    params = net.init(jax.random.key(0), t)
    phase = 2 * np.pi * np.asarray(t)[:, None] * np.asarray(params["params"]["W"])[None, :]
    want = np.hstack([np.sin(phase), np.cos(phase)])
    np.testing.assert_allclose(net.apply(params, t), want, atol=2e-5)


def test_fourier_frequencies_have_the_asked_scale_and_take_no_gradient():
    net = GaussianFourier(4000, scale=16.0)
    t = jnp.ones(1)
    params = net.init(jax.random.key(1), t)
    w = np.asarray(params["params"]["W"])
    assert abs(w.std() / 16 - 1) < 5 / np.sqrt(2 * 4000)
    assert abs(w.mean() / 16) < 5 / np.sqrt(4000)
    grad = jax.grad(lambda p: net.apply(p, t).sum())(params)
    np.testing.assert_array_equal(grad["params"]["W"], 0)


def test_labels_pick_rows_and_none_is_the_null_label():
    net = LabelEmbed(3, 4)
    params = net.init(jax.random.key(0), None, 2)
    table = params["params"]["embedding"]
    assert table.shape == (4, 4)
    got = net.apply(params, jnp.array([2, 0]), 2)
    np.testing.assert_array_equal(got, table[jnp.array([2, 0])])
    np.testing.assert_array_equal(net.apply(params, None, 2), table[jnp.array([3, 3])])


def test_a_label_out_of_range_shows_as_nan():
    net = LabelEmbed(3, 4)
    params = net.init(jax.random.key(0), None, 1)
    assert np.isnan(net.apply(params, jnp.array([4]), 1)).all()


def test_misuse_is_named():
    with pytest.raises(ValueError, match=r"cond: .*num_classes=None"):
        check_label(jnp.zeros(1, jnp.int32), None)
    with pytest.raises(ValueError, match="kind: got 'x', expected one of 'a', 'b'"):
        check_choice("kind", "x", ("a", "b"))
