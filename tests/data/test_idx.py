import gzip
import struct

import numpy as np
import pytest

from sdejax.data.sources import load

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 5, 4), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 3, 2, 1, 0], np.uint8)


def encode(values):
    header = struct.pack(f">I{values.ndim}I", 0x800 + values.ndim, *values.shape)
    return header + values.tobytes()


@pytest.fixture
def mnist(tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(encode(IMAGES))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(encode(LABELS))
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(encode(IMAGES[:2])))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(encode(LABELS[:2])))
    return tmp_path


def test_plain_and_gzipped(mnist):
    train, test = load("idx", mnist), load("idx", mnist, "test", num_classes=4)
    np.testing.assert_array_equal(train.x[np.arange(7)], IMAGES[..., None])
    np.testing.assert_array_equal(train.labels[np.arange(7)], LABELS)
    assert (train.num_classes, test.num_classes, len(test)) == (4, 4, 2)
    assert (train.scaling.levels, train.event_shape) == (256, (5, 4, 1))


def test_dotted_and_prefixed_names(mnist):
    for kind in ("images-idx3", "labels-idx1"):
        old = mnist / f"train-{kind}-ubyte"
        old.rename(mnist / f"emnist-letters-train-{kind.replace('-', '.')}-ubyte")
    assert len(load("idx", mnist)) == 7


def test_a_file_beside_its_gzipped_self_is_read_once(mnist):
    (mnist / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(encode(IMAGES)))
    assert len(load("idx", mnist)) == 7


def test_missing_and_ambiguous_files(mnist):
    (mnist / "other-train-images-idx3-ubyte").write_bytes(encode(IMAGES))
    with pytest.raises(FileNotFoundError, match="2 IDX files of train images"):
        load("idx", mnist)
    (mnist / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"0 IDX files of test labels.*t10k-labels-idx1"):
        load("idx", mnist, "test")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[:-3], r"got 137 values, expected 140 for shape \(7, 5, 4\)"),
        (lambda raw: raw + b"x", "got 141 values, expected 140"),
        (lambda raw: raw[:9], "magic number 0x00000803 in 9 bytes"),
        (lambda raw: b"", "magic number 0x00000000 in 0 bytes"),
        (lambda raw: encode(LABELS), "magic number 0x00000801 in .* expected 0x00000803"),
        (lambda raw: gzip.compress(raw)[:-20], "broken gzip data"),
        (lambda raw: b"\x1f\x8b" + raw, "broken gzip data"),
    ],
)
def test_damaged_files_are_named(mnist, damage, message):
    file = mnist / "train-images-idx3-ubyte"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=message) as error:
        load("idx", mnist)
    assert str(file) in str(error.value)


def test_a_huge_declared_shape_is_an_error_not_an_allocation(mnist):
    file = mnist / "train-images-idx3-ubyte"
    file.write_bytes(struct.pack(">IIII", 0x803, 2**32 - 1, 2**32 - 1, 2**32 - 1) + b"abc")
    with pytest.raises(ValueError, match="got 3 values"):
        load("idx", mnist)


def test_images_and_labels_of_different_sets(mnist):
    (mnist / "train-labels-idx1-ubyte").write_bytes(encode(LABELS[:5]))
    with pytest.raises(ValueError, match=r"7 images and .* 5 labels"):
        load("idx", mnist)


def test_too_few_classes_and_unknown_split(mnist):
    with pytest.raises(ValueError, match=r"num_classes: got 3, .* label 3"):
        load("idx", mnist, num_classes=3)
    with pytest.raises(ValueError, match="split: got 'all'"):
        load("idx", mnist, "all")
