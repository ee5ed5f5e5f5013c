import jax
import jax.numpy as jnp
import numpy as np
import pytest
from score_family import draw, params, score
from stats import K, assert_mean, slope

from sdejax import losses
from sdejax.divergence import hutchinson

KEY = jax.random.key(0)
THETA, X = params(1, np.float32), jnp.asarray([0.3, -0.7])


def wide(x):
    """A score in many dimensions: of N(0, S^2) with S from 0.7 to 1.4, bent a little."""
    return -x / jnp.linspace(0.5, 2.0, x.size, dtype=x.dtype) + 0.1 * jnp.sin(jnp.roll(x, 1))


def few(x):
    """A score in three dimensions whose Jacobian is not symmetric."""
    pull = jnp.asarray([[-1.0, 0.4, 0.1], [-0.2, -0.6, 0.5], [0.3, 0.2, -0.8]], x.dtype)
    return pull @ x + 0.3 * jnp.tanh(jnp.roll(x, 1))


CASES = {
    "few": (few, jnp.asarray([0.9, -1.2, 0.5])),
    "plane": (lambda x: score(THETA, x), X),
    "wide": (wide, jnp.asarray(np.random.default_rng(0).normal(size=16).astype(np.float32))),
}


@pytest.mark.parametrize("kind", ["gaussian", "rademacher"])
def test_the_losses_are_their_formulas(kind, strict):
    s, x = CASES["plane"]
    jacobian, value = jax.jacfwd(s)(x), s(x)
    v = hutchinson(3, kind).draw(KEY, x)
    curve = np.einsum("ki,ij,kj->k", v, jacobian, v)
    expected = np.mean(curve + 0.5 * (v @ value) ** 2)
    np.testing.assert_allclose(losses.sliced_loss(KEY, s, x, 3, kind), expected, rtol=1e-5)
    expected = np.mean(curve) + 0.5 * np.sum(value**2)
    np.testing.assert_allclose(losses.sliced_vr_loss(KEY, s, x, 3, kind), expected, rtol=1e-5)


@pytest.mark.parametrize("case", ["few", "wide"])
@pytest.mark.parametrize("kind", ["gaussian", "rademacher"])
def test_the_spread_due_to_directions_is_that_of_a_quadratic_form(case, kind):
    """2 |A|^2 for normal entries, 2 (|A|^2 - sum A_ii^2) for signs, with each loss's A."""
    s, x = CASES[case]
    jacobian, value = np.asarray(jax.jacfwd(s)(x), float), np.asarray(s(x), float)
    forms = {
        losses.sliced_loss: jacobian + 0.5 * np.outer(value, value),
        losses.sliced_vr_loss: jacobian,
    }
    keys = jax.random.split(KEY, 40_000)
    for loss, form in forms.items():
        a = 0.5 * (form + form.T)
        expected = 2 * np.sum(a**2) - (kind == "rademacher") * 2 * np.sum(np.diag(a) ** 2)
        losses_ = np.asarray(jax.vmap(lambda k, f=loss: f(k, s, x, 1, kind))(keys), float)
        centre = np.trace(jacobian) + 0.5 * value @ value
        assert_mean(losses_, centre)
        assert_mean((losses_ - centre) ** 2, expected)


@pytest.mark.parametrize(("case", "kind"), [("plane", "rademacher"), ("wide", "gaussian"),
                                            ("wide", "rademacher")])  # fmt: skip
def test_reduced_variance_over_data_and_directions(case, kind):
    """SSM-VR spreads less: on a mixture in the plane for signs, in 16 dimensions for both kinds."""
    if case == "plane":
        x0, eps = draw("mixture", 20_000)
        x = jnp.asarray((x0 + 0.5 * eps).astype(np.float32))
    else:
        x = jax.random.gamma(jax.random.key(1), 2.0, (20_000, 16)) - 2.0  # skewed
    keys = jax.random.split(KEY, len(x))
    plain, reduced = (
        np.asarray(jax.vmap(lambda k, x, f=f: f(k, CASES[case][0], x, 1, kind))(keys, x), float)
        for f in (losses.sliced_loss, losses.sliced_vr_loss)
    )
    more = (plain - plain.mean()) ** 2 - (reduced - reduced.mean()) ** 2
    assert more.mean() > K * more.std() / np.sqrt(len(more))


