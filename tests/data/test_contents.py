import dataclasses

import numpy as np
import pytest

from sdejax.data import contents as module
from sdejax.data.base import Dataset, Lazy, hold_out, take
from sdejax.data.contents import contents
from sdejax.data.folder import folder
from sdejax.data.scaling import Scaling, integers

IMAGES = np.random.default_rng(0).integers(0, 256, (1000, 4, 4, 3), dtype=np.uint8)
LABELS = np.arange(1000, dtype=np.int32) % 7


def dataset(x=IMAGES, labels=LABELS):
    return Dataset("d", "train", x, integers(256), labels, 7)


def lazy(x, identity="files"):
    return Lazy(len(x), x.shape[1:], x.dtype, lambda i: x[i], identity)


def changed(array, *index):
    array = array.copy()
    array[index] += 1
    return array


def test_every_value_and_label_counts():
    found = contents(dataset())
    assert found == contents(dataset(IMAGES.copy(), LABELS.copy()))
    others = [
        dataset(changed(IMAGES, 500, 2, 1, 0)),
        dataset(changed(IMAGES, 999, 3, 3, 2)),
        dataset(labels=changed(LABELS, 321)),
        dataset(labels=None),
        dataset(IMAGES[::-1]),
        dataset(IMAGES.reshape(1000, 2, 8, 3)),
        dataset(IMAGES.view(np.int8)),
        dataset(IMAGES[:-1], LABELS[:-1]),
    ]
    assert len({found, *map(contents, others)}) == len(others) + 1
    renamed = dataclasses.replace(dataset(), name="other", split="test", scaling=Scaling())
    assert contents(renamed) == found


def test_chunks_and_memory_maps_make_no_difference(monkeypatch, tmp_path):
    found = contents(dataset())
    np.save(tmp_path / "x.npy", IMAGES)
    assert (
        contents(dataset(np.load(tmp_path / "x.npy", mmap_mode="r", allow_pickle=False))) == found
    )
    monkeypatch.setattr(module, "CHUNK", 100)
    assert contents(dataset()) == found


def test_a_part_is_hashed_by_its_own_rows():
    train, test = (hold_out(dataset(), split, 300) for split in ("train", "test"))
    assert contents(train) != contents(test)
    row = int(test.x.indices[150])
    other = dataset(changed(IMAGES, row, 0, 0, 0))
    assert contents(hold_out(other, "train", 300)) == contents(train)
    assert contents(hold_out(other, "test", 300)) != contents(test)


def test_of_large_arrays_spaced_rows_count(monkeypatch):
    monkeypatch.setattr(module, "LARGE", IMAGES.nbytes // 4)
    found = contents(dataset())
    assert contents(dataset(changed(IMAGES, 999))) != found
    assert contents(dataset(changed(IMAGES, slice(500, 504)))) != found


def test_lazy_rows_are_sampled_and_their_files_told_apart():
    reads = []
    counting = dataclasses.replace(lazy(IMAGES), read=lambda i: reads.append(i) or IMAGES[i])
    found = contents(dataset(counting))
    assert reads[0] == 0
    assert reads[-1] == 999
    assert len(reads) == len(set(reads)) == 64
    for other in (lazy(IMAGES, "bigger files"), lazy(changed(IMAGES, slice(480, 500)))):
        assert contents(dataset(other)) != found
    part = take(dataset(lazy(IMAGES)), np.arange(5))
    assert contents(part) != contents(take(dataset(lazy(IMAGES, "bigger files")), np.arange(5)))


def test_an_image_folder_with_another_file_is_another(tmp_path):
    from PIL import Image

    for index in range(200):
        Image.fromarray(IMAGES[index]).save(tmp_path / f"{index:03d}.png")
    found = contents(folder(tmp_path, "all"))
    assert contents(folder(tmp_path, "all")) == found
    noise = np.zeros((4, 4, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "101.png")
    assert contents(folder(tmp_path, "all")) != found


@pytest.mark.parametrize("n", [1, 2])
def test_small_ones(n):
    assert contents(dataset(IMAGES[:n], LABELS[:n])).startswith("1:")
