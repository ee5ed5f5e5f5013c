import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import PREDICTIONS, PROCESSES, interior

from sdejax import prediction, processes
from sdejax.prediction import Estimate, decode, encode, replace_x0, to_score, to_velocity
from sdejax.sde import coefficients, diffusion, drift, perturb

PAIR = np.random.default_rng(0).normal(size=(2, 9)) * np.asarray([[0.7], [1.0]])


def round_trip(c, pair):
    """Per prediction type: the decoded pair and the rows (a, b)."""
    exact = Estimate(*pair)
    x = c.alpha * exact.x0 + c.sigma * exact.eps
    return {
        name: (decode(kind, c, x, encode(kind, c, exact)), jnp.stack(kind(c)))
        for name, kind in PREDICTIONS.items()
    }


round_trips = jax.jit(jax.vmap(round_trip, in_axes=(0, None)))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", PROCESSES)
def test_decode_inverts_encode(name, dtype, x64):
    sde = PROCESSES[name]()
    ts = interior(name, 15)[:28]
    ts = jnp.asarray(np.append(ts, sde.t_max), dtype)
    pair = jnp.asarray(PAIR, dtype)
    c = jax.jit(jax.vmap(lambda t: coefficients(sde, t)))(ts)
    for kind, (decoded, rows) in round_trips(c, pair).items():
        system = np.stack([np.stack([c.alpha, c.sigma], axis=1), rows], axis=1).astype(float)
        regular = np.abs(np.linalg.det(system)) > 0
        assert regular.sum() >= len(ts) - (kind in ("eps", "score") and name == "rectified_flow")
        # Rows scaled to length one: a network's unit of output is not the system's condition.
        scaled = system[regular] / np.linalg.norm(system[regular], axis=-1, keepdims=True)
        condition = np.linalg.cond(scaled)
        error = np.stack([decoded.x0, decoded.eps], axis=1)[regular] - np.asarray(pair)
        error = np.linalg.norm(error, axis=1) / np.linalg.norm(pair, axis=0)
        bound = 64 * np.finfo(dtype).eps * condition
        assert error.dtype == dtype
        assert np.all(error.max(axis=1) <= bound), (kind, (error.max(axis=1) / bound).max())


@pytest.mark.parametrize("kind", ["eps", "score"])
def test_at_alpha_0_the_noise_is_exact_and_the_data_lost(kind, strict):
    sde, kind = processes.rectified_flow(), PREDICTIONS[kind]
    c = coefficients(sde, 1.0)
    pair = Estimate(*jnp.asarray(PAIR, jnp.float32))
    decoded = decode(kind, c, perturb(sde, *pair, 1.0), encode(kind, c, pair))
    np.testing.assert_array_equal(decoded.eps, pair.eps)
    assert np.all(np.isnan(decoded.x0))


@pytest.mark.parametrize("kind", ["x0", "score"])
def test_at_sigma_0_the_data_is_exact_and_the_noise_lost(kind, strict):
    sde, kind = processes.rectified_flow(), PREDICTIONS[kind]
    c = coefficients(sde, 0.0)
    pair = Estimate(*jnp.asarray(PAIR, jnp.float32))
    decoded = decode(kind, c, perturb(sde, *pair, 0.0), encode(kind, c, pair))
    np.testing.assert_array_equal(decoded.x0, pair.x0)
    assert np.all(np.isnan(decoded.eps))


@pytest.mark.parametrize("kind", ["v", "velocity", "edm"])
@pytest.mark.parametrize("t", [0.0, 1.0])
def test_v_velocity_and_edm_are_regular_at_both_ends(kind, t, strict):
    sde, kind = processes.rectified_flow(), PREDICTIONS[kind]
    c = coefficients(sde, t)
    pair = Estimate(*jnp.asarray(PAIR, jnp.float32))
    decoded = decode(kind, c, perturb(sde, *pair, t), encode(kind, c, pair))
    np.testing.assert_allclose(decoded.x0, pair.x0, atol=2e-6)
    np.testing.assert_allclose(decoded.eps, pair.eps, atol=2e-6)


