"""The quick compiler of the tests computes what the one that users have does (conftest)."""

import os

import jax
import jax.numpy as jnp
import numpy as np
from compiler_flags import QUICK, known
from jax.scipy.special import erf, erfinv, logsumexp
from oracles import PREDICTIONS, plane

from sdejax import processes, truth
from sdejax.denoiser import make_model
from sdejax.losses import make_loss

KEY = jax.random.key(0)
USERS = {"xla_cpu_use_fusion_emitters": True}
CRUDE = {"xla_backend_optimization_level": 0}


def functions(x):
    """Elementary functions, sums, and sums of products that cancel; x: [n] in (0, 1)."""
    t, y = x, 8 * x - 4
    table = x[:120].reshape(10, 12)
    return [
        jnp.exp(y), jnp.log(x), jnp.expm1(y), jnp.log1p(x), jnp.tanh(y), jnp.sin(y), jnp.cos(y),
        jnp.sqrt(x), jnp.reciprocal(y), 5000.0**x, jax.nn.silu(y), erf(y), erfinv(2 * x - 1),
        jnp.arctan2(x, y), y * y - (y + 0.3) * (y - 0.3), jnp.cumsum(y), table @ table.T,
        jnp.sqrt(-jnp.expm1(-(0.1 * t + 9.95 * t**2))), jnp.sum(y), jnp.mean(y**2), jnp.var(x),
        logsumexp(table, axis=1), jnp.linalg.inv(table[:, :10] + jnp.eye(10)),
        jax.random.normal(KEY, x.shape, x.dtype), jax.random.gumbel(KEY, x.shape, x.dtype),
    ]  # fmt: skip


def network(params, x, t, cond):
    return jnp.tanh(params @ x + t) * x[0]


def gradient(params):
    """Losses of a batch of points, and their mean's gradient."""
    model = make_model(network, PREDICTIONS["v"], batched=False)
    x = jax.vmap(lambda key: truth.sample(key, plane()))(jax.random.split(KEY, 16))
    loss_fn = make_loss(model, processes.vp(), 16)
    batch = {"x": x, "position": jnp.arange(16)}

    def mean(params):
        losses = loss_fn(params, KEY, batch)[0]
        return jnp.mean(losses), losses

    return jax.grad(mean, has_aux=True)(params)


POINTS = np.random.default_rng(0).uniform(0.001, 0.999, 1000).astype(np.float32)
PARAMS = np.asarray([[0.3, 0.5], [-0.4, 0.2]], np.float32)
ULPS = 4


def leaves(fn, x, options=None):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(jax.jit(fn, compiler_options=options)(x))]


def far(left, right):
    """The largest difference, in units of the last place."""
    return max(
        np.max(np.abs(a - b) / np.spacing(np.abs(b))) for a, b in zip(left, right, strict=True)
    )


def test_quick_programs_compute_what_users_programs_do():
    """To a few units of the last place; level 0, which rounds products first, is far off."""
    quick, users, crude = (leaves(functions, POINTS, way) for way in (None, USERS, CRUDE))
    assert all(np.all(np.isfinite(leaf)) for leaf in quick)
    assert far(quick, users) <= ULPS
    assert far(crude, users) > 2 * ULPS


def test_a_training_gradient_is_that_of_users():
    assert far(leaves(gradient, PARAMS), leaves(gradient, PARAMS, USERS)) <= ULPS


def test_flags_of_the_environment_win():
    flags = os.environ["XLA_FLAGS"].split()
    assert flags[-1] == "--xla_force_host_platform_device_count=8"
    assert [flag for flag in flags if flag in QUICK][: len(QUICK)] == known(QUICK)
    assert known(("--xla_no_such_flag=1", *QUICK)) == known(QUICK)
