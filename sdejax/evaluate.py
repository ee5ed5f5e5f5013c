"""Likelihood of a data set: every example's bits per dimension, their mean, and a file of both.

Examples are evaluated in chunks of one size, over all local devices, each shard with its own
adaptive steps. The rows found so far are kept after every chunk; a later call goes on from there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from sdejax.data.base import Dataset
from sdejax.dequantiser import Noise, quantisation_of
from sdejax.evaluator import Row
from sdejax.likelihood.quantisation import require_levels
from sdejax.numpy_files import read_npz
from sdejax.samplers.shards import by_shard, replicated
from sdejax.types import Params
from sdejax.untrusted import parse_json

ABOUT = "about"  # the name in a file of what the rows are of


class Summary(NamedTuple):
    """The mean over a data set."""

    bits_per_dim: float
    half_width: float  # of the 95 % confidence interval of the mean, over examples
    nats: float
    examples: int


def summarise(rows: Row) -> Summary:
    """Mean bits per dimension with a confidence interval, ``1.96 sd/sqrt(n)``.

    The spread over examples holds that of probes, draws and dequantisation too.

    Args:
        rows: of [n].

    Returns:
        The summary; the half-width is NaN for one example.
    """
    bits = np.asarray(rows.bits_per_dim, np.float64)
    spread = bits.std(ddof=1) / np.sqrt(len(bits)) if len(bits) > 1 else np.nan
    nats = float(np.mean(np.asarray(rows.log_p, np.float64)))
    return Summary(float(bits.mean()), float(1.96 * spread), nats, len(bits))


def evaluate(
    one: Callable[..., Row],
    params: Params,
    data: Dataset,
    count: int,
    *,
    noise: Noise | None = None,
    cond: np.ndarray | None = None,
    seed: int = 0,
    chunk: int = 64,
    done: Row | None = None,
    keep: Callable[[Row], None] = lambda rows: None,
    progress: bool = False,
) -> Row:
    """The rows of the first examples of a data set.

    Args:
        one: from ``evaluator``.
        params: of the network.
        data: the examples, in stored values.
        count: how many.
        noise: whose parameters ``one`` takes.
        cond: labels [n] of a conditional model.
        seed: example i draws from it and from i alone.
        chunk: examples at a time, rounded up to a multiple of the local devices.
        done: rows [m] of the first m examples, which are not evaluated again.
        keep: called with all rows so far after each chunk.
        progress: show a bar with the mean so far.

    Returns:
        Rows of [count]; a solve that failed has a code, and NaN.

    Raises:
        ValueError: for no examples, more than there are, or integers outside their range.
    """
    if not 1 <= count <= len(data):
        raise ValueError(f"num: got {count}; expected 1 to {len(data)}, the examples there are")
    devices = jax.local_devices()
    first = 0 if done is None else len(done.log_p)
    chunk = -(-min(chunk, count) // len(devices)) * len(devices)
    run = by_shard(one, (None, None, None, 0, 0, 0), devices)
    params = jax.device_put(params, replicated(devices))
    noise_params = None if noise is None else noise.params
    q = None if data.scaling.levels is None else quantisation_of(data.scaling)
    found = [] if done is None else [done]
    with tqdm(total=count, initial=first, unit="example", disable=not progress) as bar:
        for start in range(first, count, chunk):
            index = np.arange(start, start + chunk) % count
            x = data.gather(index)["x"]
            x = x if q is None else require_levels(q, x)
            label = None if cond is None else cond[index]
            key = jax.random.key(seed)
            new = run(params, noise_params, key, x, index.astype(np.int32), label)
            kept = min(chunk, count - start)
            found.append(jax.tree.map(lambda leaf, n=kept: np.asarray(leaf)[:n], new))
            rows = _joined(found)
            keep(rows)
            bar.update(kept)
            bar.set_postfix_str(f"{float(np.mean(rows.bits_per_dim)):.4f} bits/dim")
    return _joined(found)


def _joined(rows: list[Row]) -> Row:
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *rows)


def save_rows(path: Path, rows: Row, about: Mapping[str, Any]) -> None:
    """Writes rows as ``.npz``; a reader finds the old file or the new one, never half of one.

    Args:
        path: the file.
        rows: of the examples so far.
        about: what they are of, as JSON holds it.
    """
    half = path.with_name(f".{path.name}.half")
    half.unlink(missing_ok=True)  # a link there would be written through
    with half.open("wb") as file:
        arrays: dict[str, Any] = {**rows._asdict(), ABOUT: np.asarray(json.dumps(dict(about)))}
        np.savez(file, **arrays)
    os.replace(half, path)


def load_rows(path: Path, about: Mapping[str, Any]) -> Row | None:
    """Reads the rows of an evaluation that is to be gone on with.

    Args:
        path: a file of ``save_rows``.
        about: what is to be evaluated now.

    Returns:
        The rows, or None where there is no file.

    Raises:
        ValueError: for a file of another evaluation, with what differs, or one that is damaged.
    """
    if not path.is_file():
        return None
    try:
        arrays = read_npz(path, (*Row._fields, ABOUT))
        saved = parse_json(str(arrays.pop(ABOUT)), ABOUT)
        rows = Row(**arrays)
        shapes = {leaf.shape for leaf in rows}
        numbers = all(leaf.dtype.kind in "iuf" for leaf in rows)
        if not isinstance(saved, dict) or len(shapes) != 1 or not numbers or rows.log_p.ndim != 1:
            raise ValueError(f"rows of shapes {shapes}; expected numbers of one shape (n,) each")
    except ValueError as error:
        raise ValueError(f"{path}: no results of an evaluation ({error}); remove it") from error
    wanted = json.loads(json.dumps(dict(about)))
    differing = [name for name in wanted if saved.get(name) != wanted[name]]
    if differing:
        changes = ", ".join(f"{n}: {saved.get(n)} there, {wanted[n]} now" for n in differing)
        raise ValueError(f"{path}: holds another evaluation ({changes}); choose another --out")
    return rows
