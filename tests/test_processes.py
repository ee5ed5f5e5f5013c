import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import PROCESSES, PUBLISHED, interior

from sdejax import processes
from sdejax.sde import SDE, coefficients, diffusion, log_snr


@pytest.mark.parametrize("name", PROCESSES)
def test_alpha_and_sigma_are_accurate_in_float32(name):
    sde, published = PROCESSES[name](), PUBLISHED[name]
    # Training may start below t_min: sigma has to be right there too.
    early = np.geomspace(1e-3 * published.t_min, published.t_max, 4000)
    t = np.unique(np.concatenate([early, interior(name, 4000)]).astype(np.float32))
    both = jax.jit(jax.vmap(lambda sde, t: (sde.alpha(t), sde.sigma(t)), in_axes=(None, 0)))
    alpha, sigma = map(np.asarray, both(sde, jnp.asarray(t)))
    assert alpha.dtype == sigma.dtype == np.float32
    exact = t.astype(np.longdouble)
    expected = published.alpha(exact)
    seen = expected >= 1e-3
    relative = np.abs(alpha[seen] / expected[seen] - 1).max()
    assert relative <= 1e-6, relative
    relative = np.abs(sigma / published.sigma(exact) - 1).max()
    assert relative <= 1e-6, relative


@pytest.mark.parametrize("name", PROCESSES)
def test_alpha_and_sigma_in_float64(name, x64):
    sde, published = PROCESSES[name](), PUBLISHED[name]
    t = interior(name, 400)
    exact = t.astype(np.longdouble)
    alpha, sigma = jax.jit(jax.vmap(lambda t: (sde.alpha(t), sde.sigma(t))))(jnp.asarray(t))
    np.testing.assert_allclose(alpha, published.alpha(exact).astype(float), rtol=1e-13)
    np.testing.assert_allclose(sigma, published.sigma(exact).astype(float), rtol=1e-13)


@pytest.mark.parametrize("name", PROCESSES)
def test_ends_and_prior_are_the_published_ones(name):
    sde, published = PROCESSES[name](), PUBLISHED[name]
    assert (sde.t_min, sde.t_max) == (published.t_min, published.t_max)
    np.testing.assert_allclose(sde.prior_std, published.prior_std, rtol=1e-7)
    # The prior is close to the noise at t_max: its variance, and the signal that it forgets.
    c = coefficients(sde, sde.t_max)
    np.testing.assert_allclose(c.sigma, sde.prior_std, rtol=1e-4)
    assert c.alpha / c.sigma < 0.021


@pytest.mark.parametrize("name", PROCESSES)
def test_coefficients_are_finite_from_t_min_to_t_max_in_float32(name):
    sde = PROCESSES[name]()
    for t in (sde.t_min, sde.t_max):
        assert np.all(np.isfinite(np.asarray(coefficients(sde, t))))
        assert np.isfinite(diffusion(sde, t)) or (name, t) == ("rectified_flow", 1.0)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_closed_inverse_of_log_snr_is_that_by_bisection(name, x64):
    sde = PROCESSES[name]()
    ts = jnp.asarray(interior(name, 12))
    levels, slope = jax.jit(jax.vmap(jax.value_and_grad(lambda t: log_snr(sde, t))))(ts)

    def inverses(level):
        closed, inverse_slope = jax.value_and_grad(sde.time_of_log_snr)(level)
        return closed, inverse_slope, SDE.time_of_log_snr(sde, level)

    closed, inverse_slope, bisected = jax.jit(jax.vmap(inverses))(levels)
    # An inverse is as good as the level tells the time: eps |level| / |slope|.
    allowed = 64 * np.finfo(float).eps * (np.abs(levels / slope) + ts + 1 / np.abs(slope))
    assert np.all(np.abs(closed - ts) <= allowed)
    assert np.all(np.abs(bisected - ts) <= allowed)
    np.testing.assert_allclose(inverse_slope * slope, 1.0, rtol=1e-6)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_closed_inverse_of_log_snr_in_float32(name, strict):
    sde = PROCESSES[name]()
    ts = jnp.asarray(interior(name, 12, np.float32))
    levels, slope = jax.jit(jax.vmap(jax.value_and_grad(lambda t: log_snr(sde, t))))(ts)
    back = jax.jit(jax.vmap(sde.time_of_log_snr))(levels)
    allowed = 64 * np.finfo(np.float32).eps * (np.abs(levels / slope) + ts + 1 / np.abs(slope))
    assert np.all(np.abs(back - ts) <= allowed)


@pytest.mark.parametrize(
    ("factory", "wrong"),
    [
        (processes.vp, {"beta_min": 0.0}),
        (processes.vp, {"beta_min": 30.0}),
        (processes.vp, {"t_min": 0.0}),
        (processes.vp, {"beta_max": float("nan")}),
        (processes.sub_vp, {"beta_max": -1.0}),
        (processes.sub_vp, {"t_min": 2.0}),
        (processes.ve, {"sigma_min": 60.0}),
        (processes.ve, {"sigma_max": float("inf")}),
        (processes.cosine, {"t_max": 1.0}),
        (processes.cosine, {"shift": 0.0}),
        (processes.edm, {"sigma_min": 0.0}),
        (processes.edm, {"sigma_min": 80.0}),
        (processes.rectified_flow, {"t_max": 1.5}),
        (processes.rectified_flow, {"t_min": -0.1}),
    ],
)
def test_factories_name_the_wrong_argument_and_its_value(factory, wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=rf"{factory.__name__}: got .*{name}={value}.*; expected"):
        factory(**wrong)


def test_fields_reach_the_functions():
    """Every argument of a factory changes the process; a dropped one would not."""
    assert processes.vp(beta_min=1.0).alpha(0.5) != processes.vp().alpha(0.5)
    assert processes.sub_vp(beta_max=5.0).sigma(0.5) != processes.sub_vp().sigma(0.5)
    assert processes.ve(sigma_min=0.1).sigma(0.0) == np.float32(0.1)
    assert processes.cosine(shift=0.1).alpha(0.5) != processes.cosine().alpha(0.5)
    assert (processes.edm(0.1, 9.0).t_min, processes.edm(0.1, 9.0).t_max) == (0.1, 9.0)
