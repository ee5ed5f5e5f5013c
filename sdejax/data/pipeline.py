"""Batches as a pure function of (data set, seed, step, global batch size).

Example number ``c = step * batch_size + position`` of a run is row ``order(c // n)[c % n]`` of the
data set, where ``order(e)`` is epoch e's permutation: the stable sort of n raw words of a Philox
generator keyed by the seed, with e in its counter. A flip is the top bit of word c of a second
stream. So a batch depends on nothing that happened before: any step is reached at once, an epoch
covers every example once, and a process that builds only its own rows agrees with all others.
grain builds the batches ahead in threads; its state is the step alone. (Its own ``shuffle`` looks
up one index at a time, 25 us each, and its state is silently wrong on another host count.)

Reference: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011), Philox.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import grain
import jax
import numpy as np
from jaxtyping import Bool, Int64

from sdejax.data.base import Dataset
from sdejax.data.contents import contents
from sdejax.data.scaling import apply

ORDER, FLIP = 0, 1  # the streams of a seed
STEPS = 2**48  # grain wants a length; 2^15 examples a step still count in 64 bits


def _philox(seed: int, stream: int, low: int, high: int) -> np.random.Philox:
    # uint64 by hand: from a list of Python ints NumPy would round large seeds to float64
    key, counter = np.array([seed, stream], np.uint64), np.array([low, high, 0, 0], np.uint64)
    return np.random.Philox(key=key, counter=counter)


def epoch_order(seed: int, n: int, epoch: int) -> Int64[np.ndarray, " n"]:
    """Return epoch ``epoch``'s permutation of 0 .. n - 1."""
    return np.argsort(_philox(seed, ORDER, 0, epoch).random_raw(n), kind="stable")


def flips(seed: int, first: int, count: int) -> Bool[np.ndarray, " count"]:
    """Return fair coins for the examples number ``first`` .. ``first + count - 1`` of a run."""
    block, skip = divmod(first, 4)  # a Philox counter yields four words
    return _philox(seed, FLIP, block, 0).random_raw(skip + count)[skip:] >= 2**63


class BatchSource:
    """Batches as a random-access sequence, ``source[step]``; see ``batches`` for the arguments."""

    def __init__(
        self, dataset: Dataset, seed: int, batch_size: int, start: int, stop: int, flip: bool
    ) -> None:
        self.dataset, self.seed, self.batch_size, self.flip = dataset, seed, batch_size, flip
        self.start, self.stop = start, stop  # this process builds positions start .. stop - 1
        order = functools.partial(epoch_order, seed, len(dataset))
        self.order = functools.lru_cache(maxsize=2)(order)  # a batch may straddle two epochs

    def __len__(self) -> int:
        return STEPS

    def rows(self, first: int) -> Int64[np.ndarray, " b"]:
        """Rows of the data set for this process's examples, the first being number ``first``."""
        epochs, places = np.divmod(first + np.arange(self.stop - self.start), len(self.dataset))
        rows = np.empty_like(places)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            rows[epochs == epoch] = self.order(epoch)[places[epochs == epoch]]
        return rows

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        first = int(step) * self.batch_size + self.start
        batch = self.dataset.gather(self.rows(first))
        batch["x"] = apply(self.dataset.scaling, batch["x"])
        if self.flip:
            mirrored = flips(self.seed, first, self.stop - self.start)
            batch["x"][mirrored] = batch["x"][mirrored, :, ::-1]
        batch["position"] = np.arange(self.start, self.stop, dtype=np.int32)
        return batch


