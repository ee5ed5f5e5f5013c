"""Whether two data sets hold the same examples: one hash of what they hold.

What is in memory or in a memory map is hashed as a whole, at a gigabyte or more a second. Of very
large arrays, and of columns that read or decode their rows when asked for, evenly spaced rows are
hashed, the first and the last among them, and for files their names and sizes as well. A change of
a row between those, in a file that keeps its size, is not noticed.
"""

from __future__ import annotations

import hashlib

import numpy as np
from jaxtyping import Int64

from sdejax.data.base import Column, Dataset

VERSION = 1  # of what is hashed, and the start of each hash
LAZY_ROWS = 64
LARGE = 2**33  # bytes of an array above which rows are left out
CHUNK = 2**22  # bytes gathered at a time: it stays in the cache


def contents(dataset: Dataset) -> str:
    """Hash the examples and labels of a data set.

    Args:
        dataset: any; its name, split and scaling do not count.

    Returns:
        "VERSION:" and 32 hexadecimal digits; hashes of other versions say nothing of each other.
    """
    sha = hashlib.sha256()
    for name, column in (("x", dataset.x), ("label", dataset.labels)):
        if column is None:
            continue
        identity = getattr(column, "identity", None)
        sha.update(repr((name, column.shape, str(column.dtype), identity)).encode())
        for rows in _chunks(column, lazy=identity is not None):
            sha.update(np.ascontiguousarray(column[rows]).data)
    return f"{VERSION}:{sha.hexdigest()[:32]}"


def _chunks(column: Column, *, lazy: bool) -> list[slice] | list[Int64[np.ndarray, " m"]]:
    """Which rows to hash, some at a time: all of them, or some that are evenly spaced."""
    n, size = len(column), max(column.dtype.itemsize * int(np.prod(column.shape[1:])), 1)
    step = max(CHUNK // size, 1)
    count = LAZY_ROWS if lazy else max(LARGE // size, 2)
    if n <= count and not lazy:
        return [slice(start, start + step) for start in range(0, n, step)]
    rows = np.unique(np.linspace(0, n - 1, min(n, count)).round().astype(np.int64))
    return [rows[start : start + step] for start in range(0, len(rows), step)]
