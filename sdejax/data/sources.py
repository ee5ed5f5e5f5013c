"""The table of data sources and ``load``, which chooses from it by name.

load("digits")                                  embedded, nothing to fetch
load("idx", "path/to/mnist")                    MNIST, Fashion-MNIST, KMNIST, EMNIST
load("cifar10", "path/to/cifar-10-batches-py")
load("folder", "path/to/images", size=64)
load("npz", "table.npz", scaling="identity")
load("hf", "ylecun/mnist", channels=1)          needs the extra [data]
load("toy", toy="two_moons")
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sdejax.data.arrays import npz
from sdejax.data.base import SPLITS, Dataset, check_split, hold_out
from sdejax.data.cifar import cifar10
from sdejax.data.folder import folder
from sdejax.data.hubs import hf, tfds
from sdejax.data.idx import idx
from sdejax.data.scaling import Scaling, integers
from sdejax.data.toy import TOYS

DIGITS_HELD_OUT = 297
MOST_POINTS = 10**7


def digits(split: str) -> Dataset:
    """Handwritten digits that scikit-learn embeds, [n, 8, 8, 1], values 0 to 16.

    1,797 images; a fixed random 297 are the test split.

    Reference: Alpaydin and Kaynak, "Optical recognition of handwritten digits", UCI (1998).
    """
    from sklearn.datasets import load_digits  # slow to import, and only needed here

    bunch = load_digits()
    images = bunch.images.astype(np.uint8)[..., None]
    names = tuple(str(digit) for digit in range(10))
    labels = bunch.target.astype(np.int32)
    whole = Dataset("digits", "all", images, integers(17), labels, 10, names)
    return hold_out(whole, split, DIGITS_HELD_OUT)


def toy(split: str, *, toy: str = "two_moons", n: int = 10_000, seed: int = 0) -> Dataset:
    """``n`` points of a toy distribution, [n, 2]; each split has its own key.

    Raises:
        ValueError: if the name is unknown or ``n`` is not 1 to ten million.
    """
    check_split(split, SPLITS)
    if toy not in TOYS:
        raise ValueError(f"toy: got {toy!r}, expected one of {list(TOYS)}{_nearest(toy, TOYS)}")
    if not 1 <= n <= MOST_POINTS:
        raise ValueError(f"n: got {n}, expected 1 to {MOST_POINTS} points")
    key = jax.random.fold_in(jax.random.key(seed), SPLITS.index(split))
    return Dataset(toy, split, np.asarray(TOYS[toy](key, n)), Scaling())


SOURCES: dict[str, Callable[..., Dataset]] = {
    "digits": digits,
    "idx": idx,
    "cifar10": cifar10,
    "folder": folder,
    "npz": npz,
    "tfds": tfds,
    "hf": hf,
    "toy": toy,
}


def load(
    name: str, path: str | Path | None = None, split: str = "train", **options: Any
) -> Dataset:
    """Load one split of a data set.

    Args:
        name: a key of ``SOURCES``.
        path: the folder or file of a local source, the name of a data set on a hub; None for the
            embedded sources.
        split: "train", "test" or, where the source comes in one piece, "all"; hubs have their own.
        options: keyword arguments of the source.

    Returns:
        The data set, in stored values with its scaling.

    Raises:
        ValueError: if the name, the split or an option is unknown, or the files are damaged.
        FileNotFoundError: if the path or a file in it does not exist.
    """
    if name not in SOURCES:
        raise ValueError(
            f"name: got {name!r}, expected one of {list(SOURCES)}{_nearest(name, SOURCES)}"
        )
    source = SOURCES[name]
    parameters = inspect.signature(source).parameters
    known = [p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise ValueError(
                f"options: source {name!r} has no {option!r}, expected some of {known}"
                f"{_nearest(option, known)}"
            )
    return source(*_path(name, path, "path" in parameters), split, **options)


def _path(name: str, path: str | Path | None, wanted: bool) -> tuple[Path | str, ...]:
    if not wanted:
        if path is not None:
            raise ValueError(f"path: got {str(path)!r}, but source {name!r} is embedded; leave out")
        return ()
    if path is None:
        raise ValueError(f"path: got None, but source {name!r} reads files; pass path=...")
    if name in ("hf", "tfds"):  # a name on a hub
        return (str(path),)
    local, is_file = Path(path).expanduser(), name == "npz"
    if not (local.is_file() if is_file else local.is_dir()):
        raise FileNotFoundError(
            f"path: {str(path)!r} is no existing {'file' if is_file else 'folder'}, "
            f"as source {name!r} needs; parent folder exists: {local.parent.is_dir()}"
        )
    return (local,)


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""
