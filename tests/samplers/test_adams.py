"""The order of each Adams method: of one step with an exact history, and of a whole solve."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from local_error import LENGTHS, errors_on_gentle_grids, one_step_errors
from stats import slope

from sdejax import grids, processes, truth
from sdejax.samplers.adams import deis, exponential_adams, lms, t_deis
from sdejax.samplers.ancestral import ddim
from sdejax.samplers.base import on_grid, sample
from sdejax.samplers.exponential import DATA, NOISE

METHODS = {
    "lms": (lms, NOISE),
    "deis": (deis, NOISE),
    "t_deis": (t_deis, NOISE),
    "exponential_adams": (exponential_adams, DATA),
}
KEY = jax.random.key(0)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_one_step_has_an_error_of_h_to_the_order_plus_1(name, order, x64):
    make, form = METHODS[name]
    lengths = LENGTHS * (2.0 if order == 4 else 1.0)  # above rounding
    errors = one_step_errors(make(order), processes.vp(), form.pick, order, lengths)
    assert slope(lengths, errors) > order + 0.85, errors


@pytest.mark.parametrize("name", METHODS)
def test_the_solve_has_the_order_of_the_formula(name, x64):
    """Order 3 on the mixture, on a grid that starts with small steps; order 4 is slow."""
    ns = [64, 128, 256, 512, 1024]
    errors = errors_on_gentle_grids(METHODS[name][0](3), processes.vp(t_max=0.9), ns)
    rate = -slope(ns, errors)
    assert 2.85 < rate < 3.4, (rate, errors)


@pytest.mark.slow
@pytest.mark.parametrize("make", [processes.vp, processes.rectified_flow])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("order", [2, 4])
def test_the_solve_has_the_order_of_the_formula_2_and_4(make, name, order, x64):
    ns = [64, 128, 256, 512, 1024]
    errors = errors_on_gentle_grids(METHODS[name][0](order), make(t_max=0.9), ns)
    rate = -slope(ns, errors)
    assert order - 0.15 < rate < order + 0.6, (rate, errors)


@pytest.mark.parametrize("name", METHODS)
def test_order_1_is_ddim(name, x64):
    sde = processes.cosine()
    ts = jnp.asarray([0.9, 0.6, 0.5, 0.2, 0.05])
    denoiser = truth.denoiser(truth.gaussian(jnp.ones(2), jnp.eye(2) * 0.3), sde)
    x = jnp.asarray([0.4, -1.3])

    def end(sampler):
        return sample(KEY, sampler, sde, denoiser, x, ts, denoise=False)[0]

    one, other = jax.jit(lambda: (end(METHODS[name][0](1)), end(ddim())))()
    np.testing.assert_allclose(one, other, rtol=1e-12)


def test_lms_on_even_steps_of_r_is_adams_bashforth(x64):
    """The classical coefficients of Bashforth and Adams 1883, orders 2 to 4."""
    sde = processes.edm(0.1, 10.0)  # r = t
    classical = {2: [3 / 2, -1 / 2], 3: [23 / 12, -16 / 12, 5 / 12],
                 4: [55 / 24, -59 / 24, 37 / 24, -9 / 24]}  # fmt: skip
    ts = jnp.linspace(5.0, 1.0, 9)
    for order, weights in classical.items():
        rows = jax.jit(lms(order).prepare)(sde, ts)
        np.testing.assert_allclose(rows.b[-1], -0.5 * np.asarray(weights), rtol=1e-12)
        np.testing.assert_allclose(rows.a, 1.0, rtol=1e-15)


@pytest.mark.parametrize("make", [lms, deis, t_deis])
def test_eps_cannot_be_integrated_from_alpha_0(make):
    method = on_grid(make(3), 5, grids.uniform)
    method.require(processes.vp(), 1.0)
    with pytest.raises(ValueError, match=r"where alpha = 0.*exponential_adams_2"):
        method.require(processes.rectified_flow(), 1.0)
    on_grid(exponential_adams(3), 5, grids.uniform).require(processes.rectified_flow(), 1.0)


def test_x0_can_be_integrated_from_alpha_0_to_sigma_0(x64):
    """The whole linear path, 1 to 0, to the exact flow of a Gaussian; order 1 at either end."""
    sde = processes.rectified_flow()
    dist = truth.gaussian(jnp.asarray([0.5, -1.0]), jnp.asarray([[1.0, 0.4], [0.4, 0.5]]))
    z = jnp.asarray([0.7, -1.3])
    start, end = (truth.gaussian_flow(dist, sde, z, jnp.asarray(t)) for t in (1.0, 0.0))

    @jax.jit
    def error(ts):
        denoiser = truth.denoiser(dist, sde)
        out = sample(KEY, exponential_adams(3), sde, denoiser, start, ts, denoise=False)[0]
        return jnp.max(jnp.abs(out - end))

    ns, errors = [16, 32, 64, 128, 256], []
    for n in ns:
        # Half of its steps towards each end: the first and the last are of length 1/n^2.
        u = np.linspace(1.0, 0.0, n + 1)
        errors.append(error(jnp.asarray(np.pad(u * u * (3 - 2 * u), (256 - n, 0), mode="edge"))))
    assert -slope(ns, errors) > 1.85, errors


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("order", [0, 5])
def test_other_orders_are_refused(name, order):
    with pytest.raises(ValueError, match=f"{name}: got order={order}; expected 1 to 4"):
        METHODS[name][0](order)
