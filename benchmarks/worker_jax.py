"""The JAX worker of the speed benchmark: the library, and the same loops written by hand.

"ours" calls ``train_step`` with ``make_loss`` and ``make_sampler``; "hand" is what somebody writes
who needs this one case: batch-first functions, keys for the batch, coefficients as constants.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import diffrax as dfx
import jax
import jax.numpy as jnp
import optax

from benchmarks.jobs import EMA, GEMM, LEARNING_RATE, SIGMA_DATA, T_MIN, WORKLOADS
from benchmarks.nets_jax import NETWORKS
from benchmarks.worker import Job, serve
from sdejax import coordinates, grids, prediction
from sdejax.denoiser import Model, init_linen, linen_functions, make_model
from sdejax.losses import make_loss
from sdejax.processes import vp
from sdejax.samplers.ancestral import ddim
from sdejax.samplers.base import Method, on_grid
from sdejax.samplers.diffeq import ode
from sdejax.samplers.make import make_sampler
from sdejax.sde import coefficients
from sdejax.train.state import init_state
from sdejax.train.step import train_step

SDE = vp(t_min=T_MIN)


def _network(name: str) -> tuple[Any, Any]:
    module = NETWORKS[name]()
    return module, init_linen(jax.random.key(0), module, WORKLOADS[name].event)


def _model(module: Any) -> Model:
    apply_fn, train_apply_fn = linen_functions(module)
    return make_model(apply_fn, prediction.eps, batched=True, train_apply_fn=train_apply_fn)


def _data(name: str) -> jax.Array:
    load = WORKLOADS[name]
    return jax.random.normal(jax.random.key(1), (load.batch, *load.event))


def train_ours(name: str) -> Callable[[], None]:
    """The library's train step."""
    load, (module, params) = WORKLOADS[name], _network(name)
    tx = optax.adam(LEARNING_RATE)
    loss_fn = make_loss(_model(module), SDE, load.batch)
    step = jax.jit(partial(train_step, loss_fn, tx, EMA), donate_argnums=0)
    state = init_state(params, tx, jax.random.key(2))
    batch = {"x": _data(name), "position": jnp.arange(load.batch)}

    def run():
        nonlocal state
        for _ in range(load.train_steps):
            state, metrics = step(state, batch)
        jax.block_until_ready(metrics)

    return run


def _levels(t: jax.Array) -> tuple[jax.Array, jax.Array]:
    c = jax.vmap(lambda t: coefficients(SDE, t))(t)
    return c.alpha, c.sigma


def _predict(module: Any, params: Any, x: jax.Array, alpha: jax.Array, sigma: jax.Array):
    c_in = jax.lax.rsqrt((alpha * SIGMA_DATA) ** 2 + sigma**2)
    shape = (-1, *(1,) * (x.ndim - 1))
    label = 0.25 * jnp.log(sigma / alpha)
    return module.apply({"params": params}, c_in.reshape(shape) * x, label)


def train_hand(name: str) -> Callable[[], None]:
    """The same step by hand."""
    load, (module, params) = WORKLOADS[name], _network(name)
    tx = optax.adam(LEARNING_RATE)

    def loss_fn(params, x0, key):
        time_key, noise_key = jax.random.split(key)
        t = T_MIN + (1.0 - T_MIN) * jax.random.uniform(time_key, (load.batch,))
        alpha, sigma = _levels(t)
        eps = jax.random.normal(noise_key, x0.shape)
        shape = (-1, *(1,) * (x0.ndim - 1))
        x = alpha.reshape(shape) * x0 + sigma.reshape(shape) * eps
        return jnp.mean((_predict(module, params, x, alpha, sigma) - eps) ** 2)

    @partial(jax.jit, donate_argnums=0)
    def step(state, x0):
        params, opt, average, key = state
        key, now = jax.random.split(key)
        loss, grads = jax.value_and_grad(loss_fn)(params, x0, now)
        updates, opt = tx.update(grads, opt)
        params = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda a, p: a + (1.0 - EMA) * (p - a), average, params)
        return (params, opt, average, key), loss

    state = (params, tx.init(params), jax.tree.map(jnp.copy, params), jax.random.key(2))
    x0 = _data(name)

    def run():
        nonlocal state
        for _ in range(load.train_steps):
            state, loss = step(state, x0)
        jax.block_until_ready(loss)

    return run


