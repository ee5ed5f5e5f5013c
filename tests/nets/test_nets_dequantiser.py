import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdejax.nets.dequantiser import NoiseConditioner, init_noise_network, noise_network

KEY = jax.random.key(0)
SHAPES = [(5,), (6, 4, 3), (4, 2), ()]


def inputs(shape):
    keys = jax.random.split(KEY, 2)
    x, context = (jax.random.normal(key, shape) for key in keys)
    return x, context, jnp.ones(shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_zero_before_training_and_every_input_matters_after(shape):
    module = NoiseConditioner(8)
    (params, other) = init_noise_network(KEY, module, shape, 2)
    assert not np.array_equal(params["hidden_0"]["kernel"], other["hidden_0"]["kernel"])
    apply, args = noise_network(module), inputs(shape)
    for output in apply(params, *args):
        assert output.shape == shape
        np.testing.assert_array_equal(output, 0.0)
    params["out"]["kernel"] += jax.random.normal(KEY, params["out"]["kernel"].shape)
    before = apply(params, *args)
    for i in range(3):
        changed = [arg + 1.0 if i == j else arg for j, arg in enumerate(args)]
        after = apply(params, *changed)
        for a, b in zip(before, after, strict=True):
            assert np.any(np.asarray(a) != np.asarray(b))
    gradients = jax.grad(lambda p: sum(jnp.sum(o**2) for o in apply(p, *args)))(params)
    assert all(np.any(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(gradients))


def test_an_image_is_convolved_and_a_batch_is_the_examples():
    """A shift of the image shifts the output, away from the border; images do not mix."""
    module, shape = NoiseConditioner(4, depth=2), (12, 12, 1)
    (params,) = init_noise_network(KEY, module, shape, 1)
    params["out"]["kernel"] += jax.random.normal(KEY, params["out"]["kernel"].shape)
    apply, args = noise_network(module), inputs(shape)
    plain, _ = apply(params, *args)
    shifted, _ = apply(params, *(jnp.roll(arg, 1, axis=0) for arg in args))
    np.testing.assert_allclose(shifted[5:8], plain[4:7], rtol=1e-4, atol=1e-5)
    batch = [jnp.stack([arg, 2 * arg]) for arg in args]
    together = module.apply({"params": params}, *batch)[0]
    np.testing.assert_allclose(together[0], plain, rtol=1e-4, atol=1e-5)
    each = jax.jit(jax.vmap(apply, (None, 0, 0, 0)))(params, *batch)[0]
    np.testing.assert_allclose(each, together, rtol=1e-4, atol=1e-5)


def test_the_output_has_the_type_of_x():
    module = NoiseConditioner(4, dtype=jnp.bfloat16)
    (params,) = init_noise_network(KEY, module, (5,), 1)
    assert params["hidden_0"]["kernel"].dtype == jnp.float32
    assert all(o.dtype == jnp.float32 for o in noise_network(module)(params, *inputs((5,))))
