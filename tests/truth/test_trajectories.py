"""Reference trajectories against closed forms and against SciPy's own solver."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from sdejax import processes, truth

SLOW = pytest.mark.slow
SDES = {
    "vp": processes.vp(),
    "edm": processes.edm(),
    "rectified_flow": processes.rectified_flow(),
    "ve": processes.ve(),
}
MEAN, COV = np.asarray([1.0, -2.0]), np.asarray([[0.3, 0.2], [0.2, 0.5]])


def ends(sde):
    return jnp.asarray(np.geomspace(sde.t_max, sde.t_min, 4))


@pytest.mark.parametrize(
    "name", [n if n in ("edm", "rectified_flow") else pytest.param(n, marks=SLOW) for n in SDES]
)
def test_a_gaussian_follows_its_exact_flow(name):
    """In float64 although the session is in float32, there and back."""
    sde = SDES[name]
    with jax.enable_x64(True):
        dist = truth.gaussian(jnp.asarray(MEAN), jnp.asarray(COV))
        z, ts = jnp.asarray([0.7, -1.2]), ends(sde)
        exact = jax.vmap(lambda t: truth.gaussian_flow(dist, sde, z, t))(ts)
    run = jax.jit(lambda x, ts: truth.reference(sde, truth.denoiser(dist, sde), x, ts))
    with jax.enable_x64(True):
        found, back = run(exact[0], ts), run(exact[-1], ts[::-1])
    assert found.dtype == jnp.float64
    np.testing.assert_allclose(found, exact, rtol=1e-10, atol=1e-10)
    # The way back spreads errors as it spreads states: 5e-3 apart at the data, 100 at the noise.
    np.testing.assert_allclose(back[::-1], exact, rtol=1e-9, atol=1e-8)


def test_a_mixture_follows_scipys_solution():
    """Both in float64; the oracle has its own velocity, from densities written in NumPy."""
    weights, means, floors = np.asarray([0.3, 0.7]), np.asarray([[1.5, -0.5], [-0.5, 0.8]]), 0.2
    sde = processes.rectified_flow(t_min=0.01)

    def velocity(t, x):
        m, v = (1 - t) * means, ((1 - t) * floors) ** 2 + t**2
        log_p = np.log(weights) - ((x - m) ** 2).sum(axis=1) / (2 * v)
        share = np.exp(log_p - log_p.max())
        share /= share.sum()
        x0 = share @ (means + (1 - t) * floors**2 / v * (x - m))
        return (x - x0) / t  # eps - x0 with x = (1 - t) x0 + t eps

    start, ts = np.asarray([0.4, -0.9]), np.asarray([1.0, 0.5, 0.01])
    oracle = scipy.integrate.solve_ivp(
        velocity, (1.0, 0.01), start, method="DOP853", rtol=1e-13, atol=1e-14, t_eval=ts
    )
    with jax.enable_x64(True):
        dist = truth.isotropic(*map(jnp.asarray, (weights, means, np.full(2, floors))))
        start, ts = jnp.asarray(start), jnp.asarray(ts)
    found = truth.reference(sde, truth.denoiser(dist, sde), start, ts)
    assert found.shape == (3, 2)
    np.testing.assert_allclose(found, oracle.y.T, rtol=1e-10, atol=1e-10)


def test_float32_in_and_a_batch(strict):
    """As users call it: float32 states and process, batched and jitted, answers in float64."""
    sde = processes.edm()
    dist = truth.gaussian(jnp.asarray(MEAN, jnp.float32), jnp.asarray(COV, jnp.float32))
    z = jax.random.normal(jax.random.key(0), (3, 2))
    ts = jnp.asarray([80.0, 1.0, 0.002])
    x = jax.vmap(lambda z: truth.gaussian_flow(dist, sde, z, ts[0]))(z)
    found = jax.jit(jax.vmap(lambda x: truth.reference(sde, truth.denoiser(dist, sde), x, ts)))(x)
    assert found.dtype == jnp.float64
    exact = jax.vmap(lambda z: truth.gaussian_flow(dist, sde, z, ts[-1]))(z)
    np.testing.assert_allclose(found[:, -1], exact, rtol=1e-4, atol=1e-4)


def test_a_failed_solve_is_nan_from_there_on():
    sde = processes.edm()
    dist = truth.gaussian(jnp.asarray(MEAN), jnp.asarray(COV))
    x, ts = jnp.asarray([3.0, -4.0]), jnp.asarray([1.0, 0.999, 0.01])
    found = truth.reference(sde, truth.denoiser(dist, sde), x, ts, max_steps=4)
    assert np.all(np.isfinite(found[:2]))
    assert np.all(np.isnan(found[2]))
