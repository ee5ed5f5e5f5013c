"""The log-density of the model against closed forms: Gaussian data, mixtures, both directions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import PREDICTIONS, PROCESSES, PUBLISHED, plane
from stats import assert_mean

from sdejax import coordinates, prediction, processes, truth
from sdejax.conditioning import raw_time
from sdejax.denoiser import make_denoiser, make_model, no_scaling
from sdejax.divergence import exact, hutchinson, hutchpp, orthogonal
from sdejax.likelihood import log_likelihood, sample_and_log_prob
from sdejax.samplers.base import NOT_FINITE
from sdejax.sde import coefficients, prior_log_prob, prior_sample

KEY = jax.random.key(0)
MEAN, STDS = np.asarray([1.0, -2.0, 0.5]), np.asarray([0.2, 1.5, 0.6])
ROTATION = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
INDEX = list(PREDICTIONS).index
TIGHT = {"tolerance": 1e-10, "divergence": exact()}


def gaussian():
    return truth.gaussian(jnp.asarray(MEAN), jnp.asarray((ROTATION * STDS**2) @ ROTATION.T))


def closed_form(name, x, t_max):
    """log-density of the model and the prior's mismatch, in NumPy: each axis of S is scaled."""
    p = PUBLISHED[name]

    def at(t):
        t = np.longdouble(t)
        alpha, sigma = float(p.alpha(t)), float(p.sigma(t))
        return alpha * MEAN @ ROTATION, np.sqrt(alpha**2 * STDS**2 + sigma**2)

    (m0, s0), (m1, s1) = at(p.t_min), at(t_max)
    z = (np.asarray(x) @ ROTATION - m0) / s0
    latent = m1 + s1 * z

    def log_normal(y, mean, std):
        return np.sum(-0.5 * ((y - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi), -1)

    log_p = log_normal(latent, 0.0, p.prior_std) + np.sum(np.log(s1 / s0))
    mismatch = log_normal(latent, 0.0, p.prior_std) - log_normal(latent, m1, s1)
    return log_p, mismatch, latent @ ROTATION.T


def one_of(index):
    """The prediction type of a number, which may be traced: one compilation serves all types."""

    def chosen(c):
        pairs = [kind(c) for kind in PREDICTIONS.values()]
        a, b = (jnp.stack([jnp.asarray(pair[half]) for pair in pairs])[index] for half in (0, 1))
        return a, b

    return chosen


@functools.cache
def by_networks(name, t_max):
    """(numbers of prediction types, points) -> reports, of networks with the exact output."""
    sde = PROCESSES[name](t_max=t_max) if name == "rectified_flow" else PROCESSES[name]()
    dist = gaussian()

    def one(index, x):
        output = one_of(index)

        def apply_fn(params, x, t, cond):
            return prediction.encode(output, coefficients(sde, t), truth.estimate(dist, sde, x, t))

        model = make_model(
            apply_fn, output, batched=False, conditioning=raw_time, scaling=no_scaling
        )
        return log_likelihood(KEY, sde, make_denoiser(model, None, sde), x, **TIGHT)

    return jax.jit(jax.vmap(jax.vmap(one, in_axes=(None, 0)), in_axes=(0, None)))


@pytest.mark.parametrize("name", PROCESSES)
def test_gaussian_data_for_every_prediction_to_a_millionth_of_a_nat(name, x64):
    # eps and score networks have no x0 where alpha = 0.
    t_max = 0.97 if name == "rectified_flow" else float(PUBLISHED[name].t_max)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3)) + MEAN)
    log_p, mismatch, latent = closed_form(name, x, t_max)
    found = by_networks(name, t_max)(jnp.arange(len(PREDICTIONS)), x)
    assert np.all(found.result == 0)
    for k, kind in enumerate(PREDICTIONS):
        np.testing.assert_allclose(found.log_p[k], log_p, rtol=0, atol=1e-6, err_msg=kind)
        np.testing.assert_allclose(found.latent[k], latent, rtol=1e-7, atol=1e-7, err_msg=kind)
    sde = PROCESSES[name]()
    log_data = jax.vmap(lambda x: truth.log_prob(gaussian(), sde, x, sde.t_min))(x)
    np.testing.assert_allclose(found.log_p[0] - log_data, mismatch, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.bits_per_dim[0], -log_p / (3 * np.log(2)), rtol=1e-6)
    np.testing.assert_allclose(found.prior + found.divergence + found.cutoff, found.log_p)


