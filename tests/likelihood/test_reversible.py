"""The reversible scheme against its formulas, and its order."""

import functools
import itertools

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from oracles import plane, smooth_grid
from stats import slope

from sdejax import processes, truth
from sdejax.likelihood import Reversible, log_likelihood
from sdejax.likelihood.reversible import integrate

KEY = jax.random.key(0)
SOLVERS = {
    each.__name__: each()
    for each in (dfx.Euler, dfx.Heun, dfx.Bosh3, dfx.Tsit5, dfx.Dopri5, dfx.Dopri8)
}


def field(u, state, a, n, b):
    """A nonlinear field of two states with an integer among its arguments."""
    y, volume = state
    return jnp.sin(a @ y + b * u) / n - 0.3 * y, jnp.sum(y**2) * b[0] + 0.1 * volume


def problem():
    rng = np.random.default_rng(0)
    a, b = jnp.asarray(rng.normal(size=(3, 3))), jnp.asarray(rng.normal(size=3))
    state = (jnp.asarray(rng.normal(size=3)), jnp.zeros(()))
    us = jnp.asarray(np.sort(rng.uniform(0.0, 2.0, size=4))[::-1].copy())
    return us, state, (a, jnp.asarray(2), b)


def spelled_out(lam, solver, us, state, args):
    """The paper's scheme with a step of diffrax for each increment, every state kept."""
    term = dfx.ODETerm(lambda u, y, args: field(u, y, *args))

    def increment(u, v, y):
        start = solver.init(term, u, v, y, args)
        end = solver.step(term, u, v, y, args, start, made_jump=False)[0]
        return jax.tree.map(jnp.subtract, end, y)

    y = z = state
    for u, v in itertools.pairwise(us):
        psi = increment(u, v, z)
        y = jax.tree.map(lambda y, z, psi: lam * y + (1 - lam) * z + psi, y, z, psi)
        z = jax.tree.map(jnp.subtract, z, increment(v, u, y))
    return y


def difference(fn, x, way):
    """The derivative along a way by central differences of fourth order."""
    near, far = fn(x + way) - fn(x - way), fn(x + 2 * way) - fn(x - 2 * way)
    return (8 * near - far) / 12


def weighed(state):
    y, volume = state
    return jnp.sum(y * jnp.arange(1.0, 4.0)) + 0.7 * volume


@pytest.mark.parametrize("name", ["Euler", "Heun", "Dopri8"])
def test_values_and_gradients_are_those_of_the_scheme_spelled_out(name, x64):
    us, state, (a, n, b) = problem()
    lam, solver = 0.97, SOLVERS[name]

    def ours(us, state, a, b):
        return weighed(integrate(Reversible(lam), solver, field, us, state, (a, n, b)))

    def direct(us, state, a, b):
        return weighed(spelled_out(lam, _forward(solver), us, state, (a, n, b)))

    flat, unravel = ravel_pytree((us, state, a, b))
    np.testing.assert_allclose(ours(us, state, a, b), direct(us, state, a, b), rtol=1e-12)
    found = ravel_pytree(jax.jit(jax.grad(ours, argnums=(0, 1, 2, 3)))(us, state, a, b))[0]
    expected = jax.jit(jax.jacfwd(lambda flat: direct(*unravel(flat))))(flat)
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)


def _forward(solver):
    """The solver with loops that forward mode enters."""
    return solver if isinstance(solver, dfx.Euler) else type(solver)(scan_kind="bounded")


def test_rounding_grows_by_one_over_the_coupling_a_step_back(x64):
    """256 steps are undone to rounding at 0.999, while 0.9^-256 = 5e11 roundings are seen."""
    _, state, args = problem()
    us = jnp.linspace(0.0, 2.0, 257)
    errors = {}
    for lam in (0.999, 0.9):
        adjoint = Reversible(lam)

        def end(b, adjoint=adjoint):
            given = (args[0], args[1], b)
            return weighed(integrate(adjoint, SOLVERS["Heun"], field, us, state, given))

        # Forward mode does not enter it: differences, of fourth order, of the same function.
        one = jnp.zeros(3).at[1].set(1e-3)
        expected = difference(jax.jit(end), args[2], one) / 1e-3
        errors[lam] = abs(jax.jit(jax.grad(end))(args[2])[1] - expected)
    assert errors[0.999] < 1e-10
    assert errors[0.9] > 1e-8


@pytest.mark.parametrize(
    ("name", "order", "lam", "first"),
    [
        ("Euler", 1, 0.5, 128),
        ("Heun", 2, 0.999, 16),
        ("Bosh3", 3, 0.999, 16),
    ],
)
def test_the_order_is_that_of_the_solver(name, order, lam, first, x64):
    _, state, args = problem()

    def ending(name, lam, most):
        """One compilation for all numbers of steps: steps of length zero come before."""
        solve = jax.jit(functools.partial(integrate, Reversible(lam), SOLVERS[name], field))

        def end(n):
            us = np.pad(np.linspace(0.0, 3.0, n + 1), (most - n, 0), mode="edge")
            return ravel_pytree(solve(jnp.asarray(us), state, args))[0]

        return end

    exact = ending("Dopri8", 1.0, 256)(256)
    steps = [first * 2**i for i in range(5)]
    end = ending(name, lam, steps[-1])
    errors = [np.linalg.norm(end(n) - exact) for n in steps]
    assert abs(slope(steps, errors) + order) < 0.2, errors


@pytest.mark.parametrize(
    ("name", "order"), [pytest.param("Heun", 2, marks=pytest.mark.slow), ("Dopri5", 5)]
)
def test_the_order_holds_for_the_log_density(name, order, x64):
    sde, dist = processes.vp(), plane()
    points = jnp.asarray([[0.3, -0.4], [1.2, 0.1], [-0.6, 1.0], [2.0, -1.0], [-1.5, -0.5]])

    def solving(solver, adjoint, most):
        one = functools.partial(_solved, sde, dist, solver, adjoint)
        solve = jax.jit(jax.vmap(one, in_axes=(None, 0)))

        # The way there begins at the last time, with steps of length zero.
        def over(n):
            return solve(jnp.asarray(np.pad(smooth_grid(n), (0, most - n), mode="edge")), points)

        return over

    latent, log_p = solving(SOLVERS["Dopri8"], None, 256)(256)
    steps = [16 * 2**i for i in range(5)]
    solve = solving(SOLVERS[name], Reversible(), steps[-1])
    found = [solve(n) for n in steps]
    states = [np.linalg.norm(each[0] - latent) for each in found]
    logs = [np.linalg.norm(each[1] - log_p) for each in found]
    assert abs(slope(steps, states) + order) < 0.25, states
    assert abs(slope(steps, logs) + order) < 0.25, logs


def _solved(sde, dist, solver, adjoint, ts, x):
    found = log_likelihood(
        KEY, sde, truth.denoiser(dist, sde), x, ts=ts, solver=solver, adjoint=adjoint
    )
    return found.latent, found.log_p
