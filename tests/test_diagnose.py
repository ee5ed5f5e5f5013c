"""The diagnostics of a model: those of its denoiser, with the defects that were planted in it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdejax import diagnostics, processes, truth
from sdejax.build import Parts
from sdejax.conditioning import raw_time
from sdejax.denoiser import make_denoiser, make_model, no_scaling
from sdejax.diagnose import examine, table
from sdejax.prediction import encode, v
from sdejax.sde import coefficients

SDE = processes.vp()
CLASSES = [
    truth.isotropic(jnp.asarray([0.3, 0.7]), jnp.asarray([[a, 1.0], [-1.0, -a]]), jnp.full(2, 0.4))
    for a in (0.5, -2.0)
]


def parts_of(num_classes=None, shape=(2,)):
    """A batch-first network that is exact, but for a factor that is its parameter."""

    def network(params, x, t, cond):
        def one(x, t, k):
            pairs = [truth.estimate(dist, SDE, x.ravel(), t) for dist in CLASSES]
            pair = jax.tree.map(lambda a, b: jnp.where(k == 0, a, b), *pairs)
            c = coefficients(SDE, t)
            eps = params * pair.eps
            x0 = (x.ravel() - c.sigma * eps) / c.alpha
            return encode(v, c, pair._replace(x0=x0, eps=eps)).reshape(x.shape)

        return jax.vmap(one)(x, t, jnp.zeros_like(t) if cond is None else cond)

    model = make_model(network, v, batched=True, conditioning=raw_time, scaling=no_scaling)
    return Parts(SDE, model, None, shape, num_classes)


def data(labels):
    keys = jax.random.split(jax.random.key(0), len(labels))
    both = [np.asarray(jax.vmap(lambda key, d=d: truth.sample(key, d))(keys)) for d in CLASSES]
    return np.where(np.asarray(labels)[:, None] == 0, *both)


def test_a_factor_in_the_network_is_found():
    labels = np.arange(1500, dtype=np.int32) % 2
    found = examine(parts_of(2), 1.25, data(labels), labels, levels=4)
    slope = found.calibration.slope
    assert np.all(np.abs(slope.value - 0.8) < 5 * slope.error)
    assert slope.error[-1] < 1e-3  # towards the noise
    assert np.max(found.asymmetry.ratio.value) < 1e-4
    assert found.residual.scaled.value[-1] > 10 * found.residual.scaled.error[-1] > 0
    text = table(found)
    assert len(text.splitlines()) == 5
    assert f"{slope.value[2]:.3g} +- {slope.error[2]:.1g}" in text


def test_it_is_that_of_the_denoiser_and_class_matters():
    labels = np.zeros(300, np.int32)
    x = data(labels)
    found = examine(parts_of(2), 1.0, x, labels, levels=3, seed=7)
    alone = diagnostics.calibration(
        jax.random.split(jax.random.key(7), 4)[0], truth.denoiser(CLASSES[0], SDE), SDE,
        jnp.asarray(x), diagnostics.times(SDE, 3),
    )  # fmt: skip
    for a, b in ((found.calibration.slope, alone.slope), (found.calibration.mse, alone.mse)):
        np.testing.assert_allclose(a.value, b.value, rtol=2e-3, atol=1e-4)
    wrong = examine(parts_of(2), 1.0, x, labels + 1, levels=3, seed=7)
    assert wrong.calibration.mse.value[1] > 1.2 * found.calibration.mse.value[1]
    assert abs(wrong.calibration.gap.value[1]) > 10 * wrong.calibration.gap.error[1]


def test_larger_events_take_probes():
    """32 entries: all directions would be a thousand tangents of tangents; 4 probes are few."""
    parts = parts_of()

    def wide(params, x, t, cond):
        return jax.vmap(lambda y, t: y * jnp.cos(t))(x.reshape(len(x), -1), t).reshape(x.shape)

    model = make_model(wide, v, batched=True, conditioning=raw_time, scaling=no_scaling)
    parts = parts._replace(model=model, event_shape=(4, 4, 2))
    x = np.random.default_rng(0).standard_normal((20, 4, 4, 2)).astype(np.float32)
    found = examine(parts, None, x, levels=2, chunk=7)
    assert np.max(found.asymmetry.ratio.value) < 1e-5
    assert found.stein.gap.value.shape == (2,)
    assert np.all(np.isfinite(found.residual.scaled.value))
    pair = make_denoiser(model, None, SDE)(jnp.asarray(x[0]), 0.5)
    assert pair.eps.shape == (4, 4, 2)


def test_misuse_is_named():
    x = data(np.zeros(4, np.int32))
    with pytest.raises(ValueError, match=r"x: got examples of shape \[1\]; expected \[2\]"):
        examine(parts_of(), 1.0, x[:, :1])
    with pytest.raises(ValueError, match="labels: got none, but the model has 2 classes"):
        examine(parts_of(2), 1.0, x)
    with pytest.raises(ValueError, match="labels: got some, but the model has no classes"):
        examine(parts_of(), 1.0, x, np.zeros(4, np.int32))
    with pytest.raises(ValueError, match="probes=1; expected at least 2"):
        examine(parts_of(), 1.0, x, probes=1)
