"""How distributions are made: moments, the empirical measure, shapes, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from sdejax import processes, truth
from sdejax.samplers import ddim, sample
from sdejax.sde import coefficients

SDE = processes.vp(t_min=1e-3)
POINTS = np.random.default_rng(0).normal(size=(11, 3, 2)) * 0.6


def test_mean_covariance_and_sigma_data_are_the_moments(x64):
    rng = np.random.default_rng(1)
    weights, means = np.asarray([0.2, 0.5, 0.3]), rng.normal(size=(3, 2, 3))
    factors, floors = rng.normal(size=(3, 2, 3, 2)), np.asarray([0.1, 0.4, 0.7])
    dist = truth.low_rank(*map(jnp.asarray, (weights, means, factors, floors)))
    flat, m = factors.reshape(3, 6, 2), means.reshape(3, 6)
    second = np.einsum("k,kir,kjr->ij", weights, flat, flat) + weights @ floors**2 * np.eye(6)
    second += np.einsum("k,ki,kj->ij", weights, m, m)
    cov = second - np.outer(weights @ m, weights @ m)
    np.testing.assert_allclose(truth.mean(dist), (weights @ m).reshape(2, 3), rtol=1e-12)
    np.testing.assert_allclose(truth.covariance(dist), cov, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(truth.sigma_data(dist), np.sqrt(np.trace(cov) / 6), rtol=1e-12)


def memorised(x, t):
    """The posterior mean of the empirical measure, by SciPy."""
    c = coefficients(SDE, t)
    square = ((x - float(c.alpha) * POINTS) ** 2).sum(axis=(1, 2))
    share = scipy.special.softmax(-square / (2 * float(c.sigma) ** 2))
    log_p = scipy.special.logsumexp(-square / (2 * float(c.sigma) ** 2)) - np.log(len(POINTS))
    log_p -= 3 * np.log(2 * np.pi * float(c.sigma) ** 2)
    return np.einsum("n,nij->ij", share, POINTS), log_p


@pytest.mark.parametrize("chunk", [None, 1, 4, 11, 50])
def test_the_empirical_measure_memorises_in_chunks_of_any_size(chunk, x64):
    """Eleven points: chunks of 4 leave a rest, and a chunk of 50 holds more than there are."""
    dist = truth.empirical(jnp.asarray(POINTS))
    x = np.random.default_rng(2).normal(size=(5, 3, 2))

    @jax.jit
    @jax.vmap
    def both(x):
        estimate = truth.estimate(dist, SDE, x, 0.2, chunk=chunk)
        return estimate, truth.log_prob(dist, SDE, x, 0.2, chunk=chunk)

    found, log_p = both(jnp.asarray(x))
    expected = [memorised(one, 0.2) for one in x]
    np.testing.assert_allclose(found.x0, [x0 for x0, _ in expected], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(log_p, [p for _, p in expected], rtol=1e-12)
    c = coefficients(SDE, 0.2)
    np.testing.assert_allclose(c.alpha * found.x0 + c.sigma * found.eps, x, rtol=1e-10, atol=1e-12)


def test_chunks_bound_the_memory():
    """Two thousand points of 2048 entries, a batch of 8: held at once they take 400 MB."""
    points = jnp.zeros((2000, 2048))
    x = jnp.ones((8, 2048))

    def size(chunk):
        def run(points, x):
            dist = truth.empirical(points)
            return jax.vmap(lambda x: truth.estimate(dist, SDE, x, 0.2, chunk=chunk).x0)(x)

        compiled = jax.jit(run).lower(points, x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert size(50) < 0.25 * size(None)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("chunk", [None, 4])
def test_the_limit_of_no_noise_is_the_nearest_point(chunk, dtype, x64):
    """sigma down to 0 itself, where every weight underflows but that of the nearest."""
    sde = processes.edm(1e-30, 80.0)
    dist = truth.empirical(jnp.asarray(POINTS, dtype))
    x = jnp.asarray(np.random.default_rng(3).normal(size=(6, 3, 2)), dtype)
    nearest = [np.argmin(((one - POINTS) ** 2).sum(axis=(1, 2))) for one in np.asarray(x)]
    run = jax.jit(
        jax.vmap(lambda x, t: truth.estimate(dist, sde, x, t, chunk=chunk), in_axes=(0, None))
    )
    for sigma in (1e-3, 1e-6, 1e-12, 1e-20, 0.0):
        found = run(x, jnp.asarray(sigma, dtype))
        assert found.x0.dtype == dtype
        np.testing.assert_array_equal(found.x0, POINTS[nearest].astype(dtype))
        assert np.all(np.isfinite(found.eps))
    np.testing.assert_array_equal(found.eps, 0.0)


def test_sampling_the_memorising_score_ends_on_a_point():
    dist = truth.empirical(jnp.asarray(POINTS, jnp.float32))
    sde = processes.edm(1e-3, 20.0)
    ts = jnp.geomspace(20.0, 1e-3, 41)

    def draw(key):
        x = 20.0 * jax.random.normal(key, (3, 2))
        return sample(key, ddim(), sde, truth.denoiser(dist, sde, chunk=4), x, ts)[0]

    x = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 16))
    distance = np.abs(np.asarray(x)[:, None] - POINTS[None]).max(axis=(2, 3))
    assert distance.min(axis=1).max() < 1e-5
    assert len(set(distance.argmin(axis=1))) > 3
    drawn = jax.vmap(lambda k: truth.sample(k, dist))(jax.random.split(jax.random.key(1), 50))
    assert np.all(
        (np.asarray(drawn)[:, None] == POINTS[None].astype(np.float32)).all((2, 3)).any(1)
    )


def test_images_are_vectors_in_another_shape(x64):
    rng = np.random.default_rng(4)
    parts = np.ones(2), rng.normal(size=(2, 12)), rng.normal(size=(2, 12, 3)), np.full(2, 0.3)
    flat = truth.low_rank(*map(jnp.asarray, parts))
    images = truth.reshaped(flat, (2, 3, 2))
    x = jnp.asarray(rng.normal(size=(2, 3, 2)))
    key, sde = jax.random.key(0), processes.vp()
    as_image, as_vector = jax.jit(
        lambda x: [
            (
                truth.estimate(dist, sde, y, 0.3),
                truth.score(dist, sde, y, 0.3),
                truth.velocity(dist, sde, y, 0.3),
                truth.sample(key, dist),
                truth.sample_at(key, dist, sde, 0.3),
                truth.mean(dist),
            )
            for dist, y in ((images, x), (flat, x.ravel()))
        ]
    )(x)
    for one, other in zip(jax.tree.leaves(as_image), jax.tree.leaves(as_vector), strict=True):
        assert one.shape == (2, 3, 2)
        np.testing.assert_allclose(one.ravel(), other, rtol=1e-12)
    own = truth.low_rank(
        jnp.asarray(parts[0]), images.means, jnp.asarray(parts[2].reshape(2, 2, 3, 2, 3)),
        jnp.asarray(parts[3]),
    )  # fmt: skip
    np.testing.assert_allclose(truth.covariance(own), truth.covariance(flat), rtol=1e-10)
    single = jax.tree.map(lambda leaf: leaf[:1], images)
    moved = truth.gaussian_flow(single, sde, x, 0.3)
    assert moved.shape == x.shape


def test_a_degenerate_covariance_is_finite_without_noise(x64):
    """A Gaussian on a line in the plane, at sigma = 0: x0 is the state, on the line."""
    dist = truth.gaussian(jnp.asarray([1.0, 1.0]), jnp.asarray([[1.0, 1.0], [1.0, 1.0]]))
    x = jnp.asarray([0.25, 0.25])
    found = truth.estimate(dist, processes.edm(), x, 0.0)
    np.testing.assert_allclose(found.x0, x, rtol=1e-12)
    assert np.all(np.isfinite(found.eps))


def test_misuse_is_refused_by_name():
    ones, means = jnp.ones(2), jnp.zeros((2, 3))
    with pytest.raises(ValueError, match="weights: got"):
        truth.isotropic(jnp.asarray([1.0, -0.1]), means, ones)
    with pytest.raises(ValueError, match="weights: got"):
        truth.isotropic(jnp.zeros(2), means, ones)
    with pytest.raises(ValueError, match="4 columns in 3 dimensions"):
        truth.low_rank(ones, means, jnp.zeros((2, 3, 4)), ones)
    with pytest.raises(ValueError, match="got 0 points"):
        truth.empirical(jnp.zeros((0, 3)))
    with pytest.raises(ValueError, match=r"shape \(2, 2\) of 4 entries"):
        truth.reshaped(truth.isotropic(ones, means, ones), (2, 2))
    with pytest.raises(ValueError, match="chunk: got 0"):
        truth.log_prob(truth.isotropic(ones, means, ones), SDE, means[0], 0.5, chunk=0)


def test_shapes_that_do_not_fit_are_refused():
    means, eyes = jnp.zeros((3, 2)), jnp.stack([jnp.eye(2)] * 3)
    with pytest.raises(ValueError, match=r"weights of shape \(1,\) for means of shape \(3, 2\)"):
        raw(truth.mixture)(jnp.ones(1), means, eyes)
    with pytest.raises(ValueError, match=r"covs \(3, 3, 3\); expected \[k, d\] and \[k, d, d\]"):
        raw(truth.mixture)(jnp.ones(3), means, jnp.stack([jnp.eye(3)] * 3))
    with pytest.raises(ValueError, match="isotropic: got stds"):
        raw(truth.isotropic)(jnp.ones(3), means, jnp.ones(2))


def raw(function):
    """The function without the shape checks that only the tests switch on."""
    return getattr(function, "__wrapped__", function)
