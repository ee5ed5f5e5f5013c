"""Memory and time of a gradient of log-likelihoods by each adjoint, in one run.

The gradient by the parameters of MLP-S of a mean of log-densities in 16 dimensions, on grids of
equal steps of the angle, in float32 with one probe. Memory is XLA's own count of temporaries of the
compiled program, exact and the same each time. Times are taken in turn, best of each round, and
given relative to recursive checkpoints of as many steps; the error is that of the gradient, against
one on a grid of four times the most steps.

    python -m benchmarks.adjoints
    python -m benchmarks.adjoints --steps 16 --rounds 1 --batch 4
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import diffrax as dfx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from benchmarks.nets_jax import MLPS
from sdejax import prediction, processes
from sdejax.denoiser import init_linen, linen_functions, make_model
from sdejax.divergence import hutchinson
from sdejax.likelihood import Reversible, make_likelihood_loss
from sdejax.likelihood.training import angles

D = 16
ADJOINTS: dict[str, Any] = {
    "RecursiveCheckpointAdjoint": dfx.RecursiveCheckpointAdjoint(),
    "BacksolveAdjoint": dfx.BacksolveAdjoint(),
    "Reversible": Reversible(),
    "DirectAdjoint": dfx.DirectAdjoint(),
}
SOLVERS = {"heun": dfx.Heun(), "tsit5": dfx.Tsit5()}


def problem(batch: int):
    """Model, process, parameters with an output that is not zero, and a batch."""
    net, key = MLPS(), jax.random.key(0)
    model = make_model(linen_functions(net)[0], prediction.edm(0.5), batched=True)
    params = init_linen(key, net, (D,))
    x = 0.5 * jax.random.normal(jax.random.key(1), (batch, D))
    return model, processes.vp(), params, {"x": x, "position": jnp.arange(batch)}


def gradient(adjoint: Any, solver: Any, steps: int, batch: int):
    """The compiled gradient and its arguments."""
    model, sde, params, data = problem(batch)
    options = {"ts": angles(sde, steps), "solver": solver, "divergence": hutchinson(1)}
    loss_fn = make_likelihood_loss(model, sde, adjoint=adjoint, **options)

    def flat(params, data):
        mean = jax.grad(lambda p: jnp.mean(loss_fn(p, jax.random.key(2), data)[0]))
        return ravel_pytree(mean(params))[0]

    return jax.jit(flat).lower(params, data).compile(), (params, data)


def best(compiled: Any, args: Any, of: int = 2) -> float:
    """Seconds of the best of a few calls."""
    seconds = []
    for _ in range(of):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*args))
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.adjoints", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--steps", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--solver", choices=SOLVERS, default="heun")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    solver = SOLVERS[options.solver]
    fine, args = gradient(
        ADJOINTS["RecursiveCheckpointAdjoint"], solver, 4 * max(options.steps), options.batch
    )
    exact = fine(*args)
    print("| adjoint | steps | memory, MB | time / checkpoints | error of the gradient |")
    print("| --- | --: | --: | --: | --: |")
    for steps in options.steps:
        jobs = {
            name: gradient(adjoint, solver, steps, options.batch)
            for name, adjoint in ADJOINTS.items()
        }
        found = {name: compiled(*args) for name, (compiled, args) in jobs.items()}
        rounds = [{name: best(*job) for name, job in jobs.items()} for _ in range(options.rounds)]
        for name, (compiled, _) in jobs.items():
            memory = compiled.memory_analysis().temp_size_in_bytes / 1e6
            first = next(iter(jobs))
            ratio = statistics.median(each[name] / each[first] for each in rounds)
            error = jnp.linalg.norm(found[name] - exact) / jnp.linalg.norm(exact)
            print(f"| {name} | {steps} | {memory:.2f} | {ratio:.2f} | {error:.1e} |", flush=True)


if __name__ == "__main__":
    main()
