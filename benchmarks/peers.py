"""k-diffusion and diffusers, in float64, on the exact denoiser of a mixture.

A ``Peer`` takes the evaluations it may spend and a grid, and gives the ends of all points. Both
libraries are torch and work batch first. k-diffusion has x = x_0 + sigma eps and takes the array
of sigmas as it is. diffusers has the variance-preserving state x / sqrt(1 + sigma^2); its
``scheduler.sigmas`` are overridden to share a grid (its own ones are float32), which its UniPC and
DEIS carry in float64; its DPM-Solver scheduler rounds the state to float32 in every step.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.problems import Problem

Denoise = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Peer(NamedTuple):
    """A method of another library: ``run(denoise, z, sigmas) -> x``."""

    run: Callable[[Denoise, torch.Tensor, torch.Tensor], torch.Tensor]
    evaluations: int = 1  # a step; the last one, to sigma = 0, has one


def denoiser(problem: Problem) -> Denoise:
    """(x [n, d], sigma []) -> posterior means [n, d], with a counter ``calls``."""
    means, stds, bases = (torch.tensor(np.array(a)) for a in problem[2:])
    log_weights = torch.tensor(np.log(problem.weights))

    def denoise(x, sigma):
        denoise.calls += 1
        variance = stds**2 + sigma.reshape(-1)[0] ** 2
        centred = torch.einsum("kij,nki->nkj", bases, x[:, None] - means)
        logits = log_weights - 0.5 * torch.sum(centred**2 / variance + torch.log(variance), -1)
        pulled = torch.einsum("kij,nkj->nki", bases, stds**2 / variance * centred)
        return torch.einsum("nk,nki->ni", torch.softmax(logits, -1), means + pulled)

    denoise.calls = 0
    return denoise


@cache
def k_sampling() -> Any:
    """``k_diffusion.sampling`` alone: its package imports all of its training code first.

    Where torchvision is missing or does not fit torch, an empty stand-in serves: the samplers do
    not use it.
    """
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None:
        raise ImportError("k-diffusion is not installed: pip install k-diffusion (see README.md)")
    package = types.ModuleType("k_diffusion")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["k_diffusion"] = package
    stand_ins = {}
    try:
        import torchvision.transforms  # noqa: F401
    except (ImportError, RuntimeError):
        stand_ins = {n: types.ModuleType(n) for n in ("torchvision", "torchvision.transforms")}
        stand_ins["torchvision.transforms"].functional = None
        sys.modules.update(stand_ins)
    try:
        return importlib.import_module("k_diffusion.sampling")
    finally:
        for name in stand_ins:  # others ask whether torchvision is there
            del sys.modules[name]


def _k(name: str, evaluations: int = 1, **options: Any) -> Peer:
    """A method of k-diffusion on sigmas that end at 0."""

    def run(denoise, z, sigmas):
        method = getattr(k_sampling(), f"sample_{name}")
        return method(denoise, sigmas[0] * z, sigmas, disable=True, **options)

    return Peer(run, evaluations)


def _k_fast(denoise, z, sigmas):
    """DPM-Solver-fast: its own uniform log-SNR steps, then our denoising step."""
    high, low = float(sigmas[0]), float(sigmas[-2])
    x = k_sampling().sample_dpm_fast(denoise, high * z, low, high, len(sigmas) - 2, disable=True)
    return denoise(x, sigmas[-2])


def _d(scheduler: str, *, zero: bool = True, **options: Any) -> Peer:
    """A scheduler of diffusers on given sigmas.

    Args:
        scheduler: name of its class.
        zero: it can step to sigma = 0; else it stops before and a denoising step is added.
        **options: of the scheduler.
    """

    def run(denoise, z, sigmas):
        steps = sigmas if zero else sigmas[:-1]
        x = _march(_scheduler(scheduler, options), denoise, z, steps)
        return x if zero else denoise(x, sigmas[-2])

    return Peer(run)


def _scheduler(name: str, options: dict[str, Any]) -> Any:
    import diffusers

    return getattr(diffusers, name)(prediction_type="sample", **options)


def _march(scheduler: Any, denoise: Denoise, z: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """The scheduler's loop over ``sigmas``; gives x without the factor 1/sqrt(1 + sigma^2)."""
    scheduler.set_timesteps(len(sigmas) - 1)
    own = scheduler.timesteps
    if len(own) != len(sigmas) - 1:  # a default grid that merged equal steps
        raise ValueError(f"{type(scheduler).__name__}: {len(own)} steps for {len(sigmas) - 1}")
    scheduler.sigmas = sigmas
    scheduler.set_begin_index(0)
    scale = torch.sqrt(1 + sigmas**2)
    x = sigmas[0] * z / scale[0]
    for i, t in enumerate(own):
        out = denoise(x * scale[i], sigmas[i])
        x = scheduler.step(out, t, x, return_dict=False)[0].to(z.dtype)
    return x * scale[-1]


