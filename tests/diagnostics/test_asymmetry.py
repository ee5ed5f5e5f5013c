"""A Hessian is symmetric; a planted curl shows with the size it has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import COV, MIXTURE, assert_near, curled, draws, exact, gaussian, linear

from sdejax import diagnostics, processes, truth
from sdejax.diagnostics import asymmetry

TS = jnp.asarray([0.05, 0.3, 0.8])


def test_the_exact_score_is_a_gradient(x64):
    dist = MIXTURE()
    for sde in (processes.vp(), processes.ve()):
        x0, ts = draws(dist, 50), diagnostics.times(sde, 4)
        for probes in (None, 3):
            found = asymmetry(jax.random.key(1), exact(dist, sde), sde, x0, ts, probes=probes)
            assert np.max(found.ratio.value) < 1e-12
            assert np.all(found.antisymmetric.value < 1e-24 * found.symmetric.value)


def test_a_curl_has_its_size(x64):
    """sigma J = sigma (sigma V^-1 - sigma c R): the parts are known for a Gaussian."""
    sde, dist = processes.vp(), gaussian()
    found = asymmetry(jax.random.key(2), curled(dist, sde), sde, draws(dist, 8), TS.astype(float))
    for i, t in enumerate(TS):
        jacobian = float(sde.sigma(float(t))) * linear("curled", sde, float(t)).matrix
        skew, even = 0.5 * (jacobian - jacobian.T), 0.5 * (jacobian + jacobian.T)
        ratio = np.linalg.norm(skew) / np.linalg.norm(even)
        np.testing.assert_allclose(found.ratio.value[i], ratio, rtol=1e-6)
        np.testing.assert_allclose(found.antisymmetric.value[i], np.sum(skew**2) / 2, rtol=1e-6)
        np.testing.assert_allclose(found.symmetric.value[i], np.sum(even**2) / 2, rtol=1e-6)
    np.testing.assert_allclose(found.ratio.error, 0.0, atol=1e-8)  # the same for every x


@pytest.mark.parametrize("probes", [2, 5])
def test_probes_agree_with_all_directions(x64, probes):
    """On an image-shaped, skewed mixture with a curl between its first two entries."""
    sde = processes.vp()
    flat = truth.mixture(
        jnp.asarray([0.3, 0.7]),
        jnp.asarray([[1.0, -0.5, 0.3, 0.0], [-0.4, 0.6, 0.0, 0.2]]),
        jnp.stack([jnp.asarray(np.kron(np.eye(2), COV)), 0.4 * jnp.eye(4)]),
    )
    dist = truth.reshaped(flat, (2, 2, 1))
    plain, x0 = exact(dist, sde), draws(dist, 3000)

    def denoiser(x, t):
        """A field with a curl that depends on the place."""
        twist = 0.3 * jnp.stack([-x[0, 1], x[0, 0] ** 2])[None]
        pair = plain(x, t)
        return pair._replace(eps=pair.eps + jnp.concatenate([twist, 0 * twist]))

    args = denoiser, sde, x0, TS.astype(float)
    every = asymmetry(jax.random.key(3), *args)
    some = asymmetry(jax.random.key(3), *args, probes=probes)
    for name in ("antisymmetric", "symmetric", "ratio"):
        assert_near(getattr(some, name), getattr(every, name).value)
    assert np.all(some.ratio.error < 0.1 * every.ratio.value)


def test_misuse_is_named():
    with pytest.raises(ValueError, match="asymmetry: got probes=1; expected at least 2"):
        asymmetry(
            jax.random.key(0), lambda x, t: x, processes.vp(), jnp.zeros((3, 2)), TS, probes=1
        )
