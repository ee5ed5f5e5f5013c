import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdejax.data import scaling as scalings
from sdejax.likelihood.quantisation import (
    Quantisation,
    bin_width,
    bits_per_dim,
    log_det,
    quantisation,
    require_levels,
    to_continuous,
    to_discrete,
)

CASES = {
    "8 bits": quantisation(127.5, 127.5, 256),
    "digits": quantisation((8.0,), (8.0,), 17),
    "a channel each": quantisation((3.0, -1.5, 0.0), (2.0, 0.25, 7.0), 8),
    "a mirror": quantisation(0.0, -4.0, 5),
    "one bit": quantisation(0.5, 0.5, 2),
}


def some(q, shape=(6, 4, 3), seed=0):
    rng = np.random.default_rng(seed)
    k = rng.integers(0, q.levels, shape)
    return jnp.asarray(k), jnp.asarray(rng.uniform(1e-6, 1 - 1e-6, shape))


@pytest.mark.parametrize("name", CASES)
def test_there_and_back_and_the_log_determinant(x64, name):
    q = CASES[name]
    k, u = some(q)
    back_k, back_u = to_discrete(q, to_continuous(q, k, u))
    np.testing.assert_array_equal(back_k, k)
    np.testing.assert_allclose(back_u, u, atol=1e-11)
    k, u = some(q, (2, 3))
    jacobian = jax.jacfwd(lambda u: to_continuous(q, k, u.reshape(2, 3)).ravel())(u.ravel())
    np.testing.assert_allclose(log_det(q, (2, 3)), np.linalg.slogdet(jacobian)[1], rtol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_the_middle_of_a_bin_is_what_networks_are_trained_on(name):
    q = CASES[name]
    k, _ = some(q)
    scaling = scalings.Scaling(
        tuple(np.atleast_1d(q.offset)), tuple(np.atleast_1d(q.scale)), q.levels
    )
    y = to_continuous(q, k, jnp.full(k.shape, 0.5))
    np.testing.assert_allclose(y, scalings.apply(scaling, np.asarray(k)), rtol=1e-6, atol=1e-6)
    ends = [to_continuous(q, k, jnp.full(k.shape, float(u))) for u in (0, 1)]
    widths = np.broadcast_to(bin_width(q), k.shape)
    np.testing.assert_allclose(np.abs(ends[1] - ends[0]), widths, rtol=1e-4)


def test_the_bins_tile_the_line_so_that_probabilities_add_up(x64):
    """A logistic density over y: masses of all bins by its distribution function, in closed form.

    The numbers integrate p(y(k, u)) |dy/du| over u, by Gauss and Legendre.
    """
    q = quantisation(3.0, 1.7, 8)
    nodes, weights = np.polynomial.legendre.leggauss(40)
    u, weights = jnp.asarray((nodes + 1) / 2), weights / 2

    def mass(k):
        y = to_continuous(q, jnp.full(u.shape, k), u)
        log_p = jax.nn.log_sigmoid(y) + jax.nn.log_sigmoid(-y) + log_det(q, ())
        return np.sum(weights * np.exp(np.asarray(log_p)))

    masses = [mass(k) for k in range(8)]
    edges = (np.arange(9) - 0.5 - 3.0) / 1.7
    np.testing.assert_allclose(masses, np.diff(1 / (1 + np.exp(-edges))), rtol=1e-12)


def test_bits_of_a_uniform_density_are_log2_of_the_levels(x64):
    """p = 1/(L w)^d over exactly the bins: log2 L bits an entry, for any scaling."""
    for q in CASES.values():
        shape = (4, 3)
        widths = np.broadcast_to(bin_width(q), shape)
        log_p = -np.sum(np.log(q.levels * widths)) + log_det(q, shape)
        # |dy/du| is a bin's width: P = p w, so the widths cancel.
        np.testing.assert_allclose(bits_per_dim(log_p, 12), np.log2(q.levels), rtol=1e-12)


def test_values_outside_and_fractions_are_refused_by_the_first_of_them():
    q = CASES["digits"]
    good = np.arange(16).reshape(2, 2, 4)
    for dtype in (np.uint8, np.int64, np.float32):
        got = require_levels(q, good.astype(dtype))
        assert got.dtype == np.int32
        np.testing.assert_array_equal(got, good)
    for value, said in [(17, "17"), (-1, "-1"), (2.5, "2.5"), (np.nan, "nan"), (np.inf, "inf")]:
        bad = good.astype(float)
        bad[1, 0, 2] = bad[1, 1, 3] = value
        with pytest.raises(ValueError, match=rf"got {said}.* at \[1, 0, 2\]; expected .*0 .. 16"):
            require_levels(q, bad)
    with pytest.raises(ValueError, match=r"got -0.5 at \[\]"):
        require_levels(q, -0.5)
    with pytest.raises(ValueError, match="dtype <U1"):
        require_levels(q, np.asarray(["a"]))


def test_scalings_that_describe_no_bins_are_refused():
    with pytest.raises(ValueError, match="levels: got None"):
        quantisation(0.0, 1.0, None)
    with pytest.raises(ValueError, match="levels: got 1"):
        quantisation(0.0, 1.0, 1)
    with pytest.raises(ValueError, match=r"scale: got \[1.0, 0.0\]; expected .* not 0"):
        quantisation(0.0, (1.0, 0.0), 4)
    with pytest.raises(ValueError, match="offset: got nan; expected finite numbers"):
        quantisation(np.nan, 1.0, 4)
    q = Quantisation((0.0, 1.0), 1.0, 4)
    with pytest.raises(ValueError, match=r"got \[2\] numbers for events of shape \[4, 3\]"):
        to_continuous(q, jnp.zeros((4, 3), int), jnp.zeros((4, 3)))


def test_float32_as_it_is_run(strict):
    """8 bits: the right bin unless u is within rounding of an edge; jit and vmap agree."""
    q = CASES["8 bits"]
    k, u = some(q, (64, 5))
    u = jnp.clip(u.astype(jnp.float32), 1e-3, 1 - 1e-3)
    y = jax.jit(jax.vmap(lambda k, u: to_continuous(q, k, u)))(k, u)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, to_continuous(q, k, u), rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(to_discrete(q, y)[0], k)
    np.testing.assert_allclose(log_det(q, (5,)), -5 * np.log(127.5), rtol=1e-6)