@pytest.mark.parametrize(
    ("kind", "sde", "t"),
    [
        ("eps", processes.rectified_flow(), 1.0),
        ("score", processes.rectified_flow(), 1.0),
        ("x0", processes.rectified_flow(), 0.0),
        ("score", processes.vp(), 0.0),
        ("velocity", processes.vp(), 0.0),
        ("x0", processes.edm(), 0.0),
    ],
)
def test_singular_ends_are_refused_by_name(kind, sde, t):
    with pytest.raises(ValueError, match=rf"prediction '{kind}': got t={t} with alpha="):
        prediction.require_decodable(PREDICTIONS[kind], sde, t)


@pytest.mark.parametrize("name", PROCESSES)
def test_regular_starts_are_let_through(name):
    sde = PROCESSES[name]()
    for kind in PREDICTIONS:
        if not (name == "rectified_flow" and kind in ("eps", "score")):
            prediction.require_decodable(PREDICTIONS[kind], sde, sde.t_max)


def test_the_rows_are_those_of_the_papers(x64):
    """Each output from its paper's own expression, at a time where nothing vanishes."""
    sde, t = processes.vp(), jnp.asarray(0.3)
    c = coefficients(sde, t)
    pair = Estimate(*jnp.asarray(PAIR))
    x = perturb(sde, *pair, t)
    alpha, sigma = float(c.alpha), float(c.sigma)
    score = -(x - alpha * pair.x0) / sigma**2  # grad_x log N(x; alpha x0, sigma^2)
    beta = 0.1 + 19.9 * 0.3
    data = 0.7
    noise = sigma / alpha  # EDM's sigma, for the input x / alpha
    skip, out = data**2 / (noise**2 + data**2), noise * data / np.hypot(noise, data)
    expected = {
        "x0": pair.x0,
        "eps": pair.eps,
        "score": score,
        "v": alpha * pair.eps - sigma * pair.x0,
        "velocity": -0.5 * beta * x - 0.5 * beta * score,
        "edm": (pair.x0 - skip * x / alpha) / out,
    }
    for name, kind in PREDICTIONS.items():
        np.testing.assert_allclose(encode(kind, c, pair), expected[name], rtol=1e-10)


@pytest.mark.parametrize("name", ["sub_vp", "cosine", "edm", "rectified_flow"])
def test_velocity_is_the_probability_flow_of_the_score(name, x64):
    sde = PROCESSES[name]()
    ts = jnp.asarray(interior(name, 6))
    pair = Estimate(*jnp.asarray(PAIR))

    def sides(t):
        c, x = coefficients(sde, t), perturb(sde, *pair, t)
        flow = drift(sde, x, t) - 0.5 * diffusion(sde, t) ** 2 * to_score(pair, c)
        return to_velocity(pair, c), flow, jnp.abs(drift(sde, x, t))

    velocity, flow, size = jax.jit(jax.vmap(sides))(ts)
    assert np.all(np.abs(velocity - flow) <= 1e-12 * (np.abs(velocity) + size))


def test_a_replaced_x0_keeps_the_decomposition(strict):
    sde, low, high = processes.vp(), -0.5, 0.4
    pair = Estimate(*jnp.asarray(PAIR, jnp.float32))
    inside = (np.asarray(pair.x0) >= low) & (np.asarray(pair.x0) <= high)
    assert inside.any()
    assert not inside.all()
    clip = jax.jit(lambda c, x: replace_x0(pair, c, x, jnp.clip(pair.x0, low, high)))
    for t in (1e-3, 0.3, 1.0):
        c, x = coefficients(sde, t), perturb(sde, *pair, t)
        out = clip(c, x)
        np.testing.assert_array_equal(out.x0, np.clip(pair.x0, low, high))
        np.testing.assert_allclose(c.alpha * out.x0 + c.sigma * out.eps, x, atol=5e-7)
        np.testing.assert_array_equal(out.eps[inside], pair.eps[inside])
        assert np.all(out.eps[~inside] != pair.eps[~inside])


def test_replacing_x0_at_sigma_0_leaves_eps(strict):
    sde = processes.rectified_flow()
    pair = Estimate(*jnp.asarray(PAIR, jnp.float32))
    inside = jnp.clip(pair.x0, -0.1, 0.1)
    out = replace_x0(pair, coefficients(sde, 0.0), pair.x0, inside)
    np.testing.assert_array_equal(out.eps, pair.eps)
    assert np.abs(out.x0).max() == np.float32(0.1)


def test_edm_refuses_a_scale_that_is_not_positive():
    with pytest.raises(ValueError, match=r"sigma_data=0\.0; expected a positive"):
        prediction.edm(0.0)
