"""The torch worker of the speed benchmark: eager, one thread, channels_last, inference_mode."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from benchmarks.jobs import (
    BETA_MAX,
    BETA_MIN,
    EMA,
    GEMM,
    LEARNING_RATE,
    SIGMA_DATA,
    T_MIN,
    WORKLOADS,
    Workload,
)
from benchmarks.nets_torch import NETWORKS
from benchmarks.worker import serve


def levels(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """alpha and sigma of the VP process."""
    log_alpha = -0.25 * (BETA_MAX - BETA_MIN) * t**2 - 0.5 * BETA_MIN * t
    return torch.exp(log_alpha), torch.sqrt(-torch.expm1(2.0 * log_alpha))


def _event(load: Workload) -> tuple[int, ...]:
    *sides, channels = load.event
    return (channels, *sides)


def _network(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    net = NETWORKS[name]()
    return net.to(memory_format=torch.channels_last) if len(WORKLOADS[name].event) > 1 else net


def _like(load: Workload, x: torch.Tensor) -> torch.Tensor:
    return x.to(memory_format=torch.channels_last) if len(load.event) > 1 else x


def _predict(net, x, alpha, sigma):
    """eps, from the scaled input and log(sigma/alpha)/4."""
    c_in = torch.rsqrt((alpha * SIGMA_DATA) ** 2 + sigma**2)
    shape = (-1, *(1,) * (x.ndim - 1))
    return net(c_in.reshape(shape) * x, 0.25 * torch.log(sigma / alpha))


def train(name: str) -> Callable[[], Callable[[], None]]:
    """Train steps of a network."""

    def build():
        load, net = WORKLOADS[name], _network(name)
        params = list(net.parameters())
        average = [p.detach().clone() for p in params]
        adam = torch.optim.Adam(params, lr=LEARNING_RATE, fused=True)
        x0 = _like(load, torch.randn(load.batch, *_event(load)))
        shape = (-1, *(1,) * (x0.ndim - 1))

        def step():
            t = T_MIN + (1.0 - T_MIN) * torch.rand(load.batch)
            alpha, sigma = levels(t)
            eps = torch.randn_like(x0)
            x = alpha.reshape(shape) * x0 + sigma.reshape(shape) * eps
            loss = torch.mean((_predict(net, x, alpha, sigma) - eps) ** 2)
            adam.zero_grad(set_to_none=True)
            loss.backward()
            adam.step()
            with torch.no_grad():
                torch._foreach_lerp_(average, params, 1.0 - EMA)
            return loss

        def run():
            for _ in range(load.train_steps):
                loss = step()
            loss.item()

        return run

    return build


def sample(name: str) -> Callable[[], Callable[[], None]]:
    """DDIM."""

    def build():
        load, net = WORKLOADS[name], _network(name)
        grid = torch.linspace(1.0, T_MIN, load.sample_steps + 1)
        alphas, sigmas = levels(grid)
        rows = [(alphas[i], sigmas[i], alphas[i + 1], sigmas[i + 1]) for i in range(len(grid) - 1)]

        @torch.inference_mode()
        def run():
            x = sigmas[0] * _like(load, torch.randn(load.batch, *_event(load)))
            ones = torch.ones(load.batch)
            for alpha, sigma, next_alpha, next_sigma in rows:
                eps = _predict(net, x, alpha * ones, sigma * ones)
                x = next_alpha * ((x - sigma * eps) / alpha) + next_sigma * eps
            eps = _predict(net, x, alphas[-1] * ones, sigmas[-1] * ones)
            return (x - sigmas[-1] * eps) / alphas[-1]

        return run

    return build


def gemm() -> Callable[[], torch.Tensor]:
    """The roofline."""
    a = torch.randn(GEMM, GEMM)
    return lambda: a @ a


def parameters(name: str) -> int:
    """Number of parameters of a network."""
    return sum(math.prod(p.shape) for p in _network(name).parameters())


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(
        {
            **{f"{name} train": train(name) for name in NETWORKS},
            **{f"{name} sample": sample(name) for name in NETWORKS},
            "gemm": gemm,
        },
        {f"{name} parameters": lambda name=name: parameters(name) for name in NETWORKS},
    )
