import numpy as np
import pytest

from sdejax.data.scaling import Scaling, apply, standardise
from sdejax.data.sources import load

RNG = np.random.default_rng(0)
FLOATS = RNG.gamma(2.0, 3.0, size=(40, 3))
BYTES = RNG.integers(0, 256, (40, 5, 4), dtype=np.uint8)
LABELS = RNG.integers(0, 4, 40)


def all_rows(dataset):
    return dataset.gather(np.arange(len(dataset)))


def test_npz_with_default_names_and_labels(tmp_path):
    np.savez(tmp_path / "a.npz", images=BYTES, label=LABELS)
    dataset = load("npz", tmp_path / "a.npz", "all")
    rows = all_rows(dataset)
    np.testing.assert_array_equal(rows["x"], BYTES[..., None])
    np.testing.assert_array_equal(rows["label"], LABELS)
    assert (dataset.num_classes, dataset.scaling.levels, dataset.name) == (4, 256, "a")


def test_npz_with_members_named(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=BYTES, y_train=LABELS, x_test=BYTES[:5])
    dataset = load("npz", tmp_path / "a.npz", x="x_train", labels="y_train", held_out=0.0)
    np.testing.assert_array_equal(all_rows(dataset)["label"], LABELS)
    with pytest.raises(ValueError, match=r"members \['x_test', 'x_train', 'y_train'\], expected"):
        load("npz", tmp_path / "a.npz")


def test_npy_stays_on_disk(tmp_path):
    np.save(tmp_path / "a.npy", BYTES)
    np.save(tmp_path / "l.npy", LABELS)
    dataset = load("npz", tmp_path / "a.npy", "all", labels=str(tmp_path / "l.npy"))
    assert isinstance(dataset.x.column, np.memmap)
    np.testing.assert_array_equal(all_rows(dataset)["x"], BYTES[..., None])
    np.testing.assert_array_equal(all_rows(dataset)["label"], LABELS)


@pytest.mark.parametrize("split", ["train", "test"])
def test_both_splits_are_standardised_with_the_training_moments(tmp_path, split):
    np.save(tmp_path / "a.npy", FLOATS)
    train = all_rows(load("npz", tmp_path / "a.npy", held_out=0.25))["x"]
    dataset = load("npz", tmp_path / "a.npy", split, held_out=0.25)
    assert dataset.scaling == standardise(train)
    y = apply(dataset.scaling, train)
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(y.std(0), 1, rtol=1e-6)
    identity = load("npz", tmp_path / "a.npy", split, scaling="identity")
    assert identity.scaling == Scaling()


def test_object_arrays_are_refused_without_unpickling(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([{}, None], object))
    np.save(tmp_path / "a.npy", np.array([{}, None], object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"a\.npz: member 'x' cannot be read: .*no object arrays"):
        load("npz", tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"a\.npy: cannot be read: .*no object arrays"):
        load("npz", tmp_path / "a.npy")


@pytest.mark.parametrize("name", ["a.npz", "a.npy"])
def test_truncated_files_are_named(tmp_path, name):
    file = tmp_path / name
    np.savez(file, x=BYTES) if name == "a.npz" else np.save(file, BYTES)
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(ValueError, match=rf"{name}: cannot be read"):
        load("npz", file)


def test_damaged_member_is_named(tmp_path):
    file = tmp_path / "a.npz"
    np.savez(file, x=BYTES)
    raw = bytearray(file.read_bytes())
    raw[300] ^= 255  # inside the values: the archive's checksum finds it
    file.write_bytes(bytes(raw))
    with pytest.raises(ValueError, match=r"a\.npz: member 'x' cannot be read"):
        load("npz", file)


@pytest.mark.parametrize(
    "values", [np.arange(9.0), np.arange(8).reshape(4, 2), np.ones((4, 2), bool)]
)
def test_unfit_dtype_or_shape(tmp_path, values):
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(
        ValueError, match=r"expected uint8 or floating point of shape \[n, \*event\]"
    ):
        load("npz", tmp_path / "a.npy")


@pytest.mark.parametrize("labels", [LABELS[:-1], LABELS.astype(float), LABELS - 1])
def test_unfit_labels(tmp_path, labels):
    np.savez(tmp_path / "a.npz", x=BYTES, y=labels)
    with pytest.raises(ValueError, match=r"labels: .*expected integers >= 0 of shape \(40,\)"):
        load("npz", tmp_path / "a.npz")


def test_options_and_not_a_number(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([[1.0], [np.nan]]), y=np.array([0, 5]))
    with pytest.raises(ValueError, match="NaN or infinite"):
        load("npz", tmp_path / "a.npz", held_out=0.0)
    with pytest.raises(ValueError, match=r"num_classes: got 5, but .* label 5"):
        load("npz", tmp_path / "a.npz", num_classes=5)
    with pytest.raises(ValueError, match="scaling: got 'auto', expected 'standardise'"):
        load("npz", tmp_path / "a.npz", scaling="auto")
