import jax
import jax.numpy as jnp
import numpy as np
import optax

from sdejax.train.state import init_state


def test_a_fresh_state_keeps_the_average_in_buffers_of_its_own():
    params = {"p": jnp.asarray([1.0, -1.0, 0.5])}
    state = init_state(params, optax.sgd(0.1), jax.random.key(0))
    p, ema = state.params["p"], state.ema_params["p"]
    np.testing.assert_array_equal(p, ema)
    assert p.unsafe_buffer_pointer() != ema.unsafe_buffer_pointer()
    assert (int(state.step), int(state.skipped), int(state.bad_streak)) == (0, 0, 0)


def test_every_leaf_is_an_array_so_that_all_of_it_is_saved():
    state = init_state({"p": jnp.ones(3)}, optax.adam(0.1), jax.random.key(0))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
