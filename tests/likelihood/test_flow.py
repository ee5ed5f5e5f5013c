"""What a solve promises: order, tolerance, counted evaluations, failure as data."""

import functools

import diffrax as dfx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from oracles import plane, smooth_grid
from stats import slope

from sdejax import coordinates, grids, prediction, processes, truth
from sdejax.denoiser import make_denoiser, make_model
from sdejax.likelihood import Reversible, log_likelihood, sample_and_log_prob
from sdejax.samplers.base import MAX_STEPS, NOT_FINITE, SUCCESS
from sdejax.sde import prior_log_prob

KEY = jax.random.key(0)
POINTS = np.asarray([[0.3, -0.4], [1.2, 0.1], [-0.6, 1.0], [2.0, -1.0], [-1.5, -0.5]])
SOLVERS = {each.__name__: each() for each in (dfx.Euler, dfx.Heun, dfx.Tsit5, dfx.Dopri5)}


def change(solver, most):
    """n -> the change of log-density of a mixture over n steps, compiled once for all n <= most."""
    sde = processes.vp()
    # In coordinates in which the leading terms of Tsit5 are not hidden below those of sixth order.
    options = {"coordinates": coordinates.noise, "solver": solver}

    @jax.jit
    def solve(ts):
        def one(x):
            return log_likelihood(
                KEY, sde, truth.denoiser(plane(), sde), x, ts=ts, **options
            ).divergence

        return jax.vmap(one)(jnp.asarray(POINTS))

    def over(n):
        ts = smooth_grid(n)
        rest = np.linspace(ts[-1], ts[-1] - 1e-10, most + 2 - n)[1:]  # steps of next to no length
        return np.asarray(solve(np.concatenate([ts, rest])))

    return over


@functools.cache
def accurate():
    return change(dfx.Dopri8(), 512)(512)


@pytest.mark.parametrize(("name", "order"), [("Euler", 1), ("Heun", 2), ("Tsit5", 5)])
def test_the_order_of_the_log_density_on_a_grid(name, order, x64):
    first = {1: 128, 2: 32, 5: 48}[order]
    steps = [first * 2**i for i in range(5)]
    solve = change(SOLVERS[name], steps[-1])
    errors = [np.linalg.norm(solve(n) - accurate()) for n in steps]
    assert min(errors) > 2e-14
    assert abs(slope(steps, errors) + order) < 0.25, errors


def test_the_error_follows_the_tolerance(x64):
    """Against the density of the data, known in closed form, over four decades."""
    sde, dist = processes.vp(), plane()
    denoiser = truth.denoiser(dist, sde)
    x = jnp.asarray(np.concatenate([POINTS, -POINTS, POINTS[:, ::-1]]))
    exact = jax.vmap(lambda x: truth.log_prob(dist, sde, x, sde.t_min))(x)

    @jax.jit
    def solved(tolerance):
        def one(x):
            return log_likelihood(
                KEY, sde, denoiser, x, tolerance=tolerance,
                prior=lambda z: truth.log_prob(dist, sde, z, sde.t_max),
            )  # fmt: skip

        return jax.vmap(one)(x)

    tolerances = [1e-3, 1e-4, 1e-5, 1e-6, 1e-7]
    found = [solved(tolerance) for tolerance in tolerances]
    errors = [np.sqrt(np.mean((each.log_p - exact) ** 2)) for each in found]
    assert 0.7 < slope(tolerances, errors) < 1.3, errors
    assert np.all(np.asarray(errors) < 10 * np.asarray(tolerances)), errors
    nfe = [int(np.sum(each.nfe)) for each in found]
    assert nfe == sorted(set(nfe))


class Counter:
    """A denoiser that counts its calls as they are run."""

    def __init__(self, sde):
        self.calls, self.exact = 0, truth.denoiser(plane(), sde)

    def __call__(self, x, t):
        jax.debug.callback(self.add, t)
        return self.exact(x, t)

    def add(self, t):
        self.calls += 1


@pytest.mark.parametrize("name", SOLVERS)
def test_every_evaluation_is_counted(name, x64):
    sde, adaptive = processes.vp(), name != "Euler"  # which has no estimate of its error
    ways = [{"ts": grids.uniform(sde, 7)}, *([{"tolerance": 1e-4}] if adaptive else [])]
    for way in ways:
        counter = Counter(sde)
        options = {"solver": SOLVERS[name], **way}
        solve = jax.jit(lambda x, o=options, c=counter: log_likelihood(KEY, sde, c, x, **o))
        found = solve(jnp.asarray(POINTS[3]))
        jax.effects_barrier()
        assert found.result == SUCCESS
        assert int(found.nfe) == counter.calls, way
    if name == "Tsit5":
        counter = Counter(sde)
        options = {"coordinates": coordinates.native, "tolerance": 1e-7}
        found = jax.jit(lambda x: log_likelihood(KEY, sde, counter, x, **options))(
            jnp.asarray(POINTS[3])
        )
        jax.effects_barrier()
        assert int(found.nfe) == counter.calls


def test_one_compilation_serves_other_processes_and_examples(strict):
    model = make_model(
        lambda params, x, t, cond: jnp.tanh(params * x + t), prediction.edm(), batched=False
    )

    @jax.jit
    def solve(params, sde, x, tolerance):
        denoiser = make_denoiser(model, params, sde)
        return log_likelihood(KEY, sde, denoiser, x, tolerance=tolerance).log_p

    found = [
        solve(jnp.float32(a), processes.vp(beta_max=beta), jnp.full(2, x, jnp.float32), tol)
        for a, beta, x, tol in (
            (0.5, 20.0, 1.0, 1e-3),
            (0.7, 15.0, -1.0, 1e-4),
            (0.1, 9.0, 0.0, 1e-5),
        )
    ]
    assert len(set(map(float, found))) == 3
    assert solve._cache_size() == 1


