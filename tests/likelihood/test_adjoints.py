"""Adjoints of the likelihood's solve: they agree, and their memory is what they promise."""

import dataclasses
import functools

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from oracles import plane

from sdejax import grids, prediction, processes, truth
from sdejax.denoiser import make_denoiser, make_model
from sdejax.divergence import hutchinson
from sdejax.likelihood import Reversible, log_likelihood
from sdejax.likelihood.reversible import calls, method_of
from sdejax.sde import coefficients

KEY = jax.random.key(0)
SOLVERS = {
    each.__name__: each()
    for each in (dfx.Euler, dfx.Heun, dfx.Bosh3, dfx.Tsit5, dfx.Dopri5, dfx.Dopri8)
}
ADJOINTS = {
    "checkpoints": dfx.RecursiveCheckpointAdjoint(),
    "backsolve": dfx.BacksolveAdjoint(),
    "direct": dfx.DirectAdjoint(),
    "reversible": Reversible(),
}


def labelled():
    """A small network with labels, its parameters, and three examples."""

    def apply_fn(params, x, t, cond):
        return jnp.tanh(x @ params["w"] + params["e"][cond] + t) - 0.2 * x

    rng = np.random.default_rng(1)
    params = {"w": jnp.asarray(rng.normal(size=(2, 2))), "e": jnp.asarray(rng.normal(size=(3, 2)))}
    x = jnp.asarray(rng.normal(size=(3, 2)))
    model = make_model(apply_fn, prediction.edm(0.5), batched=False)
    return model, params, x, jnp.asarray([2, 0, 2])


@pytest.mark.parametrize(
    "name",
    [
        "backsolve",
        "reversible",
        pytest.param("checkpoints", marks=pytest.mark.slow),
        pytest.param("direct", marks=pytest.mark.slow),
    ],
)
def test_four_adjoints_agree_with_differences_by_parameters_data_process_and_grid(name, x64):
    model, params, x, labels = labelled()
    sde, adjoint = processes.vp(), ADJOINTS[name]
    of_values = name != "backsolve"  # diffrax has no derivative by the ends of its way there
    ts = grids.uniform_log_snr(sde, 12 if of_values else 48)
    inputs = {"params": params, "x": x, **({"ts": ts, "beta": 20.0} if of_values else {})}
    flat, unravel = ravel_pytree(inputs)

    def loss(flat):
        inputs = unravel(flat)
        process = dataclasses.replace(sde, beta_max=inputs.get("beta", 20.0))

        def one(x, label):
            denoiser = make_denoiser(model, inputs["params"], process, label)
            grid = inputs.get("ts", ts)
            return log_likelihood(KEY, process, denoiser, x, ts=grid, adjoint=adjoint).log_p

        return jnp.mean(jax.vmap(one)(inputs["x"], labels))

    gradient = jax.jit(jax.grad(loss))(flat)
    rng, value = np.random.default_rng(2), jax.jit(loss)
    inside = unravel(jnp.ones_like(flat))
    if of_values:  # the ends of the grid are at the ends of the process, which clips beyond them
        inside["ts"] = inside["ts"].at[jnp.asarray([0, -1])].set(0.0)
    inside = ravel_pytree(inside)[0]
    for _ in range(4):
        way = jnp.asarray(rng.normal(size=flat.shape)) * inside * 1e-4
        near, far = (
            value(flat + way) - value(flat - way),
            value(flat + 2 * way) - value(flat - 2 * way),
        )
        expected = (8 * near - far) / 12
        # Backsolve is the gradient of the equation, off by the errors of its own solve.
        np.testing.assert_allclose(gradient @ way, expected, rtol=1e-7 if of_values else 1e-4)


def wide(d):
    """A network that is cheap beside its state, d entries, and its parameters."""
    sde = processes.edm(0.02, 20.0)
    params = {"a": jnp.full(d, 0.1), "b": jnp.zeros(d)}

    def denoiser(params, x, t):
        c = coefficients(sde, t)
        output = jnp.tanh(params["a"] * x / jnp.sqrt(0.25 + t**2) + params["b"])
        return prediction.decode(prediction.edm(0.5), c, x, output)

    return sde, params, denoiser


def memory(adjoint, steps, d=2048):
    """Bytes of temporaries of a gradient by parameters and data, in states of d floats."""
    sde, params, denoiser = wide(d)
    ts = grids.uniform_log_snr(sde, steps)

    def loss(params, x):
        exact = functools.partial(denoiser, params)
        options = {"solver": dfx.Euler(), "divergence": hutchinson(1)}
        return log_likelihood(KEY, sde, exact, x, ts=ts, adjoint=adjoint, **options).log_p

    return _bytes(jax.grad(loss, argnums=(0, 1)), params, jnp.zeros(d)) / (4 * d)