class Batches:
    """An endless iterator of batches; close it, or use it in a ``with``, to end its threads."""

    def __init__(self, source: BatchSource, start_step: int, prefetch: int) -> None:
        options = grain.ReadOptions(num_threads=prefetch, prefetch_buffer_size=prefetch)
        self._iterator = iter(grain.MapDataset.source(source).to_iter_dataset(options))
        self._iterator.set_state({"next_index": start_step})

    @property
    def next_step(self) -> int:
        """The step whose batch comes next."""
        return self._iterator.get_state()["next_index"]

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        try:
            return next(self._iterator)
        except Exception:
            self.close()  # grain would go on after a failed batch, with its step off by one
            raise

    def close(self) -> None:
        """Cancel what was fetched ahead and end the threads; may be called more than once."""
        self._iterator.close()

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def batches(
    dataset: Dataset,
    batch_size: int,
    *,
    seed: int,
    start_step: int = 0,
    process_index: int | None = None,
    process_count: int | None = None,
    flip: bool = False,
    prefetch: int = 4,
) -> Batches:
    """Iterate over batches from step ``start_step`` on, without end.

    Args:
        dataset: what to draw from; it may be smaller than a batch.
        batch_size: *global* batch size, over all processes.
        seed: of the order and the flips, 0 <= seed < 2^64.
        start_step: step of the first batch; costs the same whatever its value.
        process_index: which rows to build, ``jax.process_index()`` if None.
        process_count: among how many, ``jax.process_count()`` if None; divides ``batch_size``.
        flip: mirror images left to right with chance one half, drawn anew for each visit.
        prefetch: batches built ahead, one thread for each; 0 builds them when asked for.

    Returns:
        An iterator of dicts: ``x`` float32 [batch_size / process_count, *event] in network values,
        ``label`` int32 [..] if there are labels, and ``position`` int32 [..], the place in the
        global batch. Concatenated over processes they are the batch of a single process.

    Raises:
        ValueError: if an argument is out of range or the batch cannot be divided.
    """
    index = jax.process_index() if process_index is None else process_index
    count = jax.process_count() if process_count is None else process_count
    _check(dataset, batch_size, seed, flip)
    if not 0 <= index < count:
        raise ValueError(f"process_index: got {index}, expected 0 <= index < {count}")
    if batch_size % count:
        raise ValueError(
            f"batch_size: got {batch_size} for {count} processes, expected a multiple of {count}"
        )
    if not 0 <= start_step < STEPS or prefetch < 0:
        raise ValueError(
            f"start_step, prefetch: got {start_step} and {prefetch}, expected numbers >= 0"
        )
    local = batch_size // count
    source = BatchSource(dataset, seed, batch_size, index * local, (index + 1) * local, flip)
    return Batches(source, start_step, prefetch)


def _check(dataset: Dataset, batch_size: int, seed: int, flip: bool) -> None:
    if len(dataset) == 0:
        raise ValueError(f"dataset: {dataset.name!r} is empty, expected at least one example")
    if batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size}, expected a positive number")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed: got {seed}, expected 0 <= seed < 2**64")
    if flip and len(dataset.event_shape) != 3:
        raise ValueError(
            f"flip: got True for events of shape {dataset.event_shape}, expected images "
            "[height, width, channels]; pass flip=False"
        )


def fingerprint(dataset: Dataset) -> str:
    """Hash size, shape, dtype and the first and last example: all that old checkpoints know.

    Returns:
        Sixteen hexadecimal digits.
    """
    ends = dataset.gather(np.array([0, len(dataset) - 1]))
    sha = hashlib.sha256(repr((dataset.x.shape, str(dataset.x.dtype), sorted(ends))).encode())
    for name in sorted(ends):
        sha.update(np.ascontiguousarray(ends[name]).tobytes())
    return sha.hexdigest()[:16]


def data_state(
    dataset: Dataset, batch_size: int, *, seed: int, flip: bool = False, next_step: int = 0
) -> dict[str, Any]:
    """Describe the stream of batches, as JSON, for a checkpoint; hashes the data set.

    Args:
        dataset: the data set.
        batch_size: global batch size.
        seed: of the order and the flips.
        flip: as given to ``batches``.
        next_step: the step of the next batch, what to give as ``start_step`` on resuming.

    Returns:
        A dict of numbers, text and lists. ``order`` shows the first rows of the run, so that a
        changed algorithm is noticed as well as a changed seed.
    """
    _check(dataset, batch_size, seed, flip)
    return {
        "dataset": dataset.name,
        "split": dataset.split,
        "examples": len(dataset),
        "fingerprint": fingerprint(dataset),
        "contents": contents(dataset),
        "scaling": dataset.scaling.to_json(),
        "batch_size": batch_size,
        "seed": seed,
        "flip": flip,
        "order": epoch_order(seed, len(dataset), 0)[:8].tolist(),
        "next_step": next_step,
    }


def check_data_state(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to resume on another stream of batches.

    Args:
        saved: the state of the checkpoint. One without ``contents``, or with those of another
            version, is compared by the rest, ``fingerprint`` among it; one without a data set, of
            a converted checkpoint, by its scaling.
        now: the state of this run.

    Raises:
        ValueError: naming the first entry that differs; ``next_step`` may.
    """
    version = now["contents"].partition(":")[0]
    comparable = saved.get("contents", "").partition(":")[0] == version
    for name in now if "dataset" in saved else ("scaling",):
        if name == "next_step" or (name == "contents" and not comparable):
            continue
        if saved.get(name) != now[name]:
            raise ValueError(
                f"{name}: the checkpoint was trained with {saved.get(name)!r}, got {now[name]!r}; "
                "use the same data, batch size and seed to resume, or start in a new workdir"
            )