def poisoned(sde, bad):
    """The exact denoiser, NaN where bad(t)."""
    exact = truth.denoiser(plane(), sde)

    def denoiser(x, t):
        return jax.tree.map(lambda leaf: jnp.where(bad(t), jnp.nan, leaf), exact(x, t))

    return denoiser


@pytest.mark.parametrize("solve", ["adaptive", "grid"])
def test_a_network_of_nan_ends_at_once(solve, x64):
    sde = processes.vp()
    options = {"ts": grids.uniform(sde, 8)} if solve == "grid" else {}
    for bad, fewest, most in ((lambda t: t >= 0.0, 1, 80), (lambda t: t > 0.3, 20, 400)):
        denoiser = poisoned(sde, bad)
        found = jax.jit(lambda x, d=denoiser: log_likelihood(KEY, sde, d, x, **options))(
            jnp.asarray(POINTS[0])
        )
        assert found.result == NOT_FINITE
        assert np.isnan(found.log_p)
        assert np.isnan(found.bits_per_dim)
        # The second way closes in on the first time with a NaN, by steps that shrink and grow.
        assert fewest <= found.nfe <= most


def test_nan_in_one_example_leaves_the_others(x64):
    sde, exact = processes.vp(), truth.denoiser(plane(), processes.vp())

    def denoiser(x, t):
        return jax.tree.map(lambda leaf: jnp.where(x[0] > 50.0, jnp.nan, leaf), exact(x, t))

    x = jnp.asarray(POINTS).at[1].set(100.0)
    found = jax.jit(jax.vmap(lambda x: log_likelihood(KEY, sde, denoiser, x)))(x)
    assert list(found.result) == [SUCCESS, NOT_FINITE, SUCCESS, SUCCESS, SUCCESS]
    assert list(np.isnan(found.log_p)) == [False, True, False, False, False]


def test_running_out_of_steps_is_a_code_and_no_number(x64):
    sde, denoiser = processes.vp(), truth.denoiser(plane(), processes.vp())
    options = {"max_steps": 3, "tolerance": 1e-8}
    found, (_, back) = jax.jit(
        lambda x: (
            log_likelihood(KEY, sde, denoiser, x, **options),
            sample_and_log_prob(KEY, sde, denoiser, x, **options),
        )
    )(jnp.ones(2))
    assert found.result == MAX_STEPS
    assert np.isnan(found.log_p)
    assert found.nfe == 3 * 6 + 1
    assert back.result == MAX_STEPS
    assert np.isnan(back.log_p)


def test_a_grid_may_stop_short_of_the_ends(x64):
    """From ts[-1] to ts[0]: the change between the two times, of the exact density of either."""
    sde, dist = processes.vp(), plane()
    denoiser, ts = truth.denoiser(dist, sde), jnp.asarray(smooth_grid(64))
    found = jax.jit(lambda x: log_likelihood(KEY, sde, denoiser, x, ts=ts))(jnp.asarray(POINTS[0]))
    expected = truth.log_prob(dist, sde, jnp.asarray(POINTS[0]), ts[-1])
    ended = truth.log_prob(dist, sde, found.latent, ts[0])
    np.testing.assert_allclose(found.divergence, expected - ended, atol=1e-9)
    np.testing.assert_allclose(found.prior, prior_log_prob(sde, found.latent))


REFUSED = [
    ({}, jnp.zeros((0, 3)), r"x: got an example of shape \[0, 3\]; expected some entries"),
    ({"tolerance": 0.0}, jnp.ones(2), r"tolerance: got 0.0; expected a positive"),
    ({"tolerance": -1e-3}, jnp.ones(2), r"tolerance: got -0.001; expected a positive"),
    ({"tolerance": float("nan")}, jnp.ones(2), r"tolerance: got nan; expected a positive"),
    ({"ts": jnp.asarray([1e-3, 0.5, 1.0])}, jnp.ones(2), r"decreasing"),
    ({"ts": jnp.asarray([1.0, 0.5, 0.5])}, jnp.ones(2), r"decreasing"),
    ({"ts": jnp.asarray([1.0])}, jnp.ones(2), r"ts"),
    ({"coordinates": coordinates.noise}, jnp.ones(2), r"coordinates 'noise': got alpha"),
    ({"adjoint": Reversible()}, jnp.ones(2), r"Reversible without a grid"),
    ({"solver": dfx.Kvaerno3()}, jnp.ones(2), r"solver: got the implicit"),
    ({"solver": dfx.Euler()}, jnp.ones(2), r"solver: got Euler.*ts"),
    ({"max_steps": 0}, jnp.ones(2), r"max_steps: got 0"),
]


@pytest.mark.parametrize(("options", "x", "message"), REFUSED)
def test_what_is_refused(options, x, message, strict):
    sde = processes.rectified_flow()
    denoiser = truth.denoiser(plane(), sde)
    with pytest.raises(ValueError, match=message):
        log_likelihood(KEY, sde, denoiser, x, **options)


def test_integers_are_refused_where_types_are_not_checked(strict):
    sde = processes.vp()
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(ValueError, match=r"x: got int32; .*quantisation"):
            log_likelihood(KEY, sde, truth.denoiser(plane(), sde), jnp.zeros(2, jnp.int32))
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def test_an_unknown_option_is_refused_by_name():
    sde = processes.vp()
    with pytest.raises(ValueError, match=r"no option 'tolerence'.*'tolerance'"):
        log_likelihood(KEY, sde, truth.denoiser(plane(), sde), jnp.ones(2), tolerence=1e-3)
