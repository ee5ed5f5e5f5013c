"""Densities on the line against closed forms: orders in space and time, the mass, the sign."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import PROCESSES, skewed
from stats import slope

from sdejax import fokker_planck, processes, truth
from sdejax.dynamics import no_noise
from sdejax.fokker_planck import Process, cells, central, forward, reverse

FIXED = ("process", "steps", "theta", "flux")
solve = jax.jit(fokker_planck.solve, static_argnames=FIXED)
stationary = jax.jit(fokker_planck.stationary, static_argnames="process")


def mixture():
    return truth.mixture(*map(jnp.asarray, skewed(np.float64)))


@jax.jit
def density(dist, sde, x, t):
    return jnp.exp(jax.vmap(lambda y: truth.log_prob(dist, sde, y[None], t))(x))


def width(x):
    return (x[-1] - x[0]) / (x.size - 1)


def distance(p, q, x):
    """The integral of |p - q|."""
    return float(np.sum(np.abs(np.asarray(p) - np.asarray(q))) * width(x))


def ornstein_uhlenbeck(rate=1.5, g=0.8):
    return Process(lambda x, t: -rate * x, lambda x, t: jnp.full_like(x, g))


@jax.jit
def gaussian(x, t, mean=0.9, var=0.1, rate=1.5, g=0.8):
    """The transition density of that process from N(mean, var)."""
    decay = jnp.exp(-rate * t)
    var = var * decay**2 + g**2 / (2 * rate) * (1 - decay**2)
    return jnp.exp(-((x - decay * mean) ** 2) / (2 * var)) / jnp.sqrt(2 * jnp.pi * var)


SIZES = np.asarray([25, 50, 100, 200, 400])


def test_order_in_space_is_two(x64):
    ts, errors = jnp.asarray([0.0, 0.3]), []
    for n in SIZES:
        x = cells(-3.0, 3.5, int(n))
        found = solve(ornstein_uhlenbeck(), gaussian(x, 0.0), x, ts, steps=1500)
        errors.append(distance(found[-1], gaussian(x, ts[-1]), x))
    assert -2.15 < slope(SIZES, errors) < -1.85, errors
    assert errors[-1] < 5e-4


@pytest.mark.parametrize(("theta", "order"), [(0.5, 2), (1.0, 1)])
def test_order_in_time(x64, theta, order):
    """Against far shorter steps on the same cells, with a drift that changes with time."""
    sde = processes.vp()
    x, ts = cells(-6.0, 6.0, 120), jnp.asarray([0.05, 0.4])
    start, process = density(mixture(), sde, x, ts[0]), forward(sde)
    accurate = solve(process, start, x, ts, steps=4000)[-1]
    steps = [10, 20, 40, 80, 160]
    errors = [
        distance(solve(process, start, x, ts, steps=m, theta=theta)[-1], accurate, x) for m in steps
    ]
    assert abs(slope(steps, errors) + order) < 0.15, errors


SPANS = {
    "vp": (0.02, 1.0), "sub_vp": (0.05, 1.0), "ve": (0.45, 0.6), "cosine": (0.05, 0.95),
    "edm": (0.2, 3.0), "rectified_flow": (0.1, 1.0),
}  # fmt: skip


@pytest.mark.parametrize("name", SPANS)
def test_noising_gives_the_noised_mixture(x64, name):
    """Every process, to the end; the linear path even to t = 1, where its drift is infinite."""
    sde, dist, ts = PROCESSES[name](), mixture(), jnp.asarray(SPANS[name])
    x = cells(-16.0, 16.0, 480)
    found = solve(forward(sde), density(dist, sde, x, ts[0]), x, ts, steps=240)
    assert distance(found[-1], density(dist, sde, x, ts[1]), x) < 1.5e-3


@pytest.mark.parametrize(
    ("noise", "flux", "order"),
    [
        (None, fokker_planck.exponential, 2),
        (no_noise, central, 2),
        (no_noise, fokker_planck.exponential, 1),
    ],
)
def test_generation_gives_the_data_back(x64, noise, flux, order):
    """The reverse SDE and the flow of the exact score, from p_t back, times running down."""
    sde, dist = processes.vp(), mixture()
    process = reverse(sde, truth.denoiser(dist, sde), *([] if noise is None else [noise]))
    ts, errors, sizes = jnp.asarray([0.5, 0.02]), [], [50, 100, 200, 400, 800]
    for n in sizes:
        x = cells(-7.0, 7.0, n)
        found = solve(process, density(dist, sde, x, ts[0]), x, ts, steps=n, flux=flux)
        errors.append(distance(found[-1], density(dist, sde, x, ts[1]), x))
    assert abs(slope(sizes, errors) + order) < 0.2, errors


def well(x):
    """A skewed double well."""
    return 0.25 * x**4 - 0.5 * x**2 + 0.1 * x


def in_the_well(g=0.6):
    drift = jax.grad(well)
    return Process(lambda x, t: -drift(x), lambda x, t: jnp.full_like(x, g))


def boltzmann(x, g=0.6):
    p = jnp.exp(-2.0 * well(x) / g**2)
    return p / (jnp.sum(p) * width(x))


def test_a_double_well_comes_to_rest_at_its_density(x64):
    """exp(-2U/g^2) on 40 coarse cells, to rounding: found, kept, and reached from one side."""
    x = cells(-2.4, 2.4, 40)
    rest = boltzmann(x)
    np.testing.assert_allclose(stationary(in_the_well(), x), rest, rtol=1e-12)
    kept = solve(in_the_well(), rest, x, jnp.asarray([0.0, 1.0, 50.0]), steps=20)
    np.testing.assert_allclose(kept, jnp.stack([rest] * 3), rtol=1e-10)
    one_side = jnp.where(x > 0, rest, 0.0) / (jnp.sum(jnp.where(x > 0, rest, 0.0)) * width(x))
    reached = solve(in_the_well(), one_side, x, jnp.asarray([0.0, 1e4]), steps=60, theta=1.0)
    np.testing.assert_allclose(reached[-1], rest, rtol=1e-7)


def student():
    """b = -x, D = (1 + x^2)/4: Student's t with p ~ (1 + x^2)^-3."""
    return Process(lambda x, t: -x, lambda x, t: jnp.sqrt(0.5 * (1.0 + x**2)))


