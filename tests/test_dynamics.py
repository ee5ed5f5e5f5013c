import diffrax as dfx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from oracles import PUBLISHED

from sdejax import coordinates, dynamics, processes, truth
from sdejax.sde import diffusion

DIST = (
    [0.3, 0.7],
    [[1.5, -0.5], [-0.5, 0.8]],
    [[[0.3, 0.2], [0.2, 0.5]], [[0.6, 0.0], [0.0, 0.2]]],
)
X = np.asarray([[0.3, -0.4], [1.2, 1.0], [-2.0, 0.1]])
NOISES = {
    "none": dynamics.no_noise,
    "g": diffusion,
    "sigma": dynamics.sigma_noise,
    "half": lambda sde, t: 0.5 * diffusion(sde, t),
}


@pytest.fixture
def dist(x64):
    return truth.mixture(*(jnp.asarray(part) for part in DIST))


@pytest.mark.parametrize("name", ["vp", "ve", "rectified_flow"])
def test_drifts_are_andersons_in_the_papers_form(name, dist):
    """w = 0 gives f x - g^2 score / 2, w = g gives f x - g^2 score."""
    sde = getattr(processes, name)()
    p, t = PUBLISHED[name], 0.4
    f, g = (float(k(np.longdouble(t))) for k in (p.f, p.g))
    denoiser = truth.denoiser(dist, sde)

    @jax.jit
    def three(x):
        score = jax.grad(lambda x: truth.log_prob(dist, sde, x, t))(x)
        ode = dynamics.velocity(sde, denoiser, x, t)
        return score, ode, dynamics.reverse_drift(sde, denoiser, x, t)

    for x in jnp.asarray(X):
        score, ode, reverse = three(x)
        np.testing.assert_allclose(ode, f * x - 0.5 * g**2 * score, rtol=1e-9)
        np.testing.assert_allclose(reverse, f * x - g**2 * score, rtol=1e-9)


@pytest.mark.parametrize("name", ["sub_vp", "rectified_flow"])
def test_every_noise_has_the_same_marginals(name, dist):
    """The Fokker-Planck equation of the reverse process, by automatic derivatives.

    With tau = -t and b the drift in tau: -d log p/dt = -div b - b . s + w^2 (div s + |s|^2)/2.
    """
    sde = getattr(processes, name)()
    denoiser = truth.denoiser(dist, sde)

    def residual(x, t, noise):
        def b(x):
            return -dynamics.reverse_drift(sde, denoiser, x, t, noise)

        def score(x):
            return truth.score(dist, sde, x, t)

        def divergence(field):
            return jnp.trace(jax.jacfwd(field)(x))

        by_t = jax.grad(lambda t: truth.log_prob(dist, sde, x, t))(t)
        w = noise(sde, t)
        spread = 0.5 * w**2 * (divergence(score) + score(x) @ score(x))
        return -by_t - (-divergence(b) - b(x) @ score(x) + spread), jnp.abs(spread)

    def all_of(x):
        return {key: residual(x, jnp.asarray(0.35), noise) for key, noise in NOISES.items()}

    for key, (value, size) in jax.jit(jax.vmap(all_of))(jnp.asarray(X)).items():
        assert np.all(np.abs(value) <= 1e-10 * (1 + size)), key
        assert (key == "none") == np.all(size == 0), key


def test_noises_are_the_stated_functions(x64):
    sde = processes.rectified_flow()
    assert dynamics.no_noise(sde, 0.3) == 0.0
    np.testing.assert_allclose(dynamics.sigma_noise(sde, 0.3), np.sqrt(0.6), rtol=1e-12)
    np.testing.assert_allclose(dynamics.sigma_noise(sde, 1.0), np.sqrt(2.0), rtol=1e-12)


def test_terms_run_in_t_and_in_reversed_time(dist):
    sde = processes.vp()
    denoiser = truth.denoiser(dist, sde)
    x, t = jnp.asarray(X[1]), jnp.asarray(0.3)
    ode = dynamics.ode_term(sde, denoiser)
    np.testing.assert_array_equal(ode.vf(t, x, None), dynamics.velocity(sde, denoiser, x, t))
    path = dfx.UnsafeBrownianPath(jax.ShapeDtypeStruct((2,), x.dtype), jax.random.key(0))
    drift, noise = dynamics.sde_term(sde, denoiser, diffusion, path).terms
    tau = jnp.asarray(0.7)
    expected = -dynamics.reverse_drift(sde, denoiser, x, t)
    np.testing.assert_allclose(drift.vf(tau, x, None), expected, rtol=1e-12)
    operator = noise.vf(tau, x, None)
    assert isinstance(operator, lx.DiagonalLinearOperator)
    np.testing.assert_allclose(
        operator.mv(jnp.asarray([1.0, 2.0])), diffusion(sde, t) * jnp.asarray([1.0, 2.0])
    )


def test_an_infinite_noise_is_refused_by_name():
    sde = processes.rectified_flow()
    with pytest.raises(ValueError, match=r"noise 'diffusion': got w\(1.0\) = inf for Rectified"):
        dynamics.require_finite_noise(diffusion, sde, 1.0)
    dynamics.require_finite_noise(dynamics.sigma_noise, sde, 1.0)
    dynamics.require_finite_noise(diffusion, processes.rectified_flow(t_max=0.99), 0.99)


def test_terms_in_data_coordinates_are_stochastic_localisation(dist):
    """y = x alpha/sigma^2 over rho = SNR: dy = x0 drho + dW, and dy/dR = x0 for the ODE."""
    sde = processes.edm()
    denoiser = truth.denoiser(dist, sde)
    x, t = jnp.asarray(X[1]), 0.5
    x0 = denoiser(x, jnp.asarray(t)).x0
    path = dfx.UnsafeBrownianPath(jax.ShapeDtypeStruct((2,), x.dtype), jax.random.key(0))
    terms = dynamics.sde_term(sde, denoiser, diffusion, path, coordinates.data).terms
    y, rho = x / t**2, jnp.asarray(t**-2)
    np.testing.assert_allclose(terms[0].vf(rho, y, None), x0, rtol=1e-12)
    np.testing.assert_array_equal(terms[1].vf(rho, y, None).mv(x), x)
    ode = dynamics.ode_term(sde, denoiser, coordinates.data)
    np.testing.assert_allclose(ode.vf(jnp.asarray(1 / t), x / t, None), x0, rtol=1e-12)


def test_a_noise_is_refused_where_coordinates_have_no_closed_form_for_it():
    for each in coordinates.ALL:
        dynamics.require_noise(each, diffusion)
    dynamics.require_noise(coordinates.noise, dynamics.sigma_noise)
    with pytest.raises(ValueError, match="'log_data': got noise 'no_noise'; their closed form"):
        dynamics.require_noise(coordinates.log_data, dynamics.no_noise)
