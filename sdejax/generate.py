"""Drawing many samples on the host: chunks of one size, over all local devices, with progress.

The device part is one jitted ``make_sampler`` function, run shard by shard: each device takes its
own adaptive steps and waits for no other. Chunks have one size, so it compiles once; sample i is
the same whatever the chunk, the number asked for and the devices, since its noise comes from its
index.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int
from tqdm import tqdm

from sdejax.build import Parts
from sdejax.prediction import require_decodable
from sdejax.samplers.base import Stats, check
from sdejax.samplers.catalog import SAMPLERS
from sdejax.samplers.learned import Solver, learned
from sdejax.samplers.make import make_sampler
from sdejax.samplers.shards import by_rows, replicated
from sdejax.tables import GRIDS, look_up
from sdejax.thresholding import Transform
from sdejax.types import Params

Generator = Callable[..., tuple[Float32[np.ndarray, "n *event"], Stats]]


def make_generator(
    parts: Parts,
    *,
    sampler: str = "ddim",
    steps: int | None = None,
    grid: str = "uniform",
    solver: Solver | None = None,
    transform: Transform | None = None,
    chunk: int = 256,
) -> Generator:
    """A function that draws any number of samples.

    Args:
        parts: process, network and shape of an example.
        sampler: a row of ``SAMPLERS``.
        steps: number of steps; None for the sampler's own, adaptive where it can.
        grid: a row of ``GRIDS``, where fixed steps are.
        solver: a learned solver, in place of sampler, steps and grid.
        transform: a change of the denoiser, e.g. ``clipped(-1, 1)``.
        chunk: samples drawn at a time, rounded up to a multiple of the local devices.

    Returns:
        ``generate(params, num, seed=0, labels=None, progress=False)``: labels [num] of a
        conditional model, by default 0, 1, 2, ... in turn; gives float32 samples [num, *event] in
        the network's range and ``Stats`` of [num]. It raises FloatingPointError where a solve
        fails.

    Raises:
        ValueError: for an unknown sampler or grid, or a sampler that cannot start at t_max.
    """
    if solver is None:
        entry = look_up("sampler", SAMPLERS, sampler)
        method, title = entry.method(steps, look_up("grid", GRIDS, grid)), sampler
    else:
        method, title = learned(solver), f"learned, {solver.ts.shape[0]} evaluations"
    require_decodable(parts.model.prediction, parts.sde, parts.sde.t_max)
    method.require(parts.sde, parts.sde.t_max)
    devices = jax.local_devices()
    draw = make_sampler(
        parts.model, method, parts.event_shape, transform=transform, devices=devices
    )
    chunk = -(-chunk // len(devices)) * len(devices)
    rows = by_rows(devices)

    def generate(
        params: Params,
        num: int,
        seed: int = 0,
        labels: Int[np.ndarray, " n"] | None = None,
        progress: bool = False,
    ) -> tuple[Float32[np.ndarray, "n *event"], Stats]:
        cond = _labels(parts.num_classes, num, labels)
        # A small request is one small chunk; indices beyond it are drawn and dropped.
        size = min(chunk, -(-num // len(devices)) * len(devices))
        params = jax.device_put(params, replicated(devices))
        key = jax.random.split(jax.random.key(seed), 4)[3]  # the first three are a run's own
        found, reports = [], []
        doing = f"compiling, sampling ({title})"  # the first chunk is both
        bar = tqdm(total=num, unit="sample", desc=doing, disable=not progress)
        with bar:
            for start in range(0, num, size):
                index = np.arange(start, start + size, dtype=np.int32)
                label = None if cond is None else jax.device_put(cond[index % num], rows)
                x, stats = draw(params, parts.sde, key, jax.device_put(index, rows), label)
                keep = min(size, num - start)
                found.append(np.asarray(x)[:keep])
                reports.append(jax.tree.map(lambda leaf, n=keep: np.asarray(leaf)[:n], stats))
                bar.set_description(f"sampling ({title})")
                bar.update(keep)
        stats = jax.tree.map(lambda *leaves: jnp.asarray(np.concatenate(leaves)), *reports)
        check(stats)
        return np.concatenate(found), stats

    return generate


def _labels(
    num_classes: int | None, num: int, labels: Int[np.ndarray, " n"] | None
) -> Int[np.ndarray, " n"] | None:
    """The labels of a request, checked; for a conditional model each class in turn by default."""
    if num < 1:
        raise ValueError(f"num: got {num}; expected at least 1")
    if num_classes is None:
        if labels is not None:
            raise ValueError("label: got one, but the model is not conditional; leave it out")
        return None
    if labels is None:
        return (np.arange(num) % num_classes).astype(np.int32)
    labels = np.asarray(labels, np.int32)
    # The label after the last class stands for "no label".
    if labels.shape != (num,) or labels.min() < 0 or labels.max() > num_classes:
        raise ValueError(
            f"label: got values {sorted(set(labels.ravel().tolist()))[:10]} of shape {labels.shape}"
            f"; expected shape ({num},) and 0 to {num_classes - 1}, or {num_classes} for no label"
        )
    return labels
