"""The U-Net's contracts: shapes, conditioning, types, memory, and what it refuses.

That its numbers are those of the published networks is tested in test_published.py.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import jit, random_params

from sdejax.nets.unet import UNet, geometric_levels

SMALL = {
    "nf": 8,
    "ch_mult": (1, 2),
    "num_res_blocks": 1,
    "attn_resolutions": (4,),
}
VARIANTS = {
    "ddpm": {"resblock_type": "ddpm", "skip_rescale": False, "group_size": 1},
    "ddpm, plain resampling": {"resblock_type": "ddpm", "resamp_with_conv": False},
    "ddpm, fir": {"resblock_type": "ddpm", "fir": True},
    "ncsnpp": {"fir": True, "progressive_input": "residual", "embedding_type": "fourier"},
    "skip": {"fir": True, "progressive_input": "input_skip", "progressive": "output_skip"},
    "skip, cat": {"progressive_input": "input_skip", "progressive_combine": "cat"},
    "residual": {"fir": True, "progressive": "residual", "progressive_input": "residual"},
    "unconditional": {"conditional": False},
}
X = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
T = jnp.array([0.3, 7.0])


@functools.cache
def built(**kwargs):
    """A small network, its parameters and its compiled function of (params, x, t)."""
    net = UNet(**{**SMALL, **kwargs})
    return net, random_params(net, X, T), jit(net.apply)


@pytest.mark.parametrize("name", ["ddpm", "ncsnpp", "skip, cat", "residual"])
def test_all_parameters_and_inputs_have_finite_gradients_that_are_not_zero(name):
    net, params, _ = built(**VARIANTS[name])
    weight = jax.random.normal(jax.random.key(2), X.shape)

    @jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def grad(p, x):
        return (net.apply(p, x, T) * weight).sum()

    by_params, by_x = grad(params, X)
    assert np.isfinite(by_x).all()
    assert np.abs(by_x).max() > 1e-3
    for path, g in jax.tree_util.tree_flatten_with_path(by_params)[0]:
        name = jax.tree_util.keystr(path)
        assert np.isfinite(g).all(), name
        # frequencies are fixed, and softmax does not see a bias of the keys
        still = name.endswith("['W']") or "['NIN_1']['bias']" in name
        assert still or np.abs(g).max() > 1e-7, name


def convolutions(jaxpr):
    """All convolutions in a jaxpr, those of inner jaxprs included."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "conv_general_dilated":
            yield eqn
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from convolutions(inner)


@pytest.mark.parametrize("switches", VARIANTS.values(), ids=VARIANTS)
def test_no_convolution_is_transposed_or_grouped(switches):
    net, params, _ = built(**switches)
    found = list(convolutions(jax.make_jaxpr(net.apply)(params, X, T).jaxpr))
    assert len(found) >= 10
    for eqn in found:
        assert eqn.params["lhs_dilation"] == (1, 1)
        assert eqn.params["feature_group_count"] == 1


def test_an_untrained_published_network_returns_zero():
    net = UNet(**{**SMALL, "ch_mult": (1,), "attn_resolutions": ()})
    out, _ = jit(net.init_with_output)(jax.random.key(0), X, T)
    np.testing.assert_array_equal(out, 0)


def test_time_reaches_the_output_unless_unconditional():
    _, params, apply = built()
    assert (jnp.abs(apply(params, X, T) - apply(params, X, T + 1)).max((1, 2, 3)) > 1e-3).all()
    _, params, apply = built(conditional=False)
    np.testing.assert_array_equal(apply(params, X, T), apply(params, X, T + 1))


@pytest.mark.parametrize("conditional", [True, False])
def test_labels_reach_the_output_and_none_is_the_null_label(conditional):
    _, params, apply = built(num_classes=10, conditional=conditional)
    outs = [apply(params, X, T, jnp.full(2, label)) for label in (0, 9, 10)]
    for one, two in [(0, 1), (0, 2), (1, 2)]:
        assert (jnp.abs(outs[one] - outs[two]).max((1, 2, 3)) > 1e-2).all()
    np.testing.assert_array_equal(outs[2], apply(params, X, T))
    mixed = apply(params, X, T, jnp.array([0, 10]))
    np.testing.assert_allclose(mixed, jnp.stack([outs[0][0], outs[2][1]]), atol=1e-6)


def test_dropout_follows_its_rng_and_is_off_in_evaluation():
    net, params, apply = built(dropout=0.5)
    _, _, without = built(dropout=0.0)

    @jit
    def draw(k):
        return net.apply(params, X, T, train=True, rngs={"dropout": jax.random.key(k)})

    assert jnp.abs(draw(1) - draw(2)).max() > 1e-2
    np.testing.assert_array_equal(draw(1), draw(1))
    np.testing.assert_array_equal(apply(params, X, T), without(params, X, T))


def test_bfloat16_computes_in_bfloat16_from_float32_parameters():
    net, params, apply = built(dtype=jnp.bfloat16)
    _, _, full = built()
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    got, want = apply(params, X, T), full(params, X, T)
    assert got.dtype == X.dtype
    assert apply(params, X.astype(jnp.bfloat16), T).dtype == jnp.bfloat16
    gap = jnp.abs(got - want).max() / jnp.abs(want).max()
    assert 1e-4 < gap < 0.05
    jaxpr = jax.make_jaxpr(net.apply)(params, X, T).jaxpr
    assert {eqn.outvars[0].aval.dtype for eqn in convolutions(jaxpr)} == {jnp.dtype("bfloat16")}


