import os
import pickle

import numpy as np
import pytest

from sdejax.data.pickled import read_pickle
from sdejax.data.sources import load

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
LABELS = RNG.integers(0, 10, 12)
FILES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
NAMES = ["airplane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def planar(part):
    return IMAGES[part].transpose(0, 3, 1, 2).reshape(2, -1)


def parts():
    return zip(FILES, (slice(k, k + 2) for k in range(0, 12, 2)), strict=True)


def write_binary(folder):
    for name, part in parts():
        rows = np.concatenate([LABELS[part, None], planar(part)], axis=1).astype(np.uint8)
        rows.tofile(folder / f"{name}.bin")
    (folder / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")


def write_python(folder, protocol=2):
    for name, part in parts():
        batch = {
            b"batch_label": b"a batch",
            b"labels": LABELS[part].tolist(),
            b"data": planar(part),
            b"filenames": [b"a.png", b"b.png"],
        }
        (folder / name).write_bytes(pickle.dumps(batch, protocol))
    meta = {b"label_names": [n.encode() for n in NAMES], b"num_vis": 3072}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol))


@pytest.fixture(params=["binary", "python 2", "python 3", "python 4", "python 5"])
def layout(request, tmp_path):
    kind = request.param
    folder = tmp_path / f"cifar-10-batches-{'bin' if kind == 'binary' else 'py'}"
    folder.mkdir()
    write_binary(folder) if kind == "binary" else write_python(folder, int(kind[-1]))
    return folder


def test_both_layouts_from_the_folder_or_its_parent(layout):
    for path in (layout, layout.parent):
        train, test = load("cifar10", path), load("cifar10", path, "test")
        np.testing.assert_array_equal(train.x[np.arange(10)], IMAGES[:10])
        np.testing.assert_array_equal(train.labels[np.arange(10)], LABELS[:10])
        np.testing.assert_array_equal(test.x[np.arange(2)], IMAGES[10:])
        assert train.class_names == tuple(NAMES)
        assert train.num_classes == 10


def test_a_batch_as_python_2_wrote_it(tmp_path):
    """The published files: text keys and raw array bytes as Python 2 strings, protocol 2."""
    data = planar(slice(0, 2))
    raw = data.tobytes()
    stream = (
        b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01b"
        b"tR(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff"
        b"\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + len(raw).to_bytes(4, "little")
        + raw
        + b"tbU\x06labels](K\x06K\x09eu."
    )
    (tmp_path / "test_batch").write_bytes(stream)
    content = read_pickle(tmp_path / "test_batch")
    np.testing.assert_array_equal(content["data"], data)
    assert content["labels"] == [6, 9]


class Exploit:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


HOSTILE = {
    r"(posix|nt)\.system": lambda mark: Exploit(os.system, f"touch {mark}"),
    r"(builtins|__builtin__)\.eval": lambda mark: Exploit(eval, f"open({str(mark)!r}, 'w')"),
    r"(builtins|__builtin__)\.getattr": lambda mark: Exploit(getattr, "text", "upper"),
    r"numpy.*load": lambda mark: Exploit(np.load, str(mark)),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_hostile_pickle_is_refused_and_not_run(tmp_path, name, protocol):
    mark = tmp_path / "mark"
    write_python(tmp_path)
    hostile = {b"data": planar(slice(0, 2)), b"labels": [0, 1], b"x": HOSTILE[name](mark)}
    (tmp_path / "data_batch_3").write_bytes(pickle.dumps(hostile, protocol))
    with pytest.raises(ValueError, match=f"data_batch_3: refused.*{name}"):
        load("cifar10", tmp_path)
    assert not mark.exists()


def test_the_hostile_pickle_is_a_working_one(tmp_path):
    mark = tmp_path / "mark"
    pickle.loads(pickle.dumps(HOSTILE[r"(builtins|__builtin__)\.eval"](mark))).close()
    assert mark.exists()


def test_object_arrays_and_damage_are_refused(tmp_path):
    write_python(tmp_path)
    file = tmp_path / "test_batch"
    whole = file.read_bytes()
    file.write_bytes(pickle.dumps({"data": np.array([None, {}], object), "labels": [0, 1]}))
    with pytest.raises(ValueError, match="array of type 'O8'"):
        load("cifar10", tmp_path, "test")
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="test_batch: refused or damaged pickle"):
        load("cifar10", tmp_path, "test")
    file.write_bytes(pickle.dumps({"data": planar(slice(0, 2)), "labels": [0]}, 2))
    with pytest.raises(ValueError, match=r"shape \(2, 3072\) and 1 labels"):
        load("cifar10", tmp_path, "test")
    file.write_bytes(pickle.dumps({"fine_labels": [0]}, 2))
    with pytest.raises(ValueError, match=r"got keys \['fine_labels'\]"):
        load("cifar10", tmp_path, "test")


def test_truncated_or_foreign_binary_batch(tmp_path):
    write_binary(tmp_path)
    file = tmp_path / "data_batch_2.bin"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"data_batch_2\.bin: got 6145 bytes.* multiple of 3073"):
        load("cifar10", tmp_path)
    file.write_bytes(b"\x0b" + whole[1:])
    with pytest.raises(ValueError, match="labels up to 11"):
        load("cifar10", tmp_path)
    file.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"holds \['batches\.meta\.txt', 'data_batch_1\.bin'"
    ):
        load("cifar10", tmp_path)
