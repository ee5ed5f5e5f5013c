"""Each coordinate change against the chain rule: automatic derivatives of y = x/S(t) and u(t)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import PROCESSES

from sdejax import coordinates, dynamics, grids, processes
from sdejax.coordinates import ALL, require_ends
from sdejax.samplers.base import in_float64
from sdejax.sde import coefficients, diffusion, log_snr

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
    """The time a denoiser is given at u(t): as near as float32 can tell log-SNR or t."""
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
            near = np.abs(back - ts) <= 2e-7 * sde.t_max
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
    needs = {"noise": ["alpha"], "data": ["sigma"]}.get(each.name, ["alpha", "sigma"])
    for frame, refused in ((each.flow, needs), (each.reverse, ["alpha", "sigma"])):
        for name, sde in (("alpha", noisy), ("sigma", clean)):
            if name not in refused:
                require_ends(each, frame, sde, sde.t_max, sde.t_min)
                continue
            message = rf"coordinates '{each.name}': got {name}\(\d\.0\) = 0.0 for .*; use coord"
            with pytest.raises(ValueError, match=message):
                require_ends(each, frame, sde, sde.t_max, sde.t_min)


def test_tracers_pass_the_check_of_ends():
    def inside(sde):
        require_ends(coordinates.noise, coordinates.noise.flow, sde, sde.t_max)
        return sde.t_max

    assert jax.jit(inside)(processes.rectified_flow()) == 1.0
    with pytest.raises(ValueError, match="alpha"):  # a process that is known is checked in jit too
        jax.jit(lambda x: x + inside(processes.rectified_flow()))(0.0)