def _bytes(fn, *args):
    return jax.jit(fn).lower(*args).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("name", ["backsolve", "reversible"])
def test_memory_is_flat_in_the_number_of_steps(name, strict):
    few, many = (memory(ADJOINTS[name], steps) for steps in (16, 256))
    assert many <= 1.1 * few, (few, many)
    assert many < 20, many


def test_memory_of_checkpoints_grows_as_the_root_of_the_steps(strict):
    """diffrax keeps about sqrt(2 n) states: 5 of 16 steps, 22 of 256."""
    few, many = (memory(ADJOINTS["checkpoints"], steps) for steps in (16, 256))
    assert 1.5 * few < many < 4.0 * few, (few, many)
    assert many - few < 2 * (22 - 5), (few, many)


def test_memory_of_plain_backpropagation_is_linear(strict):
    """The same scheme as a scan: what the reconstruction saves."""

    def plain(steps, d=2048):
        us = jnp.linspace(0.0, 1.0, steps + 1)

        def loss(a, x):
            def rate(u, y):
                return jnp.tanh(a * y + u)

            def step(pair, ends):
                (y, z), (u, v) = pair, ends
                y = 0.999 * y + 0.001 * z + (v - u) * rate(u, z)
                return (y, z - (u - v) * rate(v, y)), None

            return jnp.sum(jax.lax.scan(step, (x, x), (us[:-1], us[1:]))[0][0])

        return _bytes(jax.grad(loss), jnp.ones(d), jnp.ones(d)) / (4 * d)

    few, many = plain(16), plain(256)
    assert many - few > 2 * 240, (few, many)


def test_single_jitted_and_batched_gradients_agree_in_float32(strict):
    model, params, x, labels = labelled()
    params, x = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (params, x))
    sde = processes.rectified_flow()
    ts = grids.uniform(sde, 10)
    options = {"ts": ts, "solver": dfx.Heun(), "adjoint": Reversible()}

    def one(params, x, label):
        denoiser = make_denoiser(model, params, sde, label)
        return log_likelihood(KEY, sde, denoiser, x, **options).log_p

    each = jax.vmap(jax.grad(one), in_axes=(None, 0, 0))
    batch = jax.jit(each)(params, x, labels)
    assert batch["w"].dtype == jnp.float32
    alone = jax.jit(jax.grad(one))(params, x[1], labels[1])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b[1], rtol=2e-3, atol=2e-4), alone, batch
    )
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (params, x))
        exact = jax.jit(each)(*wide, labels)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4), batch, exact)


def test_evaluations_are_counted(x64):
    sde, dist, count = processes.edm(), plane(), []
    stages = {"Euler": 1, "Heun": 2, "Bosh3": 3, "Tsit5": 6, "Dopri5": 6, "Dopri8": 13}
    assert {name: calls(solver) / 2 for name, solver in SOLVERS.items()} == stages
    for solver in ("Heun", "Tsit5"):
        count.clear()

        def denoiser(x, t):
            jax.debug.callback(lambda _: count.append(1), t)
            return truth.denoiser(dist, sde)(x, t)

        ts = grids.karras(sde, 5)
        options = {"ts": ts, "solver": SOLVERS[solver], "adjoint": Reversible()}
        found = jax.jit(lambda x, o=options, f=denoiser: log_likelihood(KEY, sde, f, x, **o))(
            jnp.ones(2)
        )
        jax.effects_barrier()
        assert found.nfe == len(count) == 10 * stages[solver]


def test_a_network_of_nan_gives_no_number(x64):
    sde = processes.edm()

    def denoiser(x, t):
        return jax.tree.map(lambda leaf: leaf * jnp.nan, truth.denoiser(plane(), sde)(x, t))

    ts = grids.karras(sde, 4)
    options = {"ts": ts, "solver": dfx.Heun(), "adjoint": Reversible()}
    found = jax.jit(lambda x: log_likelihood(KEY, sde, denoiser, x, **options))(jnp.ones(2))
    assert np.isnan(found.log_p)
    assert found.result == 2


def test_what_is_refused(x64):
    sde, dist = processes.edm(), plane()
    denoiser = truth.denoiser(dist, sde)
    with pytest.raises(ValueError, match=r"adjoint: got Reversible without a grid.*give ts"):
        log_likelihood(KEY, sde, denoiser, jnp.ones(2), adjoint=Reversible())
    ts = grids.karras(sde, 4)
    for coupling in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="coupling"):
            log_likelihood(KEY, sde, denoiser, jnp.ones(2), ts=ts, adjoint=Reversible(coupling))
    for solver in (dfx.Kvaerno3(), dfx.LeapfrogMidpoint(), dfx.ReversibleHeun(), dfx.ShARK()):
        with pytest.raises(ValueError, match=r"solver: got .* expected an explicit"):
            method_of(solver)
