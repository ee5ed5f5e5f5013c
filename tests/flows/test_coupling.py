import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdejax.flows.bijector import chain
from sdejax.flows.coupling import affine_coupling, checkerboard

KEY = jax.random.key(0)
SHAPES = [(5,), (3, 2, 2), (1,)]


def conditioner(params, x, cond):
    """One hidden layer over the whole event, conditioned on a number."""
    first, second = params
    h = jnp.tanh(first @ x.ravel() + cond)
    shift, raw = jnp.split(second @ h, 2)
    return shift.reshape(x.shape), raw.reshape(x.shape)


def params_of(key, shape, layers):
    size, keys = int(np.prod(shape)), jax.random.split(key, (layers, 2))
    return tuple(
        (jax.random.normal(a, (8, size)), jax.random.normal(b, (2 * size, 8))) for a, b in keys
    )


def flow_of(shape, layers=4):
    masks = [checkerboard(shape, i) for i in range(layers)]
    return chain(*(affine_coupling(mask, conditioner) for mask in masks))


@pytest.mark.parametrize("shape", SHAPES)
def test_log_determinant_and_inverse(x64, shape):
    flow, cond = flow_of(shape), jnp.full((8,), 0.3)
    params, x = params_of(KEY, shape, 4), jax.random.normal(KEY, shape)

    def forward(flat):
        y, log_det = flow.forward(params, flat.reshape(shape), cond)
        return y.ravel(), log_det

    jacobian, log_det = jax.jit(jax.jacfwd(forward, has_aux=True))(x.ravel())
    sign, expected = np.linalg.slogdet(np.asarray(jacobian))
    assert sign == 1.0
    assert abs(float(log_det)) > 0.1
    np.testing.assert_allclose(log_det, expected, rtol=1e-10)
    y, _ = flow.forward(params, x, cond)
    back, back_log_det = flow.inverse(params, y, cond)
    np.testing.assert_allclose(back, x, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(back_log_det, -log_det, rtol=1e-10)


def test_what_passes_passes_and_a_single_layer_does_what_its_formula_says(x64):
    mask = checkerboard((5,))
    np.testing.assert_array_equal(mask, [True, False, True, False, True])
    (params,), x, cond = params_of(KEY, (5,), 1), jax.random.normal(KEY, (5,)), jnp.zeros(8)
    y, _ = affine_coupling(mask, conditioner, bound=0.5).forward(params, x, cond)
    shift, raw = conditioner(params, jnp.where(mask, x, 0.0), cond)
    np.testing.assert_array_equal(y[mask], x[mask])
    scale = np.exp(0.5 * np.tanh(np.asarray(raw) / 0.5))
    np.testing.assert_allclose(y[~mask], (x * scale + shift)[~mask], rtol=1e-12)


def test_masks_of_two_parities_cover_every_entry():
    for shape in SHAPES:
        even, odd = checkerboard(shape, 0), checkerboard(shape, 1)
        assert even.shape == odd.shape == shape
        np.testing.assert_array_equal(even, ~odd)
    # Neighbours in the image, and the channels of a pixel, are on different sides.
    even = checkerboard((4, 4, 3))
    for axis in range(3):
        np.testing.assert_array_equal(np.diff(even.astype(int), axis=axis) != 0, True)


def test_zeros_are_the_identity_and_large_numbers_stay_finite(strict):
    flow, shape = flow_of((4,)), (4,)
    x = jnp.asarray([1.0, -3.0, 1e4, 0.2], jnp.float32)
    zeros = jax.tree.map(jnp.zeros_like, params_of(KEY, shape, 4))
    y, log_det = flow.forward(zeros, x, jnp.zeros(8))
    np.testing.assert_array_equal(y, x)
    assert float(log_det) == 0.0
    huge = jax.tree.map(lambda leaf: 1e6 * leaf, params_of(KEY, shape, 4))
    y, log_det = flow.forward(huge, x, jnp.zeros(8))
    assert bool(jnp.all(jnp.isfinite(y)))
    assert abs(float(log_det)) <= 4 * 2 * 2.0 + 1e-5


def test_a_batch_is_a_vmap_and_misuse_is_named():
    flow, shape = flow_of((3,)), (3,)
    params, xs = params_of(KEY, shape, 4), jax.random.normal(KEY, (6, 3))
    batch, log_dets = jax.jit(jax.vmap(flow.forward, (None, 0, None)))(params, xs, jnp.zeros(8))
    for x, y, log_det in zip(xs, batch, log_dets, strict=True):
        one, own = flow.forward(params, x, jnp.zeros(8))
        np.testing.assert_allclose(one, y, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(own, log_det, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"bound=0.0; expected a positive number"):
        affine_coupling(checkerboard((2,)), conditioner, bound=0.0)