def test_the_straight_path_from_alpha_0(x64):
    """Velocity, x0, v and EDM networks serve the whole path, where t_max = 1 is pure noise."""
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3)))
    log_p, mismatch, _ = closed_form("rectified_flow", x, 1.0)
    np.testing.assert_allclose(mismatch, 0.0, atol=1e-12)
    kinds = ("velocity", "x0", "v", "edm", "eps", "score")
    found = by_networks("rectified_flow", 1.0)(jnp.asarray(list(map(INDEX, kinds))), x)
    np.testing.assert_allclose(found.log_p[:4], np.tile(log_p, (4, 1)), rtol=0, atol=1e-6)
    # eps and score networks do not know x0 there: a result code, and no number.
    assert np.all(found.result[4:] == NOT_FINITE)
    assert np.all(np.isnan(found.log_p[4:]))


@functools.cache
def solved():
    """A skewed mixture, points of it, and their latents by a method that shares no code."""
    sde, dist = processes.vp(), plane()
    x = jax.vmap(lambda k: truth.sample_at(k, dist, sde, sde.t_min))(jax.random.split(KEY, 8))
    ts = jnp.asarray([sde.t_min, sde.t_max])
    denoiser = truth.denoiser(dist, sde)
    latent = jax.jit(jax.vmap(lambda x: truth.reference(sde, denoiser, x, ts)[-1]))(x)
    log_p = jax.jit(
        jax.vmap(
            lambda x, z: (
                truth.log_prob(dist, sde, x, sde.t_min)
                - truth.log_prob(dist, sde, z, sde.t_max)
                + prior_log_prob(sde, z)
            )
        )
    )(x, latent)
    return sde, denoiser, x, latent, log_p


@pytest.fixture
def mixture(x64):
    return solved()


def test_a_mixture_in_every_coordinate(mixture):
    sde, denoiser, x, latent, log_p = mixture
    for each in coordinates.ALL:
        found = jax.jit(
            jax.vmap(
                lambda x, each=each: log_likelihood(
                    KEY, sde, denoiser, x, coordinates=each, sigma_data=0.8, **TIGHT
                )
            )
        )(x)
        np.testing.assert_allclose(found.log_p, log_p, rtol=0, atol=1e-6, err_msg=each.name)
        np.testing.assert_allclose(found.latent, latent, rtol=0, atol=1e-6, err_msg=each.name)


def test_what_is_taken_for_the_width_of_the_data_changes_no_density(mixture):
    sde, denoiser, x, _, log_p = mixture
    for width in (0.1, 3.0):
        found = jax.jit(
            jax.vmap(
                lambda x, w=width: log_likelihood(KEY, sde, denoiser, x, sigma_data=w, **TIGHT)
            )
        )(x)
        np.testing.assert_allclose(found.log_p, log_p, rtol=0, atol=1e-6)


def test_with_the_exact_prior_it_is_the_density_of_the_noised_data(mixture):
    sde, denoiser, x, _, _ = mixture
    dist = plane()

    def one(x):
        return log_likelihood(
            KEY, sde, denoiser, x, prior=lambda z: truth.log_prob(dist, sde, z, sde.t_max), **TIGHT
        )

    exact_density = jax.vmap(lambda x: truth.log_prob(dist, sde, x, sde.t_min))(x)
    np.testing.assert_allclose(jax.jit(jax.vmap(one))(x).log_p, exact_density, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "method", [exact(), hutchinson(2), orthogonal(2), hutchpp(3)],
    ids=["exact", "hutchinson", "orthogonal", "hutchpp"],
)  # fmt: skip
def test_a_sample_and_its_density_in_one_solve_agree_with_the_way_back(method, mixture):
    sde, denoiser, _, _, _ = mixture
    options = {"divergence": method, "tolerance": 1e-8}
    keys = jax.random.split(jax.random.key(5), 4)
    latent = jax.vmap(lambda k: prior_sample(k, sde, (2,)))(keys)

    @jax.jit
    @jax.vmap
    def both_ways(key, latent):
        x, there = sample_and_log_prob(key, sde, denoiser, latent, **options)
        return there, log_likelihood(key, sde, denoiser, x, **options)

    there, back = both_ways(keys, latent)
    np.testing.assert_allclose(back.latent, latent, rtol=0, atol=1e-6)
    np.testing.assert_allclose(back.log_p, there.log_p, rtol=0, atol=1e-6)
    np.testing.assert_allclose(there.latent, latent)
    np.testing.assert_allclose(back.standard_error, there.standard_error, atol=1e-6)


