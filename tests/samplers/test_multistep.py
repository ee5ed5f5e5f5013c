"""The table of a multistep method as it is run: which evaluation each weight meets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stats import assert_mean

from sdejax import processes
from sdejax.prediction import Estimate
from sdejax.samplers.base import sample
from sdejax.samplers.multistep import (
    HistoryRow,
    combine,
    multistep,
    require_order,
    rising_orders,
)

KEY = jax.random.key(0)
TS = [0.9, 0.7, 0.4, 0.2]
A = [0.5, -0.3, 0.8]
B = [[1.0, 0.0, 0.0], [2.0, -3.0, 0.0], [0.5, 0.25, -7.0]]


def table(d=None):
    def prepare(sde, ts):
        noise = None if d is None else jnp.full(3, d, ts.dtype)
        return HistoryRow(ts[:-1], jnp.asarray(A, ts.dtype), jnp.asarray(B, ts.dtype), noise)

    return multistep(prepare, lambda e: e.eps, 3)


def test_the_recurrence(x64):
    """Against the sum written out with every evaluation kept; nonlinear in x and in t."""

    def eps(x, t):
        return np.sin(3 * x) + t * x**2

    def denoiser(x, t):
        return Estimate(jnp.full_like(x, jnp.nan), jnp.sin(3 * x) + t * x**2)

    x = np.asarray([0.3, -1.1])
    out, stats = sample(
        KEY, table(), processes.vp(), denoiser, jnp.asarray(x), jnp.asarray(TS), denoise=False
    )
    found = []
    for i in range(3):
        found.append(eps(x, TS[i]))
        x = A[i] * x + sum(B[i][j] * found[i - j] for j in range(i + 1))
    np.testing.assert_allclose(out, x, rtol=1e-13)
    assert stats.nfe == 3


def test_noise_is_fresh_at_every_step():
    """Of unit steps: variance sum_i (prod_{k>i} a_k)^2 d^2, and independent examples."""

    def denoiser(x, t):
        return Estimate(jnp.zeros_like(x), jnp.zeros_like(x))

    @jax.jit
    @jax.vmap
    def draw(key):
        zero = jnp.zeros(2)
        ts = jnp.asarray(TS)
        return sample(key, table(0.7), processes.vp(), denoiser, zero, ts, denoise=False)[0]

    x = np.asarray(draw(jax.random.split(KEY, 4096)))
    gains = [A[1] * A[2], A[2], 1.0]
    variance = 0.49 * sum(gain**2 for gain in gains)
    assert_mean(x, np.zeros(2))
    assert_mean(x**2, np.full(2, variance))
    assert_mean(x[:, 0] * x[:, 1], 0.0)
    assert_mean(x[1:] * x[:-1], np.zeros(2))


def test_combine_and_rising_orders(x64):
    values = (jnp.asarray([1.0, 2.0]), jnp.asarray([10.0, -1.0]))
    np.testing.assert_allclose(combine(jnp.asarray([0.5, 2.0]), values), [20.5, -1.0])
    np.testing.assert_array_equal(rising_orders(5, 3), [1, 2, 3, 3, 3])
    np.testing.assert_array_equal(rising_orders(2, 4), [1, 2])


@pytest.mark.parametrize("order", [0, 4, -1])
def test_orders_that_do_not_exist_are_refused(order):
    require_order("method", 1, 3)
    require_order("method", 3, 3)
    with pytest.raises(ValueError, match=f"method: got order={order}; expected 1 to 3"):
        require_order("method", order, 3)
