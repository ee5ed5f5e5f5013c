"""The numbers that tell a network the noise level."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import PROCESSES

from sdejax import grids, processes
from sdejax.conditioning import (
    level_index,
    log_noise,
    nearest_level,
    noise_level,
    raw_time,
    scaled_time,
)
from sdejax.times import levels as levels_of


def test_conditioning_is_finite_where_alpha_is_0():
    sde = processes.rectified_flow()
    assert log_noise(sde, 1.0) == 5.0
    assert log_noise(sde, 0.0) == -5.0
    np.testing.assert_allclose(log_noise(sde, 0.2), np.log(0.25) / 4, rtol=1e-6)
    np.testing.assert_allclose(log_noise(processes.edm(), 80.0), np.log(80) / 4, rtol=1e-6)
    assert raw_time(sde, 0.25) == 0.25
    assert scaled_time(999.0)(sde, 0.5) == 499.5
    assert noise_level(processes.edm(), 3.0) == 3.0


@pytest.mark.parametrize("name", ["ve", "vp", "edm"])
def test_the_index_of_a_level_counts_from_the_largest_and_rounds(name):
    """Times of the grid get 0, 1, 2, ...; a time between two gets the nearer one."""
    sde, levels = PROCESSES[name](), 22
    index = jax.vmap(lambda t: level_index(levels)(sde, t))
    ts = grids.uniform(sde, levels - 1)
    np.testing.assert_array_equal(index(ts), np.arange(levels))
    np.testing.assert_array_equal(index(0.6 * ts[:-1] + 0.4 * ts[1:]), np.arange(levels - 1))
    np.testing.assert_array_equal(index(0.4 * ts[:-1] + 0.6 * ts[1:]), np.arange(1, levels))
    beyond = index(jnp.asarray([0.5 * sde.t_min, 1.1 * sde.t_max]))  # the losses ask beyond t_min
    np.testing.assert_array_equal(beyond, [levels - 1, 0])
    trained = jax.vmap(levels_of(sde, levels).quantile)((jnp.arange(levels) + 0.5) / levels)
    np.testing.assert_array_equal(index(trained), np.arange(levels)[::-1])


def test_the_nearest_level_is_one_of_a_geometric_table():
    """Under VE with t_min = 0 the levels are those of a published table, largest first."""
    sde, table = processes.ve(0.01, 50.0, t_min=0.0), np.geomspace(50.0, 0.01, 232)
    t = jnp.asarray(np.random.default_rng(0).uniform(size=500), jnp.float32)
    index = jax.vmap(lambda t: level_index(232)(sde, t))(t)
    sigma = jax.vmap(lambda t: nearest_level(232)(sde, t))(t)
    np.testing.assert_allclose(sigma, table[np.asarray(index, int)], rtol=2e-6)
    gap = np.abs(np.log(np.asarray(jax.vmap(sde.sigma)(t)) / sigma))
    assert gap.max() <= 0.5 * np.log(table[0] / table[1]) * (1 + 1e-3)


@pytest.mark.parametrize("make", [level_index, nearest_level])
def test_levels_are_at_least_two(make):
    with pytest.raises(ValueError, match=f"{make.__name__}: got levels=1"):
        make(1)
