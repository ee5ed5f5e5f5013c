"""Instance normalisation++ against its formula in float64, and what it must not depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdejax.nets.instance_norm import CondInstanceNormPlus, InstanceNormPlus

RNG = np.random.default_rng(0)
X = RNG.gamma(2.0, size=(3, 5, 4, 6)) + np.arange(6)  # skewed, and another mean in each channel
GAMMA, ALPHA, BETA = RNG.normal(size=(3, 6))


def formula(x, gamma, alpha, beta):
    """The paper's formula, one image and one channel after the other."""
    z = np.empty_like(x)
    for i, image in enumerate(x):
        means = image.mean((0, 1))
        spread = np.sqrt(means.var(ddof=1) + 1e-5)
        for k in range(x.shape[-1]):
            inside = (image[..., k] - means[k]) / np.sqrt(image[..., k].var() + 1e-5)
            beside = (means[k] - means.mean()) / spread
            z[i, ..., k] = gamma[k] * (inside + alpha[k] * beside) + beta[k]
    return z


def plain(x):
    params = {"gamma": GAMMA, "alpha": ALPHA, "beta": BETA}
    return InstanceNormPlus().apply({"params": jax.tree.map(jnp.asarray, params)}, x)


def test_the_layer_is_the_formula_in_float64():
    with jax.enable_x64(True):
        got = np.asarray(plain(jnp.asarray(X)))
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, formula(X, GAMMA, ALPHA, BETA), rtol=0, atol=1e-13)


def test_the_conditional_layer_takes_each_example_s_row():
    tables = RNG.normal(size=(7, 18))
    levels = np.array([6, 0, 3])
    with jax.enable_x64(True):
        params = {"embedding": jnp.asarray(tables)}
        layer = CondInstanceNormPlus(7)
        got = np.asarray(layer.apply({"params": params}, jnp.asarray(X), jnp.asarray(levels)))
    for i, level in enumerate(levels):
        want = formula(X[i : i + 1], *np.split(tables[level], 3))
        np.testing.assert_allclose(got[i : i + 1], want, rtol=0, atol=1e-13)


@pytest.mark.parametrize("level", [-1, 7])
def test_a_level_beyond_the_table_gives_nan(level):
    layer = CondInstanceNormPlus(7)
    x, at = jnp.asarray(X, jnp.float32), jnp.array([0, level, 6])
    params = layer.init(jax.random.key(0), x, at)
    out = layer.apply(params, x, at)
    assert np.isnan(out[1]).all()
    assert np.isfinite(out[::2]).all()


def test_float32_has_its_statistics_exact_to_rounding_on_a_large_mean():
    x = np.float32(X + 1e4)
    want = formula(np.asarray(x, np.float64), GAMMA, ALPHA, BETA)
    np.testing.assert_allclose(plain(jnp.asarray(x)), want, atol=2e-2)  # 1e4 has eps 1e-3
    small = plain(jnp.asarray(X, jnp.float32))
    np.testing.assert_allclose(small, formula(X, GAMMA, ALPHA, BETA), atol=2e-5)


def test_bfloat16_computes_its_statistics_in_float32():
    x = jnp.asarray(X, jnp.bfloat16)
    layer = InstanceNormPlus(jnp.bfloat16)
    params = {"gamma": GAMMA, "alpha": ALPHA, "beta": BETA}
    params = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), params)
    got = layer.apply({"params": params}, x)
    assert got.dtype == jnp.bfloat16
    want = formula(np.asarray(x, np.float64), GAMMA, ALPHA, BETA)
    np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol=2**-8, atol=1e-2)


def test_contrast_is_lost_and_brightness_of_a_channel_is_kept():
    """A common gain and shift change nothing; a shift of one channel does, unless alpha = 0."""
    with jax.enable_x64(True):
        x = jnp.asarray(X)
        base = plain(x)
        np.testing.assert_allclose(plain(3 * x + 5), base, atol=1e-4)  # eps beside the variance
        brighter = x.at[..., 2].add(1.0)
        assert np.abs(plain(brighter) - base).min(axis=(0, 1, 2)).max() > 0.05
        params = {"gamma": GAMMA, "alpha": 0 * ALPHA, "beta": BETA}
        blind = {"params": jax.tree.map(jnp.asarray, params)}
        layer = InstanceNormPlus()
        np.testing.assert_allclose(
            layer.apply(blind, brighter), layer.apply(blind, x), rtol=0, atol=1e-12
        )


def test_fresh_scales_are_near_one_and_shifts_are_zero():
    x = jnp.zeros((1, 2, 2, 4000))
    fresh = InstanceNormPlus().init(jax.random.key(0), x)["params"]
    rows = CondInstanceNormPlus(2).init(jax.random.key(0), x, jnp.array([0]))["params"]
    gamma, alpha, beta = np.split(np.asarray(rows["embedding"]), 3, axis=1)
    for scale in (fresh["gamma"], fresh["alpha"], gamma, alpha):
        scale = np.asarray(scale, np.float64).ravel()
        assert abs(scale.mean() - 1) < 5 * 0.02 / np.sqrt(scale.size)
        assert abs(scale.std() / 0.02 - 1) < 5 / np.sqrt(2 * scale.size)
    assert not np.any(fresh["beta"])
    assert not np.any(beta)
