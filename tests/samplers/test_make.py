import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from oracles import PREDICTIONS

from sdejax import dynamics, grids, processes
from sdejax.conditioning import raw_time
from sdejax.denoiser import make_model, no_scaling
from sdejax.prediction import Estimate, encode
from sdejax.samplers.ancestral import ancestral, ddim, euler_maruyama
from sdejax.samplers.base import NoisyRow, linear_sampler, on_grid
from sdejax.samplers.diffeq import ode, reverse_sde
from sdejax.samplers.make import make_sampler, once_per_value
from sdejax.sde import coefficients, prior_sample
from sdejax.thresholding import clipped

KEY = jax.random.key(0)
SDE = processes.vp()
MEAN, VARIANCE = 0.5, 0.3  # of the data, whose exact denoiser the networks below are


def perfect(kind, process):
    """A network that outputs the exact estimate for N(MEAN, VARIANCE I), encoded."""

    def network(params, x, t, cond):
        sde = process if params is None else params
        c = coefficients(sde, t)
        r = (x - c.alpha * MEAN) / (c.alpha**2 * VARIANCE + c.sigma**2)
        return encode(kind, c, Estimate(MEAN + c.alpha * VARIANCE * r, c.sigma * r))

    return make_model(network, kind, batched=False, scaling=no_scaling, conditioning=raw_time)


EPS = perfect(PREDICTIONS["eps"], SDE)


def test_samples_are_the_exact_flow_of_the_prior_draws(x64):
    """Example i starts from fold_in(key, i), and the flow of every draw has a closed form."""
    method = ode(controller=dfx.PIDController(rtol=1e-9, atol=1e-9), denoise=False)
    x, stats = make_sampler(EPS, method, (2,))(None, SDE, KEY, jnp.arange(5, 8))
    np.testing.assert_array_equal(stats.result, 0)

    def start(index):
        key = jax.random.split(jax.random.fold_in(KEY, index))[0]
        return prior_sample(key, SDE, (2,))

    first, last = (coefficients(SDE, t) for t in (SDE.t_max, SDE.t_min))
    scale = np.sqrt(
        (last.alpha**2 * VARIANCE + last.sigma**2) / (first.alpha**2 * VARIANCE + first.sigma**2)
    )
    prior = jax.vmap(start)(jnp.arange(5, 8))
    expected = last.alpha * MEAN + scale * (prior - first.alpha * MEAN)
    np.testing.assert_allclose(x, expected, atol=1e-7)


METHODS = {
    "ancestral": on_grid(ancestral(), 10),
    "ode": ode(dfx.Heun(), 10, grids.uniform_log_snr),
    "sde": reverse_sde(steps=10, grid=grids.quadratic),
}
ADAPTIVE = {"ode": ode(), "sde": reverse_sde(controller=dfx.PIDController(rtol=1e-2, atol=1e-2))}


ADAPTIVE_CASES = [("ode", 1e-5), pytest.param("sde", 1e-2, marks=pytest.mark.slow)]


def sharded(indices):
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    return jax.device_put(indices, NamedSharding(mesh, P("data")))


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("ode", "sde")]


@pytest.mark.parametrize("method", ["ancestral", *SLOW])
def test_an_example_does_not_depend_on_its_batch_or_devices(method):
    draw = make_sampler(EPS, METHODS[method], (2, 3))
    alone, _ = draw(None, SDE, KEY, jnp.arange(16))
    batch, _ = draw(None, SDE, KEY, jnp.arange(64))
    spread, stats = draw(None, SDE, KEY, sharded(jnp.arange(64)))
    assert len(spread.sharding.device_set) == 8
    sd = np.std(batch)
    assert np.abs(alone - batch[:16]).max() <= 1e-5 * sd
    assert np.abs(spread - batch).max() <= 1e-5 * sd
    assert stats.nfe.shape == (64,)
    shuffled, _ = draw(None, SDE, KEY, jnp.arange(16)[::-1])
    assert np.abs(alone[::-1] - shuffled).max() <= 1e-5 * sd
    assert len(np.unique(np.asarray(batch).round(4))) > 0.9 * batch.size


@pytest.mark.parametrize(("method", "tolerance"), ADAPTIVE_CASES)
def test_adaptive_examples_agree_to_ten_tolerances(method, tolerance):
    draw, by_shard = (
        make_sampler(EPS, ADAPTIVE[method], (3,), devices=devices)
        for devices in (None, jax.devices())
    )
    alone, few = draw(None, SDE, KEY, jnp.arange(16))
    spread, many = by_shard(None, SDE, KEY, jnp.arange(64))
    assert len(spread.sharding.device_set) == 8
    sd = np.std(spread)
    assert np.abs(alone - spread[:16]).max() <= 10 * tolerance * sd
    assert np.all(np.abs(few.nfe - many.nfe[:16]) <= 0.2 * few.nfe)


def test_noise_bits_are_those_of_the_index():
    """Prior and noise of three steps, alone, in a batch, over eight devices: equal bit by bit.

    The sampler adds up what it is given, x <- x + z, so nothing but noise is in the result.
    """

    def prepare(sde, ts):
        one, zero = jnp.ones_like(ts[1:]), jnp.zeros_like(ts[1:])
        return NoisyRow(ts[:-1], one, zero, zero, one)

    still = make_model(
        lambda params, x, t, cond: x, PREDICTIONS["velocity"], batched=False,
        scaling=no_scaling, conditioning=raw_time,
    )  # fmt: skip
    draw = make_sampler(still, on_grid(linear_sampler(prepare), 3, denoise=False), (2, 3))
    alone, _ = draw(None, SDE, KEY, jnp.arange(16))
    batch, _ = draw(None, SDE, KEY, jnp.arange(64))
    spread, _ = draw(None, SDE, KEY, sharded(jnp.arange(64)))
    np.testing.assert_array_equal(alone, batch[:16])
    np.testing.assert_array_equal(batch, spread)
    # Four independent standard normals, and no two examples or entries alike.
    many, _ = draw(None, SDE, KEY, jnp.arange(4096))
    assert np.var(many) == pytest.approx(4.0, abs=5 * 4.0 * np.sqrt(2 / many.size))
    assert len(np.unique(many)) > 0.99 * many.size


