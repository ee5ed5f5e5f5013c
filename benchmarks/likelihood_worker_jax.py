"""The JAX worker of the likelihood benchmark: the library's solves, and the cost of its traces."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import likelihood_jobs as what
from benchmarks import ours
from benchmarks.densities import draw, errors, model_log_density
from benchmarks.jobs import WORKLOADS
from benchmarks.nets_jax import NETWORKS
from benchmarks.problems import cloud
from benchmarks.worker import Job, serve
from sdejax import coordinates, divergence, prediction, processes, truth
from sdejax.conditioning import raw_time
from sdejax.denoiser import init_linen, linen_functions, make_denoiser, make_model, no_scaling
from sdejax.divergence import Divergence, value_and_trace
from sdejax.likelihood import log_likelihood
from sdejax.prediction import Denoiser

SDE = processes.rectified_flow()
PROBLEM = cloud("D16", 16)
TIGHT = 1e-9
DIVERGENCES: dict[str, Divergence] = {
    "exact": divergence.exact(),
    **{str(k): divergence.hutchinson(k) for k in (1, 4, 8)},
}


def train(steps: int = 3000, batch: int = 256, seed: int = 0) -> float:
    """Trains MLP-S on draws of D16 to give the velocity; writes its arrays, returns the loss.

    Args:
        steps: of Adam, its rate falling to 0 by a cosine.
        batch: examples a step.
        seed: of everything.
    """
    module = NETWORKS["MLP-S"]()
    params = init_linen(jax.random.key(seed), module, (16,))
    data = jnp.asarray(draw(PROBLEM, 65_536, seed=12), jnp.float32)
    tx = optax.adam(optax.cosine_decay_schedule(1e-3, steps))

    def loss_fn(params, key):
        rows, times, noise = jax.random.split(key, 3)
        x0 = data[jax.random.randint(rows, (batch,), 0, len(data))]
        t, eps = jax.random.uniform(times, (batch,)), jax.random.normal(noise, x0.shape)
        x = (1.0 - t)[:, None] * x0 + t[:, None] * eps
        return jnp.mean((module.apply({"params": params}, x, t) - (eps - x0)) ** 2)

    @jax.jit
    def step(state, key):
        params, opt = state
        loss, grads = jax.value_and_grad(loss_fn)(params, key)
        updates, opt = tx.update(grads, opt)
        return (optax.apply_updates(params, updates), opt), loss

    state, losses = (params, tx.init(params)), []
    for key in jax.random.split(jax.random.key(seed + 1), steps):
        state, loss = step(state, key)
        losses.append(loss)
    layers = [state[0][f"Dense_{i}"] for i in range(what.KERNELS)]
    np.savez(
        os.environ[what.WEIGHTS],
        **{f"{name}_{i}": np.asarray(v[name]) for i, v in enumerate(layers) for name in v},
    )
    return float(np.mean(losses[-200:]))


def _denoiser(case: str, dtype: Any) -> Denoiser:
    """The exact denoiser of the mixture, or that of the network."""
    if case == "D16":
        return truth.denoiser(ours.distribution(PROBLEM), SDE)
    apply_fn, _ = linen_functions(NETWORKS["MLP-S"]())
    model = make_model(
        apply_fn, prediction.velocity, batched=True, conditioning=raw_time, scaling=no_scaling
    )
    found = {k: jnp.asarray(v, dtype) for k, v in what.weights().items()}
    params = {
        f"Dense_{i}": {name: found[f"{name}_{i}"] for name in ("kernel", "bias")}
        for i in range(what.KERNELS)
    }
    return make_denoiser(model, params, SDE)


def _precision(dtype: Any) -> contextlib.AbstractContextManager:
    return jax.enable_x64(dtype == jnp.float64)


def _solve(case: str, trace: str, dtype: Any, points: int) -> Callable[[float], Any]:
    """tolerance -> the report of the batch."""
    with _precision(dtype):
        x, denoiser = jnp.asarray(what.data(points), dtype), _denoiser(case, dtype)
        keys = jax.random.split(jax.random.key(0), len(x))

        def one(key, x, tolerance):
            return log_likelihood(
                key,
                SDE,
                denoiser,
                x,
                divergence=DIVERGENCES[trace],
                coordinates=coordinates.native if case.endswith("native") else None,
                tolerance=tolerance,
            )

        solve = jax.jit(jax.vmap(one, (0, 0, None)))

    def run(tolerance):
        with _precision(dtype):
            return jax.block_until_ready(solve(keys, x, jnp.asarray(tolerance, dtype)))

    return run


def timed(case: str, trace: str, tolerance: float) -> Callable[[], Any]:
    """One likelihood of the batch."""
    run = _kept(case, trace, jnp.float64 if case == "D16" else jnp.float32, what.BATCH)
    return lambda: run(tolerance)


_SOLVES: dict[tuple, Callable[[float], Any]] = {}


def _kept(*names: Any) -> Callable[[float], Any]:
    """A solve, compiled once for all tolerances."""
    if names not in _SOLVES:
        _SOLVES[names] = _solve(*names)
    return _SOLVES[names]


def accuracy(case: str) -> list[dict[str, Any]]:
    """Errors of the exact trace at all tolerances, in float64, and what the batch executed."""
    run = _kept(case, "exact", jnp.float64, what.looked_at(case))
    if case == "D16":
        exact = model_log_density(PROBLEM, what.data(), (1.0 - SDE.t_min, SDE.t_min), (0.0, 1.0))
    else:
        exact = np.asarray(run(TIGHT).log_p)
    rows = []
    for tolerance in what.OURS:
        report = run(tolerance)
        nfe = np.asarray(report.nfe)
        found = errors(np.asarray(report.log_p), exact, 16)
        calls = {"evaluations": float(np.median(nfe)), "most": int(nfe.max())}
        rows.append({"tolerance": tolerance, **calls, **found})
    return rows


def cost(name: str, trace: str) -> Callable[[], Any]:
    """One evaluation of a network on its batch, with the trace of its Jacobian by probes."""
    load, module = WORKLOADS[name], NETWORKS[name]()
    params = init_linen(jax.random.key(0), module, load.event)
    x = jax.random.normal(jax.random.key(1), (load.batch, *load.event))
    apply_fn, _ = linen_functions(module)
    model = make_model(apply_fn, prediction.eps, batched=True)

    def one(params, key, x, t):
        if trace == "0":
            return model.apply(params, x, t, None)
        return value_and_trace(
            key, lambda y: model.apply(params, y, t, None), x, DIVERGENCES[trace]
        )

    call = jax.jit(jax.vmap(one, (None, 0, 0, None)))
    keys = jax.random.split(jax.random.key(2), load.batch)
    return lambda: jax.block_until_ready(call(params, keys, x, jnp.asarray(0.1)))


def jobs() -> dict[str, Job]:
    """Everything that is timed."""
    found: dict[str, Job] = {
        what.job("sdejax", case, trace, tolerance): partial(timed, case, trace, tolerance)
        for case in what.OUR_CASES
        for trace in what.TRACES
        for tolerance in what.OURS
    }
    for name, traces in what.COST_OF.items():
        for trace in dict.fromkeys(("0", *traces)):
            found[f"cost {name} {trace}"] = partial(cost, name, trace)
    return found


if __name__ == "__main__":
    asked: dict[str, Callable[[], Any]] = {"train": train}
    for name in what.OUR_CASES:
        asked[f"accuracy {name}"] = partial(accuracy, name)
    serve(jobs(), asked)
