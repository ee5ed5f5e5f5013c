"""The Brownian motion of fixed steps: moments, Levy areas, and the same noise however it is run."""

from itertools import pairwise

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stats import assert_mean

from sdejax.samplers.brownian import GridPath

US = jnp.asarray([0.0, 0.1, 0.4, 0.5, 1.3])
COUNT = 8192


def path(key, area=dfx.SpaceTimeLevyArea):
    return GridPath(jax.ShapeDtypeStruct((), jnp.float32), area, US, key, US[0], US[-1])


def test_increments_and_areas_have_the_moments_of_brownian_motion():
    """Over a step of length h: Var W = h, Var H = h/12, Var K = h/720, all uncorrelated."""
    area = dfx.SpaceTimeTimeLevyArea

    def draw(key):
        steps = [path(key, area).evaluate(a, b, use_levy=True) for a, b in pairwise(US)]
        return tuple(jnp.stack([getattr(s, name) for s in steps]) for name in ("W", "H", "K"))

    w, h, k = jax.vmap(draw)(jax.random.split(jax.random.key(0), COUNT))
    lengths = np.diff(US)
    for found, variance in ((w, lengths), (h, lengths / 12), (k, lengths / 720)):
        unit = np.asarray(found) / np.sqrt(variance)
        assert_mean(unit, 0.0)
        assert_mean(unit**2, 1.0)
    # Neighbouring steps, and an increment and its area.
    assert_mean(w[:, :-1] * w[:, 1:] / np.sqrt(lengths[:-1] * lengths[1:]), 0.0)
    assert_mean(w * h / lengths, 0.0)


def test_rounding_of_the_times_changes_nothing_but_the_length():
    """diffrax's own path takes its key from the bits of the times."""
    exact = path(jax.random.key(3)).evaluate(US[1], US[2])
    nearby = path(jax.random.key(3)).evaluate(jnp.nextafter(US[1], jnp.inf), US[2])
    np.testing.assert_allclose(nearby, exact, rtol=1e-6)
    own = dfx.UnsafeBrownianPath(jax.ShapeDtypeStruct((), jnp.float32), jax.random.key(3))
    assert (
        abs(own.evaluate(jnp.nextafter(US[1], jnp.inf), US[2]) - own.evaluate(US[1], US[2])) > 1e-3
    )


@pytest.mark.parametrize("area", [dfx.BrownianIncrement, dfx.SpaceTimeLevyArea])
def test_jit_and_vmap_give_the_same_noise(area):
    keys = jax.random.split(jax.random.key(1), 3)
    draw = lambda key: path(key, area).evaluate(US[2], US[3])  # noqa: E731
    each = jnp.stack([draw(key) for key in keys])
    np.testing.assert_allclose(jax.jit(jax.vmap(draw))(keys), each, rtol=1e-6)
    assert len(set(np.asarray(each).tolist())) == 3
    steps = [path(keys[0], area).evaluate(a, b) for a, b in pairwise(US)]
    assert len({round(float(s), 6) for s in steps}) == 4
