"""NumPy files: ``.npy`` as a memory map, members of ``.npz`` in memory; pickles are refused.

8-bit integers scale to [-1, 1]. Floating-point values are standardised with the moments of the
training split, or left as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from sdejax.data.base import Dataset, check_split, hold_out
from sdejax.data.scaling import Scaling, integers, standardise
from sdejax.numpy_files import npz_names, open_npy, read_npz

X_NAMES = ("x", "images", "data", "arr_0")
LABEL_NAMES = ("label", "labels", "y")


def _pick(file: Path, members: Iterable[str], names: tuple[str, ...]) -> str:
    known = list(members)
    for name in names:
        if name in known:
            return name
    raise ValueError(
        f"{file}: has members {sorted(known)[:20]}, expected one of {list(names)}; "
        "name the one to use, for example x='x_train'"
    )


def _read(file: Path, x: str | None, labels: str | None) -> tuple[np.ndarray, np.ndarray | None]:
    if file.suffix == ".npy":
        return open_npy(file), None if labels is None else np.asarray(open_npy(labels))
    members = npz_names(file)
    names = [_pick(file, members, X_NAMES if x is None else (x,))]
    if labels is not None or any(name in members for name in LABEL_NAMES):
        names.append(_pick(file, members, LABEL_NAMES if labels is None else (labels,)))
    found = read_npz(file, names)
    return found[names[0]], found[names[1]] if len(names) == 2 else None


def _check_labels(file: Path, labels: np.ndarray, rows: int) -> Int32[np.ndarray, " n"]:
    if labels.shape != (rows,) or labels.dtype.kind not in "iu" or np.any(labels < 0):
        raise ValueError(
            f"labels: {file} got {labels.dtype} of shape {labels.shape}, expected integers >= 0 of "
            f"shape ({rows},), one for each example"
        )
    return labels.astype(np.int32)


def npz(
    path: Path,
    split: str,
    *,
    x: str | None = None,
    labels: str | None = None,
    held_out: float = 0.1,
    scaling: str = "standardise",
    num_classes: int | None = None,
) -> Dataset:
    """Examples [n, *event] of one ``.npz`` or ``.npy`` file; uint8 [n, h, w] gets a channel axis.

    Args:
        path: the file.
        split: "train", "test" or "all".
        x: the member that holds the examples (npz); by default x, images, data or arr_0.
        labels: the member (npz) or the other file (npy) that holds integer labels.
        held_out: fraction of the examples kept from training, chosen at random once for all.
        scaling: for floating point: "standardise" (per feature of a vector, else one pair) or
            "identity"; 8-bit integers always scale to [-1, 1].
        num_classes: number of classes; by default the largest label plus one.

    Returns:
        The split, real-valued or 8-bit, with labels where there are any.

    Raises:
        ValueError: if the file is damaged or has object arrays, a member is missing, or a dtype
            or shape does not fit.
    """
    check_split(split, ("train", "test", "all"))
    if scaling not in ("standardise", "identity"):
        raise ValueError(f"scaling: got {scaling!r}, expected 'standardise' or 'identity'")
    values, raw_labels = _read(path, x, labels)
    if values.ndim < 2 or (values.dtype != np.uint8 and values.dtype.kind != "f"):
        raise ValueError(
            f"{path}: got {values.dtype} of shape {values.shape}, expected uint8 or floating point "
            "of shape [n, *event]; convert with .astype, and scalars with .reshape(-1, 1)"
        )
    if values.dtype == np.uint8 and values.ndim == 3:
        values = values[..., None]
    classes = None if raw_labels is None else _check_labels(path, raw_labels, len(values))
    largest = -1 if classes is None else int(classes.max(initial=-1))
    count = largest + 1 if num_classes is None else num_classes
    if largest >= count:
        raise ValueError(f"num_classes: got {count}, but {path} has label {largest}")
    whole = Dataset(path.stem, "all", values, integers(256), classes, count)
    part = hold_out(whole, split, round(held_out * len(values)))
    if values.dtype == np.uint8:
        return part
    if scaling == "identity":
        return dataclasses.replace(part, scaling=Scaling())
    train = part if split == "all" else hold_out(whole, "train", round(held_out * len(values)))
    return dataclasses.replace(part, scaling=standardise(train.x))
