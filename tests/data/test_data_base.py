import numpy as np
import pytest

from sdejax.data.base import Column, Dataset, Lazy, Subset, hold_out, take
from sdejax.data.scaling import integers


def make(n=100, labelled=True):
    x = np.arange(n * 4, dtype=np.uint8).reshape(n, 2, 2, 1)
    labels = np.arange(n, dtype=np.int32) % 3 if labelled else None
    return Dataset("some", "all", x, integers(256), labels, 3 if labelled else 0)


def test_every_kind_of_column_gathers_alike():
    x = np.arange(24, dtype=np.uint8).reshape(6, 2, 2)
    lazy = Lazy(6, (2, 2), np.dtype(np.uint8), lambda i: x[i])
    subset = Subset(lazy, np.array([5, 4, 3, 2, 1, 0]))
    indices = np.array([4, 0, 4])
    for column, expected in ((x, x[indices]), (lazy, x[indices]), (subset, x[[1, 5, 1]])):
        assert isinstance(column, Column)
        assert column.shape == (6, 2, 2)
        assert column.dtype == np.uint8
        np.testing.assert_array_equal(column[indices], expected)
    assert lazy[np.array([], np.int64)].shape == (0, 2, 2)


def test_example_and_gather_are_in_stored_values():
    dataset = make()
    example = dataset[7]
    np.testing.assert_array_equal(example["x"], dataset.x[7])
    assert example["x"].dtype == np.uint8
    assert example["label"] == 1
    assert example["label"].dtype == np.int32
    assert "label" not in make(labelled=False)[0]
    assert dataset.event_shape == (2, 2, 1)


@pytest.mark.parametrize("count", [1, 30, 99])
def test_hold_out_divides_without_overlap(count):
    whole = make()
    numbered = Dataset("n", "all", np.arange(100)[:, None], integers(256), np.arange(100))
    train, test = (hold_out(numbered, s, count) for s in ("train", "test"))
    rows = [part.gather(np.arange(len(part)))["x"][:, 0] for part in (train, test)]
    assert len(test) == count
    assert sorted(np.concatenate(rows)) == list(range(100))
    np.testing.assert_array_equal(rows[0], train.gather(np.arange(len(train)))["label"])
    assert len(hold_out(whole, "all", count)) == 100
    assert test.split == "test"


def test_hold_out_is_random_not_the_tail():
    numbered = Dataset("n", "all", np.arange(1000)[:, None], integers(256))
    test = hold_out(numbered, "test", 500)
    rows = test.gather(np.arange(500))["x"][:, 0]
    # the mean of 500 of 0 .. 999 drawn without replacement has standard deviation 9.1
    assert abs(rows.mean() - 499.5) < 5 * 9.1
    assert np.any(np.diff(rows) > 1)


def test_empty_or_unknown_split_is_refused():
    with pytest.raises(ValueError, match=r"held_out: got 0 of 100.*'test' empty"):
        hold_out(make(), "test", 0)
    for count in (-3, 101):
        with pytest.raises(ValueError, match=f"held_out: got {count} of 100 examples"):
            hold_out(make(), "test", count)
    with pytest.raises(ValueError, match="split: got 'valid', expected one of"):
        hold_out(make(), "valid", 10)


def test_take_keeps_labels_with_examples():
    part = take(make(), np.array([8, 3]))
    np.testing.assert_array_equal(part.gather(np.array([0, 1]))["label"], [2, 0])
