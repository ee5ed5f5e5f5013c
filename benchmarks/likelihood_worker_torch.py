"""The torch worker of the likelihood benchmark: both peers, eager, one thread."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch

from benchmarks import likelihood_jobs as what
from benchmarks import likelihood_peers as peers
from benchmarks.densities import errors, model_log_density
from benchmarks.nets_torch import NETWORKS
from benchmarks.problems import cloud
from benchmarks.worker import serve

PROBLEM = cloud("D16", 16)
TIGHT = 1e-9


def _network(dtype: torch.dtype) -> torch.nn.Module:
    net, found = NETWORKS["MLP-S"]().to(dtype), what.weights()
    linear = [layer for layer in net.layers if isinstance(layer, torch.nn.Linear)]
    with torch.no_grad():
        for i, layer in enumerate(linear):
            layer.weight.copy_(torch.tensor(found[f"kernel_{i}"].T))
            layer.bias.copy_(torch.tensor(found[f"bias_{i}"]))
    return net.requires_grad_(False)


def _velocity(case: str, dtype: torch.dtype) -> peers.Field:
    """(x, t) -> the velocity of the path with data at t = 1."""
    if case == "D16":
        return peers.velocity(PROBLEM)
    net = _network(dtype)

    def field(x, t, **extras):
        field.calls += 1
        return -net(x, torch.broadcast_to(1.0 - t, x.shape[:1]))

    field.calls = 0
    return field


def _denoiser(case: str, dtype: torch.dtype) -> peers.Field:
    """(x, sigma) -> E[x_0 | x]: the network at s = sigma/(1 + sigma) sees x/(1 + sigma)."""
    if case == "D16":
        return peers.denoiser(PROBLEM)
    net = _network(dtype)

    def field(x, sigma, **extras):
        field.calls += 1
        s = sigma / (1.0 + sigma)
        at = x * (1.0 - s)[:, None]
        return at - s[:, None] * net(at, s)

    field.calls = 0
    return field


def _run(
    library: str, case: str, trace: str, dtype: torch.dtype, points: int = what.BATCH
) -> Callable[[float], Any]:
    """tolerance -> log p of the batch and the calls; of k-diffusion always the same probe."""
    torch.set_default_dtype(dtype)
    x = torch.tensor(what.data(points), dtype=dtype)
    field = (_velocity if library == "flow_matching" else _denoiser)(case, dtype)

    def run(tolerance):
        torch.set_default_dtype(dtype)
        field.calls = 0
        if library == "flow_matching":
            found = peers.flow_matching(field, x, tolerance, exact=trace == "exact")
        else:
            torch.manual_seed(0)
            found = peers.k_diffusion(field, x, tolerance)
        return found, field.calls

    return run


def _dtype(case: str) -> torch.dtype:
    return torch.float64 if case == "D16" else torch.float32


def timed(library: str, case: str, trace: str, tolerance: float) -> Callable[[], Any]:
    """One likelihood of the batch."""
    run = _run(library, case, trace, _dtype(case))
    return lambda: run(tolerance)


@cache
def accuracy(library: str, case: str) -> list[dict[str, Any]]:
    """Errors of the solve at all tolerances, in float64.

    flow_matching has the exact trace; k-diffusion's one probe is held fixed, against its own solve
    to a tight tolerance with that probe.
    """
    run = _run(library, case, "exact", torch.float64, what.looked_at(case))
    if (library, case) == ("flow_matching", "D16"):
        exact = model_log_density(PROBLEM, what.data(), *peers.LEVELS[library])
    else:
        exact = run(TIGHT)[0].numpy()
    rows = []
    for tolerance in what.THEIRS:
        log_p, calls = run(tolerance)
        found = errors(log_p.numpy(), exact, 16)
        rows.append({"tolerance": tolerance, "evaluations": calls, "most": calls, **found})
    return rows


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(
        {
            what.job(library, case, trace, tolerance): partial(
                timed, library, case, trace, tolerance
            )
            for library, traces in (("flow_matching", ("exact", "1")), ("k-diffusion", ("1",)))
            for case in what.CASES
            for trace in traces
            for tolerance in what.THEIRS
        },
        {
            f"accuracy {library} {case}": partial(accuracy, library, case)
            for library in peers.LEVELS
            for case in what.CASES
        },
    )