def test_remat_changes_neither_value_nor_gradient():
    net, params, _ = built(dropout=0.3, ch_mult=(1,), attn_resolutions=())
    again = net.clone(remat=True)

    def loss(net, p):
        out = net.apply(p, X, T, train=True, rngs={"dropout": jax.random.key(5)})
        return (out * X).sum()

    plain = jit(jax.value_and_grad(functools.partial(loss, net)))(params)
    remat = jit(jax.value_and_grad(functools.partial(loss, again)))(params)
    scale = max(jnp.abs(g).max() for g in jax.tree.leaves(plain[1]))
    np.testing.assert_allclose(plain[0], remat[0], rtol=1e-4)
    for one, two in zip(*map(jax.tree.leaves, (plain[1], remat[1])), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5 * scale)
    stored, recomputed = (
        len(list(convolutions(jax.make_jaxpr(jax.grad(functools.partial(loss, n)))(params).jaxpr)))
        for n in (net, again)
    )
    assert recomputed == stored + 5  # the first convolution of each of five blocks
    shapes = jax.eval_shape(again.init, jax.random.key(0), X, T)
    assert jax.tree.structure(shapes) == jax.tree.structure(params)


def test_vmap_over_single_examples_equals_a_batch(strict):
    net, params, apply = built()
    one = jit(jax.vmap(lambda x, t: net.apply(params, x[None], t[None])[0]))
    np.testing.assert_allclose(one(X, T), apply(params, X, T), atol=2e-5)


@pytest.mark.parametrize(
    ("shape", "kwargs"),
    [
        ((3, 8, 8, 1), {"ch_mult": (1, 2, 2, 2)}),
        ((1, 4, 12, 2), {}),
        ((1, 8, 8, 5), {"out_channels": 2}),
        ((1, 8, 8, 3), {"nf": 6, "ch_mult": (1, 3)}),
    ],
)
def test_images_of_other_shapes(shape, kwargs):
    net = UNet(**{**SMALL, **kwargs})
    x, t = jnp.ones(shape), jnp.ones(shape[0])
    out = jax.eval_shape(lambda k: net.init_with_output(k, x, t)[0], jax.random.key(0))
    assert out.shape == (*shape[:3], net.out_channels or shape[3])


def test_uncentred_data_are_centred_inside():
    _, params, apply = built()
    _, _, uncentred = built(centered=False)
    np.testing.assert_allclose(uncentred(params, (X + 1) / 2, T), apply(params, X, T), atol=2e-5)


def test_division_by_sigma():
    fourier = {"embedding_type": "fourier"}
    _, params, apply = built(**fourier)
    _, _, scaled = built(**fourier, scale_by_sigma=True)
    want = apply(params, X, T) / T[:, None, None, None]
    np.testing.assert_allclose(scaled(params, X, T), want, rtol=1e-5, atol=1e-6)
    _, params, apply = built()
    _, _, scaled = built(scale_by_sigma=True, sigma_levels=(0.1, 10.0, 3))
    levels = jnp.array([0.0, 2.0])
    want = apply(params, X, levels) / jnp.array([10.0, 0.1])[:, None, None, None]
    np.testing.assert_allclose(scaled(params, X, levels), want, rtol=1e-5)
    np.testing.assert_allclose(geometric_levels(0.1, 10.0, 3), [10, 1, 0.1])


def test_fourier_labels_may_be_logarithms_already():
    _, params, apply = built(embedding_type="fourier")
    _, _, logs = built(embedding_type="fourier", fourier_log=False)
    np.testing.assert_allclose(logs(params, X, jnp.log(T)), apply(params, X, T), atol=1e-5)


def test_attention_is_placed_by_the_configured_size():
    net = UNet(**{**SMALL, "image_size": 4})
    params = jax.eval_shape(net.init, jax.random.key(0), X, T)["params"]
    assert {name for name in params if "attn" in name} == {
        "down_0_attn_0",
        "mid_attn",
        "up_0_attn",
    }


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"ch_mult": (1,) * 5}, "x: got images of 8x8, expected sides divisible by 16"),
        ({"resblock_type": "plain"}, "resblock_type: got 'plain', expected one of 'ddpm'"),
        ({"embedding_type": "sine"}, "embedding_type: got 'sine'"),
        ({"progressive": "input_skip"}, "progressive: got 'input_skip'"),
        ({"progressive_input": "skip"}, "progressive_input: got 'skip'"),
        ({"progressive_combine": "add"}, "progressive_combine: got 'add'"),
        ({"scale_by_sigma": True}, "sigma_levels: got None"),
        (
            {"scale_by_sigma": True, "embedding_type": "fourier", "fourier_log": False},
            "sigma_levels: got None",
        ),
    ],
)
def test_misuse_is_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        UNet(**{**SMALL, **kwargs}).init(jax.random.key(0), X, T)


def test_labels_without_classes_are_refused():
    with pytest.raises(ValueError, match=r"cond: .*num_classes"):
        UNet(**SMALL).init(jax.random.key(0), X, T, jnp.zeros(2, jnp.int32))