def test_noise_that_depends_on_the_place(x64):
    errors = []
    for n in SIZES:
        x = cells(-25.0, 25.0, 4 * int(n))
        p = (1.0 + x**2) ** -3
        errors.append(distance(stationary(student(), x), p / (jnp.sum(p) * width(x)), x))
    assert slope(SIZES, errors) < -1.9, errors
    # On the way E x decays at the rate 1, and d/dt E x^2 = 1/2 - 3/2 E x^2.
    x = cells(-25.0, 25.0, 3000)
    start = 0.75 * gaussian(x, 0.0, 0.5, 0.04) + 0.25 * gaussian(x, 0.0, -1.0, 0.3)
    ts = jnp.asarray([0.0, 0.25, 0.5, 1.0])
    found = solve(student(), start, x, ts, steps=150)
    first, second = (found * x[None] ** k @ jnp.full_like(x, width(x)) for k in (1, 2))
    np.testing.assert_allclose(first, first[0] * jnp.exp(-ts), rtol=1e-3)
    limit = 1.0 / 3.0
    expected = limit + (second[0] - limit) * jnp.exp(-1.5 * ts)
    np.testing.assert_allclose(second, expected, rtol=1e-3)


@pytest.mark.parametrize("process", [in_the_well(), student(), forward(processes.vp())])
def test_mass_stays_and_densities_are_positive(x64, process):
    """One step of any length from a density in a single cell, and many short ones."""
    x = cells(-3.0, 3.0, 200)
    start = jnp.zeros_like(x).at[150].set(1.0 / width(x))
    for end in (1e-4, 1.0):
        for steps, theta in ((1, 1.0), (400, 0.5)):
            found = solve(process, start, x, jnp.asarray([0.0, end]), steps=steps, theta=theta)
            np.testing.assert_allclose(jnp.sum(found[-1]), jnp.sum(start), rtol=1e-12)
            if theta == 1.0:
                assert np.all(found >= 0)


