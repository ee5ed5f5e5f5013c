import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdejax.nets.blocks import AttnBlock, Combine, ResBlock, add

KEY = jax.random.key(0)


def test_a_rescaled_sum_of_independent_branches_keeps_their_variance():
    x, h = jax.random.normal(KEY, (2, 1, 64, 64, 4))
    assert np.var(add(x, h, True)) == pytest.approx(1.0, abs=0.03)
    np.testing.assert_array_equal(add(x, h, False), x + h)


@pytest.mark.parametrize("kind", ["ddpm", "biggan"])
def test_a_fresh_residual_block_passes_its_shortcut(kind):
    x = jax.random.normal(KEY, (2, 8, 8, 16))
    block = ResBlock(16, kind=kind, skip_rescale=False)
    params = block.init(KEY, x, None, False)
    np.testing.assert_array_equal(block.apply(params, x, None, False), x)


def test_a_block_resizes_both_branches():
    x = jnp.ones((2, 8, 8, 16))
    for direction, side in (("down", 4), ("up", 16)):
        block = ResBlock(24, direction=direction)
        assert block.apply(block.init(KEY, x, None, False), x, None, False).shape == (
            2, side, side, 24,
        )  # fmt: skip


def test_attention_treats_pixels_alike_and_sees_them_all():
    x = jax.random.normal(KEY, (1, 4, 4, 8))
    block = AttnBlock(init_scale=1.0)
    params = block.init(KEY, x)
    order = jax.random.permutation(KEY, 16)

    def shuffled(images):
        return images.reshape(1, 16, 8)[:, order].reshape(1, 4, 4, 8)

    out = block.apply(params, x)
    np.testing.assert_allclose(shuffled(out), block.apply(params, shuffled(x)), atol=1e-5)
    moved = block.apply(params, x.at[0, 0, 0].add(jnp.arange(8.0))) - out
    assert jnp.all(jnp.abs(moved[0, 3, 3]).max() > 1e-6)


def test_combining_adds_or_appends_a_projection():
    pyramid, h = jnp.ones((1, 4, 4, 3)), jax.random.normal(KEY, (1, 4, 4, 8))
    params = Combine("sum").init(KEY, pyramid, h)
    summed = Combine("sum").apply(params, pyramid, h)
    joined = Combine("cat").apply(params, pyramid, h)
    np.testing.assert_allclose(summed - h, joined[..., :8], atol=1e-6)
    np.testing.assert_array_equal(joined[..., 8:], h)
