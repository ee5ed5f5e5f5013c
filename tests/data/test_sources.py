import numpy as np
import pytest

from sdejax.data.base import Dataset
from sdejax.data.scaling import apply
from sdejax.data.sources import SOURCES, load


def test_digits_are_scikit_learns_divided_once_for_all():
    from sklearn.datasets import load_digits

    truth = load_digits()
    train, test = load("digits"), load("digits", split="test")
    assert (len(train), len(test), train.event_shape) == (1500, 297, (8, 8, 1))
    rows = [d.gather(np.arange(len(d))) for d in (train, test)]
    for part in rows:
        assert set(part["label"]) == set(range(10))
    got = sorted(
        (*x.ravel(), y) for part in rows for x, y in zip(part["x"], part["label"], strict=True)
    )
    assert got == sorted((*x.ravel(), y) for x, y in zip(truth.images, truth.target, strict=True))
    y = apply(train.scaling, rows[0]["x"])
    assert (y.min(), y.max()) == (-1, 1)


def test_splits_of_a_toy_differ_and_repeat():
    train, again, test = (
        load("toy", split=s, n=50, toy="rings") for s in ("train", "train", "test")
    )
    np.testing.assert_array_equal(train.x, again.x)
    assert np.abs(train.x - test.x).max() > 0.1
    assert (train.name, train.event_shape, train.labels) == ("rings", (2,), None)
    assert np.abs(train.x - load("toy", n=50, toy="rings", seed=1).x).max() > 0.1


def test_unknown_names_come_with_the_nearest_known_one():
    with pytest.raises(ValueError, match=r"name: got 'digts'.* did you mean 'digits'\?"):
        load("digts")
    with pytest.raises(ValueError, match=r"no 'sise'.* did you mean 'size'\?"):
        load("folder", ".", sise=3)
    with pytest.raises(ValueError, match=r"toy: got 'two_moon'.* did you mean 'two_moons'\?"):
        load("toy", toy="two_moon")
    with pytest.raises(ValueError, match="split: got 'tests', expected one of"):
        load("digits", split="tests")
    with pytest.raises(ValueError, match="n: got 0"):
        load("toy", n=0)


@pytest.mark.parametrize("name", [name for name in SOURCES if name not in ("digits", "toy")])
def test_sources_of_files_need_a_path(name):
    with pytest.raises(ValueError, match=f"path: got None, but source '{name}'"):
        load(name)


@pytest.mark.parametrize("name", ["idx", "cifar10", "folder", "npz"])
def test_wrong_path_is_named(name, tmp_path):
    kind = "file" if name == "npz" else "folder"
    with pytest.raises(FileNotFoundError, match=f"no.where' is no existing {kind}"):
        load(name, tmp_path / "no.where")


def test_embedded_sources_take_no_path():
    with pytest.raises(ValueError, match="path: got 'here', but source 'digits' is embedded"):
        load("digits", "here")


def test_every_source_is_a_function_of_split_and_keywords():
    assert all(callable(source) for source in SOURCES.values())
    assert isinstance(load("toy", n=1), Dataset)