def test_probes_are_right_in_the_mean_and_say_how_far_off_they_are(x64):
    """Over many probes: the mean is the exact log-density, the spread is the reported error."""
    sde, dist = processes.edm(0.05, 20.0), truth.problems.cloud(6)
    denoiser, x = truth.denoiser(dist, sde), truth.sample_at(KEY, dist, processes.edm(), 0.05)
    true = jax.jit(lambda x: log_likelihood(KEY, sde, denoiser, x, divergence=exact()).log_p)(x)
    keys = jax.random.split(KEY, 400)
    for method in (hutchinson(4), orthogonal(4)):
        found = jax.jit(
            jax.vmap(lambda k, m=method: log_likelihood(k, sde, denoiser, x, divergence=m))
        )(keys)
        assert_mean(found.log_p, true)
        assert np.std(found.log_p) > 0.01
        assert_mean((found.log_p - true) ** 2 - found.standard_error**2, 0.0)


def test_jit_vmap_and_single_calls_agree_in_float32(strict):
    sde, dist = processes.ve(), truth.problems.cloud(5)
    dist = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), dist)
    denoiser = truth.denoiser(dist, sde)
    keys = jax.random.split(KEY, 3)
    x = jax.vmap(lambda k: truth.sample(k, dist))(keys)

    def one(key, x):
        return log_likelihood(key, sde, denoiser, x, divergence=hutchinson(2))

    batch = jax.jit(jax.vmap(one))(keys, x)
    assert batch.log_p.dtype == jnp.float32
    jitted = jax.jit(one)
    for i, single in enumerate((one, jitted, jitted)):
        found = single(keys[i], x[i]).log_p
        np.testing.assert_allclose(found, batch.log_p[i], rtol=1e-4, atol=1e-3)
    with jax.enable_x64(True):
        tight = jax.jit(jax.vmap(lambda x: log_likelihood(KEY, sde, denoiser, x, **TIGHT)))
        wide = tight(x.astype(jnp.float64))
    plain = jax.jit(jax.vmap(lambda k, x: log_likelihood(k, sde, denoiser, x)))(keys, x)
    np.testing.assert_allclose(plain.log_p, wide.log_p, atol=2e-3)


def test_the_gradient_by_x_is_the_score_of_the_model(x64):
    """Gaussian data, exact p_T as prior: grad log p is the score of p_tmin."""
    sde, dist = processes.vp(), gaussian()
    denoiser = truth.denoiser(dist, sde)

    def log_p(x):
        return log_likelihood(
            KEY, sde, denoiser, x, prior=lambda z: truth.log_prob(dist, sde, z, sde.t_max), **TIGHT
        ).log_p

    x = jnp.asarray([0.3, -1.0, 1.0])
    expected = truth.score(dist, sde, x, sde.t_min)
    np.testing.assert_allclose(jax.jit(jax.grad(log_p))(x), expected, rtol=1e-6)


def test_an_example_that_is_not_finite_has_a_code_and_costs_no_more_than_another():
    sde, dist = processes.edm(0.05, 20.0), truth.problems.g2()
    run = jax.jit(lambda x: log_likelihood(KEY, sde, truth.denoiser(dist, sde), x))
    good = run(jnp.asarray([0.5, 0.1]))
    for value in (jnp.nan, jnp.inf):
        found = run(jnp.asarray([0.5, value]))
        assert found.result == NOT_FINITE
        assert jnp.isnan(found.log_p)
        assert found.nfe < 3 * good.nfe


def test_options_that_are_none_are_named():
    sde, x = processes.vp(), jnp.ones(2)
    denoiser = truth.denoiser(truth.problems.g2(), sde)
    with pytest.raises(ValueError, match=r"no option 'tol'; the options are \['divergence'"):
        log_likelihood(KEY, sde, denoiser, x, tol=1e-3)
    with pytest.raises(ValueError, match=r"divergence: got .exact.; expected e\.g\."):
        log_likelihood(KEY, sde, denoiser, x, divergence="exact")
