"""UniPC against the linear systems of the paper, its alignment of history, and its order.

For the nodes r_1 .. r_p (r = (lambda_j - lambda_i)/h of earlier evaluations, and 1 for the end of
the step in the corrector) the paper solves sum_m a_m r_m^(k-1) = g_k/B, k = 1..p, and steps by

    x_s = (sigma_s/sigma_t) x_t + alpha_s (1 - e^-h) m_0 + alpha_s B sum_m a_m (m_m - m_0)/r_m.

g_k is what makes x0 = (lambda - lambda_t)^k exact: int_0^1 h e^(-h (1 - v)) v^k dv.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from local_error import errors_on_gentle_grids
from oracles import PUBLISHED
from scipy.integrate import quad
from stats import slope

from sdejax import processes
from sdejax.prediction import Estimate
from sdejax.samplers.base import sample
from sdejax.samplers.unipc import unipc

KEY = jax.random.key(0)
TIMES = {
    "vp": [0.95, 0.7, 0.62, 0.35, 0.2, 0.12, 0.04],
    "rectified_flow": [0.97, 0.8, 0.66, 0.35, 0.2, 0.1, 0.03],
}


def curves(name, ts):
    return tuple(np.asarray(k(np.asarray(ts)), float) for k in PUBLISHED[name][:2])


def by_the_paper(name, ts, i, order, variant, corrector):
    """Weights of m_{i+1} (corrector only), m_i, m_{i-1}, ... for the step from i to i + 1."""
    alpha, sigma = curves(name, ts)
    lam = np.log(alpha / sigma)
    h, a = lam[i + 1] - lam[i], alpha[i + 1]
    others = [i - j for j in range(1, order)] + ([i + 1] if corrector else [])
    r = np.asarray([(lam[j] - lam[i]) / h for j in others])
    big = h if variant == "bh1" else 1 - np.exp(-h)  # B(h)
    if len(r) == 1:
        solved = np.asarray([0.5])
    else:
        g = [quad(lambda v, k=k: h * np.exp(h * (v - 1)) * v**k, 0, 1, epsabs=1e-15)[0]
             for k in range(1, len(r) + 1)]  # fmt: skip
        solved = np.linalg.solve(np.vander(r, increasing=True).T, np.asarray(g) / big)
    parts = dict(zip(others, a * big * solved / r, strict=True))
    parts[i] = a * (1 - np.exp(-h)) - sum(parts.values())
    nodes = ([i + 1] if corrector else []) + [i - j for j in range(order)]
    return [parts[j] for j in nodes]


def orders(order, n, lower_final):
    rising = [min(i + 1, order) for i in range(n)]
    return [min(o, n + 1 - i) for i, o in enumerate(rising)] if lower_final else rising


@pytest.mark.parametrize(
    ("name", "variant", "lower_final"),
    [("vp", "bh1", False), ("vp", "bh2", True), ("rectified_flow", "bh2", False)],
)
def test_weights_solve_the_papers_systems(name, variant, lower_final, x64):
    sde, ts = getattr(processes, name)(), TIMES[name]
    _, sigma = curves(name, ts)
    samplers = {order: unipc(order, variant, lower_final) for order in (1, 2, 3, 4)}
    tables = jax.jit(lambda ts: {k: s.prepare(sde, ts) for k, s in samplers.items()})(
        jnp.asarray(ts)
    )
    for order, rows in tables.items():
        used = orders(order, 6, lower_final)
        np.testing.assert_allclose(rows.a, sigma[1:] / sigma[:-1], rtol=1e-12)
        np.testing.assert_allclose(rows.p[1:], rows.a[:-1], rtol=1e-12)
        np.testing.assert_array_equal(rows.kept, [1, 0, 0, 0, 0, 0])
        assert np.all(rows.q[0] == 0.0)
        assert rows.p[0] == 0.0
        for i in range(6):
            expected = by_the_paper(name, ts, i, used[i], variant, False)
            np.testing.assert_allclose(rows.b[i, : used[i]], expected, rtol=1e-8)
            assert np.all(rows.b[i, used[i] :] == 0.0)
        for i in range(1, 6):  # the corrector of the step before
            expected = by_the_paper(name, ts, i - 1, used[i - 1], variant, True)
            np.testing.assert_allclose(rows.q[i, : used[i - 1] + 1], expected, rtol=1e-8)
            assert np.all(rows.q[i, used[i - 1] + 1 :] == 0.0)


def test_predict_evaluate_correct(x64):
    """Written out with all evaluations kept: m_i is taken at the prediction, and corrects it."""
    name, ts, order = "vp", TIMES["vp"], 3
    sde = processes.vp()
    _, sigma = curves(name, ts)

    def x0(x, t):
        return np.sin(2 * x) + t * x

    def denoiser(x, t):
        return Estimate(jnp.sin(2 * x) + t * x, jnp.full_like(x, jnp.nan))

    sampler = unipc(order, lower_final=False)
    out, stats = jax.jit(lambda x, ts: sample(KEY, sampler, sde, denoiser, x, ts, denoise=False))(
        jnp.asarray([0.4, -1.1]), jnp.asarray(ts)
    )
    predicted, m = np.asarray([0.4, -1.1]), []
    for i in range(6):
        m.append(x0(predicted, ts[i]))
        if i == 0:
            base = predicted
        else:
            o = min(i, order)
            w = by_the_paper(name, ts, i - 1, o, "bh2", True)
            base = sigma[i] / sigma[i - 1] * base + sum(w[j] * m[i - j] for j in range(o + 1))
        o = min(i + 1, order)
        w = by_the_paper(name, ts, i, o, "bh2", False)
        predicted = sigma[i + 1] / sigma[i] * base + sum(w[j] * m[i - j] for j in range(o))
    np.testing.assert_allclose(out, predicted, rtol=1e-10)
    assert stats.nfe == 6


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("order", "variant"),
    [(1, "bh2"), (2, "bh1"), (3, "bh2"), pytest.param(1, "bh1", marks=SLOW),
     pytest.param(2, "bh2", marks=SLOW), pytest.param(4, "bh2", marks=SLOW)],
)  # fmt: skip
def test_predictor_and_corrector_have_one_order_more(order, variant, x64):
    ns = [32, 64, 128, 256, 512] if order == 4 else [64, 128, 256, 512, 1024]
    sampler = unipc(order, variant, lower_final=False)
    errors = errors_on_gentle_grids(sampler, processes.vp(t_max=0.9), ns)
    rate = -slope(ns, errors)
    assert rate > order + 0.85, (rate, errors)


def test_both_ends_are_finite_and_of_order_1(x64):
    """Times from alpha = 0 to sigma = 0, and the derivatives there."""
    sde, ts = processes.rectified_flow(), jnp.asarray([1.0, 0.7, 0.5, 0.2, 0.0])
    for order in (1, 3):
        sampler = unipc(order)

        def total(sde, ts, sampler=sampler):
            return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(sampler.prepare(sde, ts)))

        rows = jax.jit(sampler.prepare)(sde, ts)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(rows))
        np.testing.assert_allclose(rows.a[-1], 0.0, atol=1e-15)
        np.testing.assert_allclose(rows.b[-1], np.eye(order)[0], atol=1e-14)
        np.testing.assert_allclose(rows.b[0], 0.3 * np.eye(order)[0], rtol=1e-12)
        grads = jax.jit(jax.grad(total, (0, 1)))(sde, ts)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grads))


def test_other_orders_and_variants_are_refused():
    with pytest.raises(ValueError, match="unipc: got order=5; expected 1 to 4"):
        unipc(5)
    with pytest.raises(ValueError, match=r"got variant='bh3'; expected one of \['bh1', 'bh2'\]"):
        unipc(3, "bh3")