@pytest.mark.parametrize(("kind", "times"), [("gaussian", 2.0), ("rademacher", 1.5)])
def test_gradients_have_reduced_variance(kind, times):
    """On the mixture in the plane, summed over parameters: 2.6 and 1.8 times less."""
    x0, eps = draw("mixture", 20_000)
    x = jnp.asarray((x0 + 0.5 * eps).astype(np.float32))
    keys, spread = jax.random.split(KEY, len(x)), []
    for loss in (losses.sliced_loss, losses.sliced_vr_loss):
        of_theta = jax.grad(lambda p, k, x, f=loss: f(k, lambda x: score(p, x), x, 1, kind))
        gradients = jax.jit(jax.vmap(of_theta, in_axes=(None, 0, 0)))(THETA, keys, x)
        spread.append(sum(float(jnp.sum(jnp.var(leaf, axis=0))) for leaf in gradients.values()))
    assert spread[0] > times * spread[1]


def test_in_one_dimension_reduced_variance_is_not():
    """N(0, 1), normal v, the exact score: Var v^2 (x^2/2 - 1) = 2, Var (x^2/2 - v^2) = 2.5."""
    x = jax.random.normal(jax.random.key(1), (200_000, 1))
    keys = jax.random.split(KEY, len(x))
    for loss, expected in ((losses.sliced_loss, 2.0), (losses.sliced_vr_loss, 2.5)):
        found = jax.vmap(lambda k, x, f=loss: f(k, lambda x: -x, x, 1, "gaussian"))(keys, x)
        assert_mean((np.asarray(found, float) + 0.5) ** 2, expected)


@pytest.mark.parametrize("kind", ["gaussian", "rademacher"])
def test_finite_differences_of_a_score_are_biased_by_the_square_of_the_step(kind, x64):
    theta, x, steps = params(1), jnp.asarray([0.3, -0.7]), 0.2 * 0.5 ** np.arange(6)
    s = lambda x: score(theta, x)  # noqa: E731
    exact = losses.sliced_vr_loss(KEY, s, x, 4, kind)
    found = [losses.finite_difference_loss(KEY, s, x, h, 4, kind) for h in steps]
    assert 1.9 < slope(steps, np.abs(np.asarray(found) - exact)) < 2.1


@pytest.mark.parametrize("kind", ["gaussian", "rademacher"])
def test_finite_differences_of_an_energy_are_biased_by_the_square_of_the_step(kind, x64):
    """Against the sliced loss of its gradient, along the same directions."""

    def log_prob(x):
        return -0.5 * jnp.sum(x**2) + jnp.sin(x[0] + 2.0 * x[1]) + 0.2 * x[0] ** 3

    x, steps = jnp.asarray([0.3, -0.7]), 0.2 * 0.5 ** np.arange(6)
    exact = losses.sliced_loss(KEY, jax.grad(log_prob), x, 4, kind)
    found = [losses.finite_difference_energy_loss(KEY, log_prob, x, h, 4, kind) for h in steps]
    assert 1.9 < slope(steps, np.abs(np.asarray(found) - exact)) < 2.1


def test_the_default_steps_suit_float32(strict):
    """Their error is bias, of a per cent at most, and not rounding."""
    s = CASES["plane"][0]
    np.testing.assert_allclose(
        losses.finite_difference_loss(KEY, s, X), losses.sliced_vr_loss(KEY, s, X), rtol=1e-2
    )
    log_prob = lambda x: 100.0 - 0.5 * jnp.sum(x**2) + jnp.sin(x[0])  # noqa: E731
    np.testing.assert_allclose(
        losses.finite_difference_energy_loss(KEY, log_prob, X, probes=4),
        losses.sliced_loss(KEY, jax.grad(log_prob), X, 4, "rademacher"),
        rtol=1e-2,
    )


def test_calls():
    """One, one, two a direction; of an energy two a direction and one."""
    calls = []

    def counted(x):
        jax.debug.callback(lambda _: calls.append(1), jnp.sum(x))
        return x

    counts = {
        losses.sliced_loss: 1, losses.sliced_vr_loss: 1, losses.finite_difference_loss: 6,
        losses.finite_difference_energy_loss: 7,
    }  # fmt: skip
    for loss, expected in counts.items():
        calls.clear()
        energy = loss is losses.finite_difference_energy_loss
        loss(KEY, (lambda x: jnp.sum(counted(x))) if energy else counted, X, probes=3)
        jax.effects_barrier()
        assert len(calls) == expected, loss.__name__


def test_directions_are_checked():
    with pytest.raises(ValueError, match="probes=0"):
        losses.sliced_loss(KEY, wide, X, 0)
    with pytest.raises(ValueError, match="kind='normal'"):
        losses.finite_difference_loss(KEY, wide, X, kind="normal")
