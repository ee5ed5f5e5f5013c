import jax
import jax.numpy as jnp
import numpy as np
from stats import assert_mean, assert_moments

from sdejax import processes, times
from sdejax.losses.draws import make_draw

KEY, N = jax.random.key(0), 8192
SDE = processes.vp()


def drawn(n=N, **options):
    draw = make_draw(n, times.objective(times.uniform(SDE)), **options)
    x0, label = jnp.zeros((n, 2)), jnp.full((n,), 3)
    return jax.jit(jax.vmap(draw, in_axes=(None, 0, 0, 0)))(KEY, x0, jnp.arange(n), label)


def test_noise_is_normal_and_times_are_stratified(strict):
    out = drawn()
    assert_moments(np.asarray(out.eps).ravel(), 0.0, 1.0, 0.0)
    assert abs(np.corrcoef(np.asarray(out.eps).T)[0, 1]) < 5 / np.sqrt(N)
    place = (np.asarray(out.t, float) - SDE.t_min) / (SDE.t_max - SDE.t_min) * N
    np.testing.assert_allclose(np.diff(np.sort(place)), 1.0, atol=0.02)
    keys = np.asarray(jax.random.key_data(out.key))
    assert len(np.unique(keys, axis=0)) == N


def test_draws_of_an_example_depend_on_its_place_alone(strict):
    draw = make_draw(64, times.objective(times.uniform(SDE)))
    whole = jax.vmap(draw, in_axes=(None, 0, 0, None))(KEY, jnp.ones((64, 2)), jnp.arange(64), None)
    alone = draw(KEY, jnp.ones(2), 37, None)
    np.testing.assert_array_equal(whole.eps[37], alone.eps)
    np.testing.assert_allclose(whole.t[37], alone.t, atol=1e-6)
    other = draw(jax.random.key(1), jnp.ones(2), 37, None)
    assert np.all(other.eps != alone.eps)
    assert other.t != alone.t


def test_labels_are_dropped_as_often_as_asked_for():
    assert np.all(np.asarray(drawn(64).label) == 3)
    dropped = np.asarray(drawn(label_drop=0.2, null_label=7).label == 7, float)
    assert_mean(dropped, 0.2)


def test_the_gradient_does_not_pass_through_the_time(strict):
    def time(beta_max):
        sde = processes.VP(beta_max=beta_max, t_max=beta_max / 20.0)
        return make_draw(4, times.objective(times.uniform(sde)))(KEY, jnp.ones(2), 1, None).t

    assert jax.grad(time)(20.0) == 0.0
