"""The hub libraries are optional: stand-ins with the parts of their interface that are used, and
the real Hugging Face library where it is installed."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from sdejax.data.sources import load

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
LABELS = [0, 1, 2, 0, 1, 2]
NAMES = ["a", "b", "c"]


def module(name, **functions):
    fake = ModuleType(name)
    vars(fake).update(functions)
    return fake


class Table:
    """A table as ``datasets.Dataset`` behaves: rows are dicts, columns are lists."""

    def __init__(self, columns, split=None):
        self.columns, self.split, self.column_names = columns, split, list(columns)
        self.features = {"label": SimpleNamespace(names=NAMES), "image": None}

    def __len__(self):
        return len(self.columns["image"])

    def __getitem__(self, at):
        return (
            self.columns[at] if isinstance(at, str) else {k: v[at] for k, v in self.columns.items()}
        )

    def select_columns(self, names):
        return Table({name: self.columns[name] for name in names})


@pytest.fixture
def table():
    return Table({"image": [Image.fromarray(p) for p in PIXELS], "label": LABELS})


@pytest.fixture
def hub(monkeypatch, table):
    """A stand-in for ``datasets`` that records what it was asked for."""
    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        return table

    fake = module("datasets", load_dataset=load_dataset, load_from_disk=lambda path: table)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    return asked


def check(dataset, order=range(6)):
    rows = dataset.gather(np.array(list(order)))
    np.testing.assert_array_equal(rows["x"], PIXELS[list(order)])
    np.testing.assert_array_equal(rows["label"], np.array(LABELS)[list(order)])
    assert dataset.class_names == tuple(NAMES)
    assert (dataset.num_classes, dataset.event_shape) == (3, (5, 4, 3))


def test_hf_from_the_hub(hub):
    check(load("hf", "some/name", config="plain"), [4, 0, 0])
    assert hub == [(("some/name", "plain"), {"split": "train"})]
    assert load("hf", "some/name", label=None).labels is None
    assert load("hf", "some/name", size=2, channels=1).event_shape == (2, 2, 1)


def test_hf_missing_column_and_mixed_sizes(hub, table):
    with pytest.raises(ValueError, match=r"image: some/name has \['image', 'label'\], got 'img'"):
        load("hf", "some/name", image="img")
    table.columns["image"][3] = Image.new("RGB", (9, 9))
    dataset = load("hf", "some/name")
    with pytest.raises(ValueError, match=r"some/name, example 3: got shape \(9, 9, 3\).*size="):
        dataset[3]


def test_hf_table_on_disk_does_not_pass_for_another_split(hub, table, tmp_path):
    (tmp_path / "state.json").write_text("{}")
    check(load("hf", tmp_path))
    with pytest.raises(ValueError, match=r"split: .*has \['all', 'train'\], got 'test'"):
        load("hf", tmp_path, "test")
    table.split = "test"
    check(load("hf", tmp_path, "test"))


def test_hf_real_library(tmp_path):
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}
    )
    columns = {"image": [Image.fromarray(p) for p in PIXELS], "label": LABELS}
    whole = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict({"train": whole, "test": whole.select([0])}).save_to_disk(tmp_path)
    check(load("hf", tmp_path))
    assert len(load("hf", tmp_path, "test")) == 1
    with pytest.raises(ValueError, match=r"split: .*has \['test', 'train'\], got 'valid'"):
        load("hf", tmp_path, "valid")


@pytest.mark.parametrize("grey", [False, True])
def test_tfds(monkeypatch, grey):
    pixels = PIXELS[..., :1] if grey else PIXELS
    label = SimpleNamespace(names=NAMES, num_classes=3)

    class Source(list):
        dataset_info = SimpleNamespace(features={"image": None, "label": label})

        def __getitem__(self, index):
            assert type(index) is int  # the library takes other types for lists of keys
            return super().__getitem__(index)

    def data_source(name, *, split, data_dir):
        assert (name, split, data_dir) == ("tiny:1.0.0", "train[:50%]", "somewhere")
        return Source({"image": x, "label": y} for x, y in zip(pixels, LABELS, strict=True))

    fake = module("tensorflow_datasets", data_source=data_source)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", fake)
    options = {"data_dir": "somewhere", "channels": 1 if grey else 3}
    dataset = load("tfds", "tiny:1.0.0", "train[:50%]", **options)
    rows = dataset.gather(np.array([5, 2]))
    np.testing.assert_array_equal(rows["x"], pixels[[5, 2]])
    np.testing.assert_array_equal(rows["label"], [2, 2])
    assert rows["label"].dtype == np.int32
    assert (dataset.num_classes, dataset.class_names) == (3, tuple(NAMES))
    with pytest.raises(ValueError, match=r"label: .*has \['image', 'label'\], got 'digit'"):
        load("tfds", "tiny:1.0.0", "train[:50%]", label="digit", **options)


@pytest.mark.parametrize(("name", "module"), [("hf", "datasets"), ("tfds", "tensorflow_datasets")])
def test_a_missing_library_names_the_extra(monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)  # makes the import fail
    with pytest.raises(ImportError, match=r"pip install 'sdejax\[data\]'"):
        load(name, "mnist")


NAMES_THAT_LEAD_OUT = [
    "../../x", "/etc/passwd", "a/../../b", "a//b", "~/x", "a\\b", "a b", "http://x/y", "-o", "",
    "a/",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES_THAT_LEAD_OUT)
def test_a_name_that_leads_out_of_the_cache_is_refused(monkeypatch, hub, name):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", module("tensorflow_datasets"))
    for asked in (("hf", name, {}), ("tfds", name, {}), ("hf", "some/name", {"config": name})):
        source, path, options = asked
        with pytest.raises(ValueError, match=r"(path|config): got .* without '\.\.'"):
            load(source, path, **options)
    assert hub == []


@pytest.mark.parametrize("name", ["mnist", "mnist:3.0.1", "a_b/c-d.e", "glue/cola:2.*.*"])
def test_names_as_hubs_have_them_are_asked_for(hub, name):
    load("hf", name)
    assert hub == [((name, None), {"split": "train"})]