def test_it_compiles_once_for_new_keys_parameters_and_fields():
    traces = []

    def network(params, x, t, cond):
        traces.append(1)
        return params * x

    draw = make_sampler(
        make_model(network, PREDICTIONS["eps"], batched=False), on_grid(ddim(), 4), (2,)
    )
    outs = [draw(jnp.float32(0.5), SDE, KEY, jnp.arange(4))[0]]
    first = len(traces)
    outs.append(draw(jnp.float32(0.6), SDE, KEY, jnp.arange(4))[0])
    outs.append(draw(jnp.float32(0.5), processes.vp(beta_max=10.0), KEY, jnp.arange(4))[0])
    outs.append(draw(jnp.float32(0.5), SDE, jax.random.key(1), jnp.arange(4))[0])
    outs.append(draw(jnp.float32(0.5), SDE, KEY, jnp.arange(4, 8))[0])
    assert len(traces) == first
    for out in outs[1:]:
        assert np.all(out != outs[0])


def test_singular_starts_are_refused_before_anything_is_compiled():
    rf, n = processes.rectified_flow(), jnp.arange(2)
    eps = make_sampler(perfect(PREDICTIONS["eps"], rf), on_grid(ddim(), 4), (2,))
    with pytest.raises(ValueError, match=r"prediction 'eps': got t=1\.0 with alpha=0"):
        eps(None, rf, KEY, n)
    flow = perfect(PREDICTIONS["velocity"], rf)
    for method in (on_grid(euler_maruyama(), 4), reverse_sde(steps=4), reverse_sde()):
        with pytest.raises(ValueError, match=r"noise 'diffusion': got w\(1.0\) = inf"):
            make_sampler(flow, method, (2,))(None, rf, KEY, n)
    for grid in (grids.karras, grids.uniform_log_snr):
        methods = [
            on_grid(ddim(), 4, grid),
            ode(steps=4, grid=grid),
            reverse_sde(steps=4, grid=grid, noise=dynamics.sigma_noise),
        ]
        for method in methods:
            with pytest.raises(ValueError, match=f"{grid.__name__}: got t_max=1.0, where alpha"):
                make_sampler(flow, method, (2,))(None, rf, KEY, n)


def test_checks_are_made_once_for_equal_fields_and_a_refusal_is_repeated():
    seen = []

    @once_per_value
    def check(sde):
        seen.append(sde)
        if sde.t_max >= 1.0:
            raise ValueError("refused")

    level = np.float32([0.9])
    fine, same = (processes.vp(t_max=0.5, beta_max=b) for b in (20.0, 20.0))
    for sde in (fine, same, fine, processes.VP(t_max=level[0]), processes.VP(t_max=level[0])):
        check(sde)
    assert len(seen) == 2
    for _ in range(2):
        with pytest.raises(ValueError, match="refused"):
            check(processes.vp())
    check(processes.sub_vp(t_max=0.5))  # equal fields of another process
    check(processes.vp(t_max=0.5))
    assert len(seen) == 6
    table = processes.VP(t_max=level)
    check(table)
    level[0] = 1.0  # in place: the values count, not the object
    with pytest.raises(ValueError, match="refused"):
        check(table)
    jax.jit(check)(processes.vp())  # traced: nobody knows the values


@pytest.mark.parametrize("make", [lambda n: on_grid(ddim(), n), lambda n: ode(steps=n),
                                  lambda n: reverse_sde(steps=n)])  # fmt: skip
def test_less_than_one_step_is_refused(make):
    with pytest.raises(ValueError, match="steps: got 0; expected at least 1"):
        make(0)


def test_transform_condition_and_dtype_reach_the_run():
    def network(params, x, t, cond):
        return cond + 0 * x  # x0 = cond

    model = make_model(network, PREDICTIONS["x0"], batched=False)
    n, cond = jnp.arange(3), jnp.asarray([-3.0, 0.5, 2.0])
    limited = make_sampler(model, on_grid(ddim(), 2), (2,), transform=clipped(-1.0, 1.0))
    x, _ = limited(None, SDE, KEY, n, cond)
    np.testing.assert_array_equal(x[:, 0], [-1.0, 0.5, 1.0])
    with jax.enable_x64(True):
        for dtype in (jnp.float32, jnp.float64):
            x, _ = make_sampler(model, on_grid(ddim(), 2), (2,), dtype=dtype)(
                None, SDE, KEY, jnp.arange(3), cond.astype(dtype)
            )
            assert x.dtype == dtype
            np.testing.assert_array_equal(x[:, 0], cond)
    with pytest.raises(ValueError, match="dtype: got bfloat16"):
        make_sampler(model, on_grid(ddim(), 2), (2,), dtype=jnp.bfloat16)


def test_saved_states_and_reports_have_the_batch_axis():
    saving = on_grid(ancestral(), 5, save_at=jnp.asarray([0.8, 0.4]))
    x, stats = make_sampler(EPS, saving, (2,))(None, SDE, KEY, jnp.arange(3))
    assert x.shape == (3, 2)
    assert stats.saved.shape == (3, 2, 2)
    assert np.all(stats.nfe == 6)