def _sampler(name: str, method: Method) -> tuple[Callable, tuple]:
    load, (module, params) = WORKLOADS[name], _network(name)
    draw = make_sampler(_model(module), method, load.event)
    return draw, (params, SDE, jax.random.key(3), jnp.arange(load.batch))


def sample_ours(name: str, method: Method | None = None) -> Callable[[], None]:
    """The library's sampler, by default DDIM."""
    steps = WORKLOADS[name].sample_steps
    draw, args = _sampler(name, method or on_grid(ddim(), steps, grids.uniform))
    return lambda: jax.block_until_ready(draw(*args))


def sample_hand(name: str) -> Callable[[], None]:
    """DDIM by hand: one scan, batch first, coefficients as constants."""
    load, (module, params) = WORKLOADS[name], _network(name)
    alphas, sigmas = _levels(jnp.linspace(1.0, T_MIN, load.sample_steps + 1))

    @jax.jit
    def draw(params, key):
        x = sigmas[0] * jax.random.normal(key, (load.batch, *load.event))
        ones = jnp.ones(load.batch)

        def step(x, row):
            alpha, sigma, next_alpha, next_sigma = row
            eps = _predict(module, params, x, alpha * ones, sigma * ones)
            return next_alpha * (x - sigma * eps) / alpha + next_sigma * eps, None

        x, _ = jax.lax.scan(step, x, (alphas[:-1], sigmas[:-1], alphas[1:], sigmas[1:]))
        eps = _predict(module, params, x, alphas[-1] * ones, sigmas[-1] * ones)
        return (x - sigmas[-1] * eps) / alphas[-1]

    key = jax.random.key(3)
    return lambda: jax.block_until_ready(draw(params, key))


def forward(name: str) -> Callable[[], None]:
    """One evaluation of the network on the batch, as the unit of the loop's overhead."""
    load, (module, params) = WORKLOADS[name], _network(name)
    call = jax.jit(lambda params, x, t: module.apply({"params": params}, x, t))
    args = (params, _data(name), jnp.full((load.batch,), 0.1))
    return lambda: jax.block_until_ready(call(*args))


def diffrax_method(steps: int) -> Method:
    """Euler by diffrax in noise coordinates, which is DDIM."""
    return ode(dfx.Euler(), steps, grids.uniform, coordinates=coordinates.noise)


def gemm() -> Callable[[], Any]:
    """The roofline."""
    a = jax.random.normal(jax.random.key(0), (GEMM, GEMM))
    product = jax.jit(jnp.matmul)
    return lambda: jax.block_until_ready(product(a, a))


def compiling(name: str, steps: int) -> dict[str, float]:
    """CPU seconds to compile a sampler, afresh, and its temporary memory in bytes."""
    jax.clear_caches()
    draw, args = _sampler(name, on_grid(ddim(), steps, grids.uniform))
    start = time.process_time()
    compiled = jax.jit(draw).lower(*args).compile()
    seconds = time.process_time() - start
    memory = compiled.memory_analysis().temp_size_in_bytes
    return {"seconds": seconds, "temp_bytes": memory}


def resident(name: str, steps: int) -> int:
    """Peak resident memory of this process in KiB after sampling: ask a fresh worker."""
    sample_ours(name, on_grid(ddim(), steps, grids.uniform))()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def parameters(name: str) -> int:
    """Number of parameters of a network."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(_network(name)[1]))


def jobs() -> dict[str, Job]:
    """Everything that is timed."""
    found: dict[str, Job] = {"gemm": gemm}
    for name, load in WORKLOADS.items():
        found[f"{name} train"] = partial(train_ours, name)
        found[f"{name} train by hand"] = partial(train_hand, name)
        found[f"{name} sample"] = partial(sample_ours, name)
        found[f"{name} sample by hand"] = partial(sample_hand, name)
        found[f"{name} forward"] = partial(forward, name)
        found[f"{name} sample diffrax"] = partial(
            sample_ours, name, diffrax_method(load.sample_steps)
        )
    return found


if __name__ == "__main__":
    values: dict[str, Callable[[], Any]] = {}
    for workload in WORKLOADS:
        values[f"{workload} parameters"] = partial(parameters, workload)
        for count in (10, 1000):
            values[f"{workload} compile {count}"] = partial(compiling, workload, count)
            values[f"{workload} memory {count}"] = partial(resident, workload, count)
    serve(jobs(), values)
