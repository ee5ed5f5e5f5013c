"""What a data set is: a column of stored values, a column of labels, and a scaling.

A *column* is anything that an integer array indexes: ``column[indices]`` gathers rows. A NumPy
array and a memory map are columns already; ``Lazy`` makes one from a function that reads one row,
and ``Subset`` from some rows of another. So one gather serves data in memory, on disk and on a hub.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from sdejax.data.scaling import Scaling

SPLITS = ("train", "test", "all")


@runtime_checkable
class Column(Protocol):
    """Rows of one shape and dtype, gathered by an integer array into a fresh array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, *event)."""

    @property
    def dtype(self) -> np.dtype:
        """The stored dtype."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Any, /) -> Any: ...


@dataclass(frozen=True)
class Lazy:
    """A column whose rows are read when asked for.

    Args:
        length: number of rows.
        event: shape of one row.
        dtype: dtype of one row.
        read: ``read(i) -> [*event]``; it may be called from several threads.
        identity: what tells cheaply that all rows are as before, e.g. names and sizes of files.
    """

    length: int
    event: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[int], np.ndarray]
    identity: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, *event)."""
        return (self.length, *self.event)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, indices: Int[np.ndarray, " b"]) -> np.ndarray:
        rows = np.empty((len(indices), *self.event), self.dtype)
        for place, index in enumerate(indices):
            rows[place] = self.read(int(index))
        return rows


@dataclass(frozen=True)
class Subset:
    """The rows ``indices`` of another column, without a copy."""

    column: Column
    indices: Int[np.ndarray, " n"]

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, *event)."""
        return (len(self.indices), *self.column.shape[1:])

    @property
    def dtype(self) -> np.dtype:
        """The stored dtype."""
        return self.column.dtype

    @property
    def identity(self) -> str | None:
        """That of the other column; None for an array."""
        return getattr(self.column, "identity", None)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, indices: Int[np.ndarray, " b"] | slice) -> np.ndarray:
        return self.column[self.indices[indices]]


@dataclass(frozen=True)
class Dataset:
    """One split of a data set, in stored values.

    Args:
        name: what it is, as the data state records it.
        split: "train", "test" or "all".
        x: the examples, [n, *event].
        scaling: stored values to network values.
        labels: integer classes [n] in 0 .. num_classes - 1, or None.
        num_classes: number of classes, 0 without labels.
        class_names: their names, where the source knows them.
    """

    name: str
    split: str
    x: Column
    scaling: Scaling
    labels: Column | None = None
    num_classes: int = 0
    class_names: tuple[str, ...] = ()

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return tuple(self.x.shape[1:])

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Return example ``index`` as stored: ``{"x": [*event], "label": []}``."""
        return {name: np.asarray(rows[0]) for name, rows in self.gather(np.array([index])).items()}

    def gather(self, indices: Int[np.ndarray, " b"]) -> dict[str, np.ndarray]:
        """Return the examples ``indices`` as stored: ``{"x": [b, *event], "label": int32 [b]}``.

        ``label`` is left out when there are no labels.
        """
        rows = {"x": self.x[indices]}
        if self.labels is not None:
            rows["label"] = np.asarray(self.labels[indices], np.int32)
        return rows


def hold_out(dataset: Dataset, split: str, count: int) -> Dataset:
    """Choose one side of a fixed random division of a data set that comes in one piece.

    Sorting by the raw words of a Philox generator, whose stream NumPy guarantees, gives the same
    division on every machine and version.

    Args:
        dataset: all examples.
        split: "train" (all but ``count``), "test" (the ``count`` held out) or "all".
        count: number of examples held out.

    Raises:
        ValueError: if the split is unknown or would be empty.
    """
    check_split(split, SPLITS)
    if not 0 <= count <= len(dataset):
        raise ValueError(
            f"held_out: got {count} of {len(dataset)} examples; give a fraction from 0 to 1"
        )
    order = np.argsort(np.random.Philox(key=0).random_raw(len(dataset)), kind="stable")
    chosen = {"train": order[count:], "test": order[:count], "all": order}[split]
    if len(chosen) == 0:
        raise ValueError(
            f"held_out: got {count} of {len(dataset)} examples, which leaves split {split!r} "
            "empty; change held_out, or load split='all'"
        )
    return take(dataclasses.replace(dataset, split=split), np.sort(chosen))


def take(dataset: Dataset, indices: Int[np.ndarray, " n"]) -> Dataset:
    """Keep the examples ``indices`` only."""
    labels = None if dataset.labels is None else Subset(dataset.labels, indices)
    return dataclasses.replace(dataset, x=Subset(dataset.x, indices), labels=labels)


def check_split(split: str, known: Sequence[str]) -> None:
    """Raise ValueError unless ``split`` is one of ``known``."""
    if split not in known:
        raise ValueError(f"split: got {split!r}, expected one of {list(known)}")
