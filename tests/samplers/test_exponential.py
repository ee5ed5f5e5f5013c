"""Weights against adaptive quadrature of polynomials, order at both ends, derivatives.

The reference: the polynomial through the values e_j at the nodes u_j, found by solving a
Vandermonde system, integrated over dr = r'(u) du by QUADPACK with alpha and sigma of the papers.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import PUBLISHED
from scipy.integrate import quad
from stats import slope

from sdejax import processes, truth
from sdejax.samplers.exponential import DATA, LOG_RATIO, NOISE, RATIO, TIME, adams, first_order
from sdejax.samplers.multistep import rising_orders
from sdejax.sde import coefficients

TIMES = {
    "vp": [0.95, 0.7, 0.62, 0.35, 0.2, 0.04],
    "edm": [60.0, 21.0, 14.0, 3.0, 0.7, 0.02],
    "rectified_flow": [0.97, 0.8, 0.66, 0.35, 0.2, 0.03],
}
FORMS = {"noise": NOISE, "data": DATA}
VARIABLES = {"ratio": RATIO, "log_ratio": LOG_RATIO, "time": TIME}
# The polynomials in t go with the noise form alone: in the data form r' spans decades in a step.
PAIRS = [(f, v) for f in FORMS for v in VARIABLES if (f, v) != ("data", "time")]


def tables(sde, ts, order, pairs):
    """{(form, variable, implicit): weights}, compiled at once."""

    @jax.jit
    def build(sde, ts):
        orders = rising_orders(ts.shape[0] - 1, order)
        return [
            adams(FORMS[f], VARIABLES[v], sde, ts, order, orders, implicit=implicit)
            for f, v in pairs
            for implicit in (False, True)
        ]

    keys = [(*pair, implicit) for pair in pairs for implicit in (False, True)]
    return dict(zip(keys, map(np.asarray, build(sde, jnp.asarray(ts))), strict=True))


def ratio_and_scale(name, form, t):
    alpha, sigma = (k(np.longdouble(t)) for k in PUBLISHED[name][:2])
    return (sigma / alpha, alpha) if form == "noise" else (alpha / sigma, sigma)


def refined_inverse(matrix):
    """The inverse of a longdouble matrix, by Newton's iteration from that of LAPACK."""
    inverse = np.linalg.inv(matrix.astype(float)).astype(np.longdouble)
    for _ in range(3):
        inverse = inverse @ (2 * np.eye(len(matrix)) - matrix @ inverse)
    return inverse


def by_quadrature(name, form, variable, ts, i, used):
    """The weights of the nodes ``used`` (indices of ts) for the step from ts[i] to ts[i + 1]."""

    def r(t):
        return ratio_and_scale(name, form, t)[0]

    u = {"ratio": r, "log_ratio": lambda t: np.log(r(t)), "time": np.longdouble}[variable]
    # Measured from the middle and in units of the step, in longdouble: nodes lie close together.
    middle, unit = 0.5 * (u(ts[i]) + u(ts[i + 1])), u(ts[i + 1]) - u(ts[i])
    place = np.asarray([(u(ts[j]) - middle) / unit for j in used])
    inverse = refined_inverse(np.vander(place, increasing=True))  # column j: l_j's coefficients

    def density(v):
        """dr/du at u = middle + unit v."""
        p = middle + unit * np.longdouble(v)
        if variable == "ratio":
            return unit
        if variable == "log_ratio":
            return unit * np.exp(p)
        # dr/dt = +-r lambda', and lambda' = alpha'/alpha - sigma'/sigma from f and g
        published, t = PUBLISHED[name], np.float64(p)
        rate = float(published.g(t) ** 2 / (2 * published.sigma(t) ** 2))
        return unit * r(t) * (rate if form == "noise" else -rate)

    scale = ratio_and_scale(name, form, ts[i + 1])[1]
    return [
        scale
        * quad(
            lambda v, j=j: float(
                density(v) * np.polynomial.polynomial.polyval(v, inverse[:, j])
            ),
            -0.5, 0.5, epsabs=0, epsrel=1e-12,
        )[0]
        for j in range(len(used))
    ]  # fmt: skip


@pytest.mark.parametrize("name", TIMES)
def test_weights_are_integrals_of_the_interpolating_polynomial(name, x64):
    sde, ts = getattr(processes, name)(), TIMES[name]
    for (form, variable, implicit), got in tables(sde, ts, 4, PAIRS).items():
        b = first_order(FORMS[form], sde, jnp.asarray(ts))[1]
        np.testing.assert_allclose(got.sum(1), b, rtol=0, atol=1e-12 * np.abs(got).max())
        for i in range(5):
            used = ([i + 1] if implicit else []) + [i - j for j in range(min(i + 1, 4))]
            expected = by_quadrature(name, form, variable, ts, i, used)
            # Rounding is relative to the largest of alternating weights.
            atol = 1e-10 * np.max(np.abs(expected))
            np.testing.assert_allclose(got[i, : len(used)], expected, rtol=0, atol=atol)
            assert np.all(got[i, len(used) :] == 0.0)


def test_first_order_is_exact_for_constant_estimates(x64):
    """x0 and eps constant along a step: alpha x0 + sigma eps at both ends."""
    for name, ts in TIMES.items():
        sde = getattr(processes, name)()
        alpha, sigma = (np.asarray(k(np.asarray(ts)), float) for k in PUBLISHED[name][:2])
        for form, value, other in ((NOISE, -1.7, 0.0), (DATA, 0.8, 0.0)):
            a, b = first_order(form, sde, jnp.asarray(ts))
            # The other half is free: the state carries it through the exact linear part.
            for other in (0.0, 2.3):
                x0, eps = (other, value) if form is NOISE else (value, other)
                x = alpha * x0 + sigma * eps
                np.testing.assert_allclose(a * x[:-1] + b * value, x[1:], rtol=1e-12, atol=1e-14)


