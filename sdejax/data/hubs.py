"""Data sets of two hubs, read row by row: Hugging Face ``datasets`` and TensorFlow Datasets.

Both libraries are optional (``pip install 'sdejax[data]'``) and are imported only when a loader is
called. TensorFlow itself is not needed: TFDS reads ArrayRecord files with plain NumPy. A name on a
hub becomes a folder of the cache, so it is checked first; data sets that bring code are refused by
``datasets`` 4 and newer, which know none.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

from sdejax.data import pictures
from sdejax.data.base import Dataset, Lazy
from sdejax.data.scaling import integers


def _extra(module: str, source: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"source {source!r} needs the package {module.replace('_', '-')!r} ({error}); "
            "install it with: pip install 'sdejax[data]'"
        ) from error


def _check_hub_name(argument: str, name: str) -> None:
    """A name that stays inside the cache of the library: words, divided by slashes and colons."""
    if not re.fullmatch(r"\w[\w.+-]*([/:]\w[\w.+*-]*)*", name, re.ASCII) or ".." in name:
        raise ValueError(
            f"{argument}: got {name!r}, expected an existing folder or a name on the hub such as "
            "'ylecun/mnist', of words divided by '/' or ':', without '..'"
        )


def _check_names(where: str, names: Iterable[str], wanted: dict[str, str]) -> None:
    for argument, name in wanted.items():
        if name not in names:
            raise ValueError(
                f"{argument}: {where} has {sorted(names)}, got {name!r}; pass {argument}=..."
            )


def _rows(
    where: str, count: int, image: Callable[[int], Image.Image], channels: int, size: int | None
) -> Lazy:
    """A lazy column of pictures, its shape taken from the first."""

    def read(index: int) -> np.ndarray:
        try:
            return pictures.to_array(image(index), channels, size)
        except Exception as error:
            raise ValueError(f"{where}, example {index}: cannot be decoded: {error}") from error

    def checked(event: tuple[int, ...], index: int) -> np.ndarray:
        try:
            return pictures.expect(read(index), event)
        except ValueError as error:
            raise ValueError(f"{where}, example {index}: {error}") from error

    if count == 0:
        raise ValueError(f"path: {where} has no examples, expected at least one")
    event = read(0).shape
    return Lazy(count, event, np.dtype(np.uint8), functools.partial(checked, event))


def hf(
    path: str,
    split: str,
    *,
    config: str | None = None,
    image: str = "image",
    label: str | None = "label",
    size: int | None = None,
    channels: int = 3,
) -> Dataset:
    """Images and labels of a Hugging Face data set, [n, height, width, channels].

    Args:
        path: a folder that ``save_to_disk`` wrote, or a name on the hub.
        split: the split, by the data set's own names.
        config: the configuration on the hub, if there are several.
        image: name of the image column.
        label: name of the label column, or None for no labels.
        size: take the centred square and resize it to this side; None keeps the images as they are.
        channels: 1, 3 or 4.

    Returns:
        The split, decoded as it is read.

    Raises:
        ImportError: if ``datasets`` is not installed; the message names the extra.
        ValueError: if the name is none, the split or a column is missing, or an image is damaged or
            of another size.
    """
    datasets = _extra("datasets", "hf")
    pictures.check_options(channels, size)
    if (Path(path) / "dataset_dict.json").is_file():
        tables = datasets.load_from_disk(path)
        _check_names(path, tables.keys(), {"split": split})
        table = tables[split]
    elif (Path(path) / "state.json").is_file():
        table = datasets.load_from_disk(path)  # one split, which may not say which
        _check_names(path, (table.split,) if table.split else ("train", "all"), {"split": split})
    else:
        if not (path and Path(path).is_dir()):
            _check_hub_name("path", path)
        if config is not None:
            _check_hub_name("config", config)
        table = datasets.load_dataset(path, config, split=split)
    wanted = {"image": image} | ({} if label is None else {"label": label})
    _check_names(path, table.column_names, wanted)
    only = table.select_columns([image])
    x = _rows(path, len(table), lambda index: only[index][image], channels, size)
    if label is None:
        return Dataset(path, split, x, integers(256))
    labels = np.asarray(table[label][:], np.int32)
    names = tuple(getattr(table.features[label], "names", None) or ())
    classes = len(names) or int(labels.max()) + 1
    return Dataset(path, split, x, integers(256), labels, classes, names)


def tfds(
    path: str,
    split: str,
    *,
    data_dir: str | None = None,
    image: str = "image",
    label: str | None = "label",
    size: int | None = None,
    channels: int = 3,
) -> Dataset:
    """Images and labels of a TensorFlow Datasets builder, [n, height, width, channels].

    Args:
        path: the builder's name, such as "mnist:3.0.1".
        split: the split, by TFDS's own names, slices such as "train[:90%]" included.
        data_dir: where TFDS keeps its files; its default if None.
        image: name of the image feature.
        label: name of the label feature, or None for no labels.
        size: take the centred square and resize it to this side; None keeps the images as they are.
        channels: 1, 3 or 4.

    Returns:
        The split, decoded as it is read.

    Raises:
        ImportError: if ``tensorflow-datasets`` is not installed; the message names the extra.
        ValueError: if the name is none, a feature is missing, or an image is damaged or of another
            size.
    """
    library = _extra("tensorflow_datasets", "tfds")
    pictures.check_options(channels, size)
    _check_hub_name("path", path)
    source = library.data_source(path, split=split, data_dir=data_dir)
    features = source.dataset_info.features
    wanted = {"image": image} | ({} if label is None else {"label": label})
    _check_names(path, features.keys(), wanted)

    def picture(index: int) -> Image.Image:
        values = source[index][image]
        return Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)

    x = _rows(path, len(source), picture, channels, size)
    if label is None:
        return Dataset(path, split, x, integers(256))
    key = label
    labels = Lazy(len(source), (), np.dtype(np.int32), lambda index: source[index][key])
    names = tuple(features[label].names or ())
    classes = int(features[label].num_classes)
    return Dataset(path, split, x, integers(256), labels, classes, names)