def test_float32_as_users_run_it(strict):
    sde = processes.vp()
    dist = truth.mixture(*map(jnp.asarray, skewed()))
    x, ts = cells(-7.0, 7.0, 700), jnp.asarray([0.02, 0.5, 1.0])
    found = solve(forward(sde), density(dist, sde, x, ts[0]), x, ts, steps=200)
    assert found.dtype == jnp.float32
    mass = jnp.sum(found, axis=1) * width(x)
    np.testing.assert_allclose(mass, 1.0, rtol=400 * jnp.finfo(jnp.float32).eps)  # of 400 steps
    for p, t in zip(found, ts, strict=True):
        assert distance(p, density(dist, sde, x, t), x) < 1e-3


def test_transforms_agree_and_derivatives_are_those_of_differences(x64):
    x, ts = cells(-2.5, 2.5, 60), jnp.asarray([0.0, 0.4])

    def at_the_end(rate, g):
        process = ornstein_uhlenbeck(rate, g)
        found = fokker_planck.solve(process, gaussian(x, 0.0), x, ts, steps=8)
        return found[-1, 40]

    rates, noises = jnp.asarray([0.5, 1.5]), jnp.asarray([0.8, 0.4])
    alone = [at_the_end(*pair) for pair in zip(rates, noises, strict=True)]
    np.testing.assert_allclose(jax.jit(jax.vmap(at_the_end))(rates, noises), alone, rtol=1e-12)
    slopes = jax.jit(jax.grad(at_the_end, (0, 1)))(1.5, 0.8)
    shifts = 1e-5 * jnp.eye(2)
    ends = [jax.jit(jax.vmap(at_the_end))(1.5 + d[0], 0.8 + d[1]) for d in (shifts, -shifts)]
    np.testing.assert_allclose(slopes, (ends[0] - ends[1]) / 2e-5, rtol=1e-6)


def test_the_face_weights(x64):
    """The two fluxes agree to second order, and lean upwind without noise."""
    push = jnp.asarray([-1e-3, 0.0, 1e-3])
    spread = jnp.ones_like(push)
    assert np.allclose(
        fokker_planck.exponential(spread, push), central(spread, push), rtol=0, atol=1e-7
    )
    z = jnp.asarray([-30.0, -1.0, -1e-4, 1e-4, 1.0, 30.0])
    expected = z / jnp.expm1(z)
    np.testing.assert_allclose(fokker_planck.exponential(z**0, z), expected, rtol=1e-12)
    huge = jnp.asarray([-1e5, -1.0, 1e5])
    none = jnp.asarray([1.0, 0.0, 1.0])
    np.testing.assert_allclose(fokker_planck.exponential(none, huge), [1e5, 1.0, 0.0])
    assert np.all(np.isfinite(jax.grad(lambda z: fokker_planck.exponential(none, z).sum())(huge)))


def test_misuse_is_named():
    x = cells(-1.0, 1.0, 8)
    with pytest.raises(ValueError, match=r"low=1.0, high=-1.0, n=8; expected low < high"):
        cells(1.0, -1.0, 8)
    with pytest.raises(ValueError, match="n=1; expected low < high and two cells"):
        cells(-1.0, 1.0, 1)
    for options in ({"steps": 0}, {"theta": 0.4}):
        with pytest.raises(ValueError, match="expected at least 1 and from 1/2 to 1"):
            solve(in_the_well(), x, x, jnp.asarray([0.0, 1.0]), **options)