ENDS = {
    "edm": (processes.edm(), [3.0, 1.1, 0.4, 0.1, 0.0]),
    "rectified_flow": (processes.rectified_flow(), [0.8, 0.5, 0.3, 0.1, 0.0]),
}


@pytest.mark.parametrize("name", ENDS)
def test_the_step_to_sigma_0(name, x64):
    """Of order 1 in log r, and in r or t of the noise form an ordinary step."""
    sde, ts = ENDS[name]
    pairs = [(f, v) for f, v in PAIRS if (f, v) != ("data", "ratio")]  # there r is infinite
    for (form, variable, implicit), got in tables(sde, ts, 3, pairs).items():
        assert np.all(np.isfinite(got))
        if variable == "log_ratio":
            b = first_order(FORMS[form], sde, jnp.asarray(ts))[1]
            expected = np.zeros(got.shape[1])
            expected[1 if implicit else 0] = b[-1]  # of m_i
            np.testing.assert_allclose(got[-1], expected, rtol=1e-14)
        else:
            used = ([4] if implicit else []) + [3, 2, 1]
            expected = by_quadrature(name, form, variable, ts, 3, used)
            np.testing.assert_allclose(got[-1], expected, rtol=1e-9, atol=1e-12)


def test_the_order_is_kept_to_sigma_0_by_polynomials_of_r(x64):
    """One step of length h to sigma = 0 with an exact history.

    eps of a Gaussian is odd in r, so there order 2 is as good as order 3; log r has h^2.
    """
    sde = processes.rectified_flow()
    dist = truth.gaussian(jnp.asarray([0.5, -1.0]), jnp.asarray([[1.0, 0.4], [0.4, 0.5]]))
    z = jnp.asarray([0.7, -1.3])
    lengths = 0.04 / 2.0 ** np.arange(5)

    def errors(variable, order):
        def error(h):
            ts = h * jnp.asarray([2.7, 1.8, 1.0, 0.0])
            x = jax.vmap(lambda t: truth.gaussian_flow(dist, sde, z, t))(ts)
            eps = jax.vmap(lambda x, t: truth.denoiser(dist, sde)(x, t).eps)(x, ts)
            a, _ = first_order(NOISE, sde, ts)
            b = adams(NOISE, variable, sde, ts, order, rising_orders(3, order))
            end = a[-1] * x[2] + sum(b[-1, j] * eps[2 - j] for j in range(order))
            return jnp.max(jnp.abs(end - x[3]))

        return jax.jit(jax.vmap(error))(jnp.asarray(lengths))

    assert 1.85 < slope(lengths, errors(LOG_RATIO, 3)) < 2.15
    for order, expected in ((1, 2), (2, 4), (3, 4)):
        assert abs(slope(lengths, errors(RATIO, order)) - expected) < 0.15


def test_the_start_at_alpha_0(x64):
    """From t = 1 of the linear path: order 1, and its node is left out of the steps after it."""
    sde, ts = processes.rectified_flow(), [1.0, 0.8, 0.66, 0.35, 0.2]
    got = tables(sde, ts, 3, [("data", "log_ratio")])["data", "log_ratio", False]
    b = first_order(DATA, sde, jnp.asarray(ts))[1]
    np.testing.assert_allclose(got[0], [0.2, 0.0, 0.0], rtol=1e-14)  # alpha_s x0, nothing of x_1
    np.testing.assert_allclose(got[1], [b[1], 0.0, 0.0], rtol=1e-12)
    for i, used in ((2, [2, 1]), (3, [3, 2, 1])):
        expected = by_quadrature("rectified_flow", "data", "log_ratio", ts, i, used)
        np.testing.assert_allclose(got[i, : len(used)], expected, rtol=1e-10)
        assert np.all(got[i, len(used) :] == 0.0)


def test_steps_of_length_zero_weigh_nothing(x64):
    pairs = [(form, "log_ratio") for form in FORMS]
    for got in tables(processes.vp(), [0.9, 0.6, 0.6, 0.3, 0.3], 3, pairs).values():
        assert np.all(np.isfinite(got))
        np.testing.assert_array_equal(got[[1, 3]], 0.0)


@pytest.mark.parametrize(
    ("sde", "ts"),
    [(processes.vp(), TIMES["vp"]), *ENDS.values(), (processes.rectified_flow(), [1.0, 0.6, 0.0])],
    ids=["vp", "edm-0", "rectified_flow-0", "rectified_flow-1-0"],
)
def test_derivatives_are_finite_and_right(sde, ts, x64):
    """With respect to the times and the process, also at both ends; by differences inside."""
    ts = jnp.asarray(ts)
    forms = (DATA,) if float(coefficients(sde, ts[0]).alpha) == 0.0 else (NOISE, DATA)

    @jax.jit
    def total(sde, ts):
        n = ts.shape[0] - 1
        tables = [
            adams(form, LOG_RATIO, sde, ts, 3, rising_orders(n, 3), implicit=implicit)
            for form in forms
            for implicit in (False, True)
        ]
        return sum(jnp.sum(jnp.sin(table)) for table in tables)

    by_sde, by_ts = jax.jit(jax.grad(total, (0, 1)))(sde, ts)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((by_sde, by_ts)))
    for i in range(1, len(ts) - 1):
        step = 1e-5 * float(ts[i])
        bump = jnp.zeros_like(ts).at[i].set(step)
        difference = (total(sde, ts + bump) - total(sde, ts - bump)) / (2 * step)
        np.testing.assert_allclose(by_ts[i], difference, rtol=1e-5, atol=1e-6)
