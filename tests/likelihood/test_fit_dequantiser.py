import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdejax.likelihood.dequantisation import discrete_bound, variational
from sdejax.likelihood.fit_dequantiser import fit_dequantiser, load_noise, save_noise
from sdejax.likelihood.quantisation import quantisation
from sdejax.nets.dequantiser import NoiseConditioner, init_noise_network, noise_network

KEY = jax.random.key(0)
Q = quantisation(3.5, 3.5, 8)
RATE = 14.0
MODULE = NoiseConditioner(8, depth=1)
DEQUANTISER, LAYERS = variational(noise_network(MODULE), 8, 2), 2
DATA = np.random.default_rng(0).integers(0, 8, (256, 2)).astype(np.uint8)


def density(key, y):
    """Exponential in both entries, so the best noise is a truncated exponential."""
    return jnp.sum(jnp.log(RATE) - RATE * (y + 2.0))


def start():
    return init_noise_network(KEY, MODULE, (2,), LAYERS)


def fit(params, density=density, train=DATA[:192], held_out=DATA[192:], **options):
    options = {"iterations": 300, "batch": 64, "learning_rate": 2e-2, "checks": 6} | options
    return fit_dequantiser(KEY, DEQUANTISER, params, density, Q, train, held_out, **options)


@pytest.fixture(scope="module")
def fitted():
    return fit(start())


def test_it_closes_most_of_the_gap_in_closed_form(fitted):
    """Uniform noise loses s/2 + log((1 - e^-s)/s) nats an entry, s = RATE/3.5 the fall of a bin.

    The sum over data is exact: log P(k) of an exponential, and the middle of the bin.
    """
    params, history = fitted
    s = RATE / 3.5
    gap = s / 2 + np.log((1 - np.exp(-s)) / s)
    low = DATA[192:].astype(float)
    exact = -np.mean(RATE * ((low - 4) / 3.5 + 2) - np.log(1 - np.exp(-s))) / -np.log(2)
    assert history.step.tolist() == [0, 50, 100, 150, 200, 250, 300]
    assert np.isnan(history.training[0])
    assert np.all(np.isfinite(history.training[1:]))
    error = s * 64**-0.5 * 2**-0.5 / 12**0.5 / np.log(2)  # of a mean over 64 draws of two entries
    assert abs(history.held_out[0] - (exact + gap / np.log(2))) < 5 * error
    assert abs(history.held_out[-1] - exact) < 0.1 * gap / np.log(2)
    keys = jax.random.split(jax.random.key(5), 4000)
    ks = jnp.asarray(DATA[np.arange(4000) % 64 + 192].astype(np.int32))

    def bits(key, k):
        return discrete_bound(key, density, Q, k, dequantiser=DEQUANTISER, params=params)

    found = np.asarray(jax.jit(jax.vmap(bits))(keys, ks).bits_per_dim)
    each = (RATE * ((np.asarray(ks) - 4) / 3.5 + 2) - np.log(1 - np.exp(-s))).mean(1) / np.log(2)
    lost = found - each
    assert -5 * lost.std() / 4000**0.5 < lost.mean() < 0.05 * gap / np.log(2)


def test_a_fit_is_its_key_and_returns_the_best(fitted):
    again, history = fit(start())
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(fitted[0]), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(history.held_out, fitted[1].held_out)
    params, history = fit(fitted[0], learning_rate=3.0, iterations=12, checks=3)
    assert np.min(history.held_out[1:]) > history.held_out[0]  # steps that are far too long
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(fitted[0]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_partial_is_an_argument_and_rows_may_be_lazy():
    calls = []

    def scaled(scale, key, y):
        calls.append(scale)
        return -jnp.sum(scale * y)

    class Rows:
        """A column that is only indexed."""

        def __len__(self):
            return 50

        def __getitem__(self, rows):
            return DATA[rows]

    _, history = fit(
        start(), jax.tree_util.Partial(scaled, jnp.ones(2)), Rows(), Rows(), iterations=2, checks=9
    )
    assert history.step.tolist() == [0, 1, 2]
    assert all(isinstance(scale, jax.core.Tracer) for scale in calls)


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(ValueError, match=r"got 8 at \[0, 0\]; expected integers 0 .. 7"):
        fit(start(), held_out=np.full((3, 2), 8))
    with pytest.raises(ValueError, match=r"got 9 at \[.*\]; expected integers 0 .. 7"):
        fit(start(), train=np.full((3, 2), 9))
    with pytest.raises(ValueError, match="0 examples and 64 held out"):
        fit(start(), train=DATA[:0])
    with pytest.raises(ValueError, match="iterations=0"):
        fit(start(), iterations=0)
    with pytest.raises(FloatingPointError, match="nan after 0 steps; is the density finite"):
        fit(start(), lambda key, y: jnp.nan * jnp.sum(y))


def test_parameters_are_saved_and_read_again(tmp_path, fitted):
    path = tmp_path / "noise"
    about = {"levels": 8, "event_shape": [2], "layers": LAYERS}
    save_noise(path, fitted[0], about)
    params, said = load_noise(path)
    assert said == about
    assert jax.tree.structure(params) == jax.tree.structure(fitted[0])
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(fitted[0]), strict=True):
        np.testing.assert_array_equal(a, b)
    (tmp_path / "text").write_text("no arrays")
    with pytest.raises(ValueError, match="text: no dequantiser"):
        load_noise(tmp_path / "text")
    np.savez(tmp_path / "other.npz", ts=np.zeros(3))
    with pytest.raises(ValueError, match=r"other.npz: no dequantiser .*about"):
        load_noise(tmp_path / "other.npz")
    with pytest.raises(FileNotFoundError):
        load_noise(tmp_path / "nothing")
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, fitted[0])
    save_noise(path, broken)
    with pytest.raises(ValueError, match="not finite"):
        load_noise(path)