def own_grid(scheduler: str, options: dict[str, Any], n: int) -> np.ndarray:
    """The n + 1 sigmas that a scheduler chooses by default (grid C)."""
    made = _scheduler(scheduler, options)
    made.set_timesteps(n)
    return made.sigmas.double().numpy()


UNIPC, DEIS, DPM = (f"{name}MultistepScheduler" for name in ("UniPC", "DEIS", "DPMSolver"))

K_DIFFUSION: dict[str, Peer] = {
    "k/euler": _k("euler"),
    "k/heun": _k("heun", 2),
    "k/dpm_2": _k("dpm_2", 2),
    "k/lms_2": _k("lms", order=2),
    "k/lms_3": _k("lms", order=3),
    "k/lms_4": _k("lms"),
    "k/dpmpp_2s": _k("dpmpp_2s_ancestral", 2, eta=0.0),
    "k/dpmpp_2m": _k("dpmpp_2m"),
    "k/dpmpp_3m": _k("dpmpp_3m_sde", eta=0.0, noise_sampler=lambda *_: 0.0),
    "k/dpm_fast": Peer(_k_fast),
}

# name -> scheduler, can it step to 0, options; "full": the order is not lowered at the end, which
# a denoising step after it makes unnecessary
_FULL = {"lower_order_final": False}
_BH1 = {"solver_type": "bh1"}
_SCHEDULERS: dict[str, tuple[str, bool, dict[str, Any]]] = {
    **{f"d/unipc_{p}": (UNIPC, True, {"solver_order": p}) for p in (1, 2, 3)},
    **{f"d/unipc_{p}_bh1": (UNIPC, False, {"solver_order": p, **_BH1}) for p in (1, 2, 3)},
    **{
        f"d/unipc_{p}_bh1_full": (UNIPC, False, {"solver_order": p, **_BH1, **_FULL})
        for p in (2, 3)
    },
    **{f"d/deis_{p}": (DEIS, False, {"solver_order": p}) for p in (1, 2, 3)},
    **{f"d/deis_{p}_full": (DEIS, False, {"solver_order": p, **_FULL}) for p in (2, 3)},
    **{f"d/dpmpp_{p}m": (DPM, True, {"solver_order": p}) for p in (2, 3)},
}
DIFFUSERS: dict[str, Peer] = {
    name: _d(scheduler, zero=zero, **options)
    for name, (scheduler, zero, options) in _SCHEDULERS.items()
}
PEERS: dict[str, Peer] = {**K_DIFFUSION, **DIFFUSERS}


def run(peer: Peer, problem: Problem, z: np.ndarray, sigmas: np.ndarray) -> tuple[np.ndarray, int]:
    """The ends of all points on a shared grid, and the evaluations counted.

    Args:
        peer: the method.
        problem: the mixture.
        z: [n, d].
        sigmas: decreasing, the last value 0.
    """
    torch.set_default_dtype(torch.float64)
    denoise = denoiser(problem)
    with torch.inference_mode():
        x = peer.run(denoise, torch.tensor(z), torch.tensor(sigmas))
    return x.numpy(), denoise.calls


def run_own(name: str, problem: Problem, z: np.ndarray, nfe: int) -> tuple[np.ndarray, float, int]:
    """A scheduler of diffusers on its own grid (grid C), within ``nfe`` evaluations.

    Where its grid ends above 0, one of the evaluations is a denoising step from there.

    Returns:
        The ends [n, d], the sigma it starts at, and the evaluations counted.
    """
    torch.set_default_dtype(torch.float64)
    scheduler, _, options = _SCHEDULERS[name]
    sigmas = own_grid(scheduler, options, nfe)
    ends_at_zero = sigmas[-1] == 0
    if not ends_at_zero:
        sigmas = own_grid(scheduler, options, nfe - 1)
    denoise = denoiser(problem)
    with torch.inference_mode():
        steps = torch.tensor(sigmas)
        x = _march(_scheduler(scheduler, options), denoise, torch.tensor(z), steps)
        x = x if ends_at_zero else denoise(x, steps[-1])
    return x.numpy(), float(sigmas[0]), denoise.calls
