"""Each coordinate change against the chain rule: automatic derivatives of y = x/S(t) and u(t)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import PROCESSES

from sdejax import coordinates, dynamics, grids, processes, truth
from sdejax.coordinates import ALL, require_ends
from sdejax.samplers.base import in_float64
from sdejax.sde import coefficients, diffusion, log_snr

ANGLE = coordinates.angle().flow
NOISES = {"g": diffusion, "sigma": dynamics.sigma_noise}


def made(name):
    return PROCESSES[name](t_max=0.97) if name == "rectified_flow" else PROCESSES[name]()


def inner_times(sde, n=7):
    return jnp.asarray(sde.t_min + (sde.t_max - sde.t_min) * np.linspace(0.02, 0.98, n) ** 2)


def moved(frame, sde, t, x, dx):
    """dy/dt of y = x/S(t) where dx/dt is known, and du/dt."""

    def scale(t):
        return frame.scale(coefficients(sde, t))

    s, ds = jax.jvp(scale, (t,), (jnp.ones_like(t),))
    du = jax.jvp(lambda t: frame.variable(sde, t), (t,), (jnp.ones_like(t),))[1]
    return dx / s - x * ds / s**2, du, s


@pytest.mark.parametrize("name", PROCESSES)
def test_rates_are_the_chain_rule_of_the_native_equations(name, x64):
    """For any x0 and eps at a time, whatever the denoiser: the coefficients are exact."""
    sde = made(name)

    @jax.jit
    def compare(t, x0, eps):
        c = coefficients(sde, t)
        x, out = c.alpha * x0 + c.sigma * eps, []
        for each in ALL:
            dy, du, _ = moved(each.flow, sde, t, x, c.dalpha * x0 + c.dsigma * eps)
            a, b = each.flow.rate(c, jnp.zeros_like(t))
            out.append((dy, (a * x0 + b * eps) * du))
            for w_fn in NOISES.values() if each.reverse.only is None else (diffusion,):
                w = w_fn(sde, t)
                dx = c.dalpha * x0 + (c.dsigma + w**2 / (2 * c.sigma)) * eps
                dy, du, s = moved(each.reverse, sde, t, x, dx)
                a, b = each.reverse.rate(c, w)
                out.append((dy, (a * x0 + b * eps) * du))
                # The variance that enters in dt: w^2/S^2 dt = k^2 |du|, and u falls with t.
                out.append((-((w / s) ** 2), each.reverse.spread(c, w) ** 2 * du))
        return out

    rng = np.random.default_rng(0)
    for t in inner_times(sde):
        for expected, got in compare(t, *jnp.asarray(rng.normal(size=2))):
            np.testing.assert_allclose(got, expected, rtol=1e-8)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_time_of_a_variable_is_its_inverse(name, x64):
    sde = made(name)
    for each in ALL:
        for frame in (each.flow, each.reverse):
            us = jax.vmap(lambda t, f=frame: f.variable(sde, t))(inner_times(sde))
            back = jax.vmap(lambda u, f=frame: f.time(sde, u))(us)
            np.testing.assert_allclose(back, inner_times(sde), rtol=1e-9, atol=1e-12)
        assert np.all(np.diff(us) < 0), f"{each.name}: the variable of an SDE has to fall with t"


@pytest.mark.parametrize("name", PROCESSES)
def test_times_on_the_grid_survive_float32(name):
    """The time a denoiser is given at u(t): as near as float32 tells log-SNR, t or the angle."""
    sde = made(name)
    ts = np.asarray(grids.uniform(sde, 50), np.float32)
    for each in ALL:
        for frame in (each.flow, each.reverse):
            us = in_float64(
                lambda s, ts, f=frame: jax.vmap(lambda t: f.variable(s, t))(ts),
                jnp.float32, sde, ts,
            )  # fmt: skip
            back = np.asarray(jax.vmap(lambda u, f=frame: f.time(sde, u))(us), float)
            level = jax.vmap(lambda t: log_snr(sde, t))
            with jax.enable_x64(True):
                off = np.abs(level(jnp.asarray(back)) - level(jnp.asarray(ts, float)))
                turn = jax.vmap(lambda t: ANGLE.variable(sde, t))
                turned = np.abs(turn(jnp.asarray(back)) - turn(jnp.asarray(ts, float)))
            near = np.abs(back - ts) <= 2e-7 * sde.t_max
            near = near | ((each.name == "angle") & (turned <= 2e-7))
            assert np.all(near | (off <= 1e-5)), (each.name, off.max(), np.abs(back - ts).max())


def test_data_coordinates_start_where_alpha_is_0():
    sde = processes.rectified_flow()
    assert coordinates.data.flow.variable(sde, 1.0) == 0.0
    assert coordinates.data.flow.time(sde, jnp.zeros(())) == 1.0


class Noiseless(processes.RectifiedFlow):
    """The straight path down to its data."""

    t_min: float = 0.0


@pytest.mark.parametrize("each", ALL[1:], ids=lambda each: each.name)
def test_ends_that_are_not_finite_are_refused_by_name(each):
    noisy, clean = processes.rectified_flow(), Noiseless(t_max=0.9)
    needs = {"noise": ["alpha"], "data": ["sigma"], "angle": []}.get(each.name, ["alpha", "sigma"])
    reverse_needs = [] if each.name == "angle" else ["alpha", "sigma"]
    for frame, refused in ((each.flow, needs), (each.reverse, reverse_needs)):
        for name, sde in (("alpha", noisy), ("sigma", clean)):
            if name not in refused:
                require_ends(each, frame, sde, sde.t_max, sde.t_min)
                continue
            message = rf"coordinates '{each.name}': got {name}\(\d\.0\) = 0.0 for .*; use coord"
            with pytest.raises(ValueError, match=message):
                require_ends(each, frame, sde, sde.t_max, sde.t_min)


def test_the_angle_is_finite_at_both_ends():
    """Where sigma = 0 the angle is 0, where alpha = 0 it is pi/2, in float32 as well."""
    sde = Noiseless()
    for t, angle in ((0.0, 0.0), (1.0, np.pi / 2)):
        u = ANGLE.variable(sde, t)
        np.testing.assert_allclose(u, angle, atol=1e-7)
        np.testing.assert_allclose(ANGLE.time(sde, u), t, atol=1e-7)
        a, b = ANGLE.rate(coefficients(sde, t), jnp.zeros(()))
        np.testing.assert_allclose([a, b], [0.0, 1.0] if t == 0.0 else [-2.0, 0.0], atol=1e-6)


def test_a_gaussian_of_the_stated_width_stands_still_in_the_angle():
    """y = x/s does not move on the flow of N(0, sd^2 I), whatever the process."""
    dist = truth.gaussian(jnp.zeros(3), 0.7**2 * jnp.eye(3))
    for make in PROCESSES.values():
        sde, z = make(), jnp.asarray([1.0, -2.0, 0.5])
        for t in inner_times(sde, 5):
            c = coefficients(sde, t)
            estimate = truth.estimate(dist, sde, truth.gaussian_flow(dist, sde, z, t), t)
            a, b = coordinates.angle(0.7).flow.rate(c, jnp.zeros(()))
            np.testing.assert_allclose(a * estimate.x0 + b * estimate.eps, 0.0, atol=2e-6)


def test_the_angle_needs_a_width():
    with pytest.raises(ValueError, match="sigma_data"):
        coordinates.angle(0.0)


def test_tracers_pass_the_check_of_ends():
    def inside(sde):
        require_ends(coordinates.noise, coordinates.noise.flow, sde, sde.t_max)
        return sde.t_max

    assert jax.jit(inside)(processes.rectified_flow()) == 1.0
    with pytest.raises(ValueError, match="alpha"):  # a process that is known is checked in jit too
        jax.jit(lambda x: x + inside(processes.rectified_flow()))(0.0)
