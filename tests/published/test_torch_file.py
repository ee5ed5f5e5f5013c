"""Files of torch.save are read bit for bit without PyTorch; others say what they are."""

import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from torch_writer import (
    pickled,
    program,
    raw_bytes,
    storage,
    tensor,
    text,
    write_archive,
    write_pth,
    write_sequence,
)

from sdejax.published.torch_file import read_torch

FIXTURES = Path(__file__).with_name("fixtures")
GENUINE = ("archive", "archive_1.13", "sequence")


def arrays(node, at=""):
    if isinstance(node, np.ndarray):
        yield at, node
    elif isinstance(node, dict | list | tuple):
        pairs = node.items() if isinstance(node, dict) else enumerate(node)
        for key, child in pairs:
            yield from arrays(child, f"{at}/{key}".lstrip("/"))


@pytest.mark.parametrize("name", GENUINE)
def test_tensors_of_pytorch_are_read_bit_for_bit(name):
    found = dict(arrays(read_torch(FIXTURES / f"{name}.pth")))
    with np.load(FIXTURES / "arrays.npz", allow_pickle=False) as want:
        assert set(found) == set(want.files)
        for place, array in found.items():
            assert array.dtype == want[place].dtype
            assert array.shape == want[place].shape
            assert array.tobytes() == want[place].tobytes()
            assert not array.flags.writeable


@pytest.mark.parametrize("name", GENUINE)
def test_the_tree_of_pytorch_is_read(name):
    found = read_torch(FIXTURES / f"{name}.pth")
    assert [*found] == ["optimizer", "model", "ema", "step", "kinds", "views", "expanded",
                        "parameter", "plain", "device", "others"]  # fmt: skip
    assert [*found["model"]] == [
        f"module.all_modules.{k}.{leaf}" for k in (0, 1) for leaf in ("weight", "bias")
    ]
    (group,) = found["optimizer"]["param_groups"]
    assert group["lr"] == 2e-4
    assert group["betas"] == (0.9, 0.999)
    assert group["params"] == [*found["optimizer"]["state"]] == [0, 1, 2, 3]
    ema = found["ema"]
    assert (ema["decay"], ema["num_updates"], len(ema["shadow_params"])) == (0.999, 1, 4)
    assert found["step"] == 2**40
    assert found["plain"] == [
        None, True, -1, 2**70, 0.1, "text é", (), (2, 3), "torch.float16",
    ]  # fmt: skip
    assert found["device"] == "cuda:1"
    assert found["others"] == {0: {}}


@pytest.mark.parametrize("name", GENUINE)
def test_views_of_one_storage_share_memory(name):
    found = read_torch(FIXTURES / f"{name}.pth")
    whole, part, turned, *_ = found["views"]
    assert np.shares_memory(whole, part)
    assert np.shares_memory(whole, turned)
    assert found["expanded"].strides == (0, 4)


def test_a_dtype_without_a_class_of_storage_is_read():
    found = read_torch(FIXTURES / "typed.pth")
    assert found.dtype == np.uint16
    assert found.tolist() == [0, 1, 2]


KINDS = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
TREE = {
    "kinds": {kind: np.arange(6).reshape(2, 3).astype(kind) for kind in KINDS},
    "turned": np.arange(6.0).reshape(2, 3).T,
    "point": np.array(2.5, np.float32),
    "empty": np.zeros((0, 3), np.float32),
    "plain": [None, True, False, -70000, 2**62, 0.1, "é", (1, (2,)), {}, {5: "five"}],
}


@pytest.mark.parametrize("legacy", [False, True])
def test_what_the_tests_write_is_read(tmp_path, legacy):
    path = tmp_path / "a.pth"
    write_pth(path, TREE, legacy)
    found = read_torch(path)
    assert found["plain"] == TREE["plain"]
    want = dict(arrays(TREE))
    for place, array in arrays(found):
        np.testing.assert_array_equal(array, want[place], strict=True)


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("shape", [(5,), ()])
def test_the_order_of_bytes_is_honoured(tmp_path, order, shape):
    values = np.resize(np.array([1.5, -0.0, np.inf, 3e-39, 1 / 3], ml_dtypes.bfloat16), shape)
    whole = np.resize(np.arange(5, dtype=np.int32) * 70000, shape)
    both = [], []
    code = program([values, whole], both[0], legacy=False)
    raw = [raw_bytes(array) for array in both[0]]
    if order == "big":
        raw = [raw_bytes(a.view(f"u{a.itemsize}").byteswap()) for a in both[0]]
    write_archive(tmp_path / "a", code, raw, order=order)
    wide, found = read_torch(tmp_path / "a")
    np.testing.assert_array_equal(wide, values.astype(np.float32), strict=True)
    np.testing.assert_array_equal(found, whole, strict=True)
    assert np.signbit(wide).tolist() == np.signbit(values).tolist()


def test_numbers_are_in_memory_once(tmp_path):
    tree = {"a": np.zeros(2**22, np.float32), "b": np.zeros(2**22, np.float32)}
    for legacy in (False, True):
        write_pth(tmp_path / "a", tree, legacy)
        tracemalloc.start()
        read_torch(tmp_path / "a")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # The older format has its first 2^24 bytes in memory while the objects are read.
        assert peak < 2**25 + 2**23 + legacy * 2**24


ONE = storage("Float", "0", 4)
FLAT = tensor(ONE, 0, [4], [1])
PLACE = "model/module.all_modules.0.weight: "


def described(offset=0, size=(4,), stride=(1,), stored=ONE):
    return tensor(stored, offset, size, stride)


def nested(opened, closed, times):
    return opened * times + b"N" + closed * times


# A tensor in its place -> what is said about it.
TENSORS = {
    "behind its storage": (described(offset=1), "its last number is number 4 of a storage of 4"),
    "strides behind it": (described(size=[2, 2], stride=[3, 1]), "number 4 of a storage of 4"),
    "a size that lies": (described(size=[2**40]), "last number is number 1099511627775"),
    "a negative size": (described(size=[-1]), "its size is no list of whole"),
    "a negative stride": (described(offset=3, stride=[-1]), "its stride is no list of whole"),
    "a negative offset": (described(offset=-1), "its offset is no list of whole"),
    "a huge stride": (described(size=[1], stride=[2**60]), "its stride is no list of whole"),
    "an empty shape bomb": (described(size=[0, 2**40, 2**40], stride=[0] * 3), "no such array"),
    "a stride too few": (described(size=[2, 2]), "1 strides for 2 dimensions"),
    "40 dimensions": (described(size=[1] * 40, stride=[1] * 40), "at most 32"),
    "300000 axes": (described(size=[1] * 300000, stride=[1] * 300000), "at most 32"),
    "an expanded claim": (described(size=[2**30], stride=[0]), "claims 4294967296 bytes"),
    "a claim of windows": (described(size=[2] * 2 + [2**28], stride=[1, 1, 0]), "claims"),
    "a size that is text": (FLAT.replace(b"(K\x04t", text("4"), 1), "its size is no list"),
    "a size of truths": (described(size=[1]).replace(b"(K\x01t", b"(\x88t", 1), "its size is no"),
    "no storage": (described(stored=b"N"), "a tensor without a storage"),
    "a storage that is not there": (described(stored=storage("Float", "9", 4)), "is not in the"),
    "a storage of another length": (described(stored=storage("Float", "1", 4)), "has 2 bytes"),
    "a storage elsewhere": (described(stored=storage("Float", "../version", 4)), "is not in the"),
    "odd booleans": (described(size=[2], stored=storage("Bool", "1", 2)), "booleans with bytes"),
    "a storage alone": (ONE, "Storage, expected a tensor"),
    "a name alone": (b"ctorch\nFloatStorage\n", "the name torch.FloatStorage, expected a tensor"),
    "bytes": (b"C\x01a", "bytes, expected a tensor"),
    "bytes for a name": (b"}C\x01aNs", "a key of bytes"),
    "deep": (nested(b"]", b"a", 80), "nested deeper than 64"),
    "very deep": (nested(b"]", b"a", 10**5), "nested deeper than 64"),
    "inside itself": (b"]\x94h\x00a", "or inside itself"),
}  # fmt: skip


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_at_fault_is_named(tmp_path, name):
    code, says = TENSORS[name]
    path = tmp_path / "checkpoint.pth"
    tree = b"}" + text("model") + b"}" + text("module.all_modules.0.weight") + code + b"ss"
    write_archive(path, tree, [bytes(16), b"\x01\x02"])
    with pytest.raises(ValueError, match=says) as caught:
        read_torch(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: {PLACE[:-2]}")
    assert message.endswith("; expected a complete file as torch.save writes it")
    assert len(message) < 1000


def test_claims_are_counted_together(tmp_path):
    one = described(size=[2**26], stride=[0])  # 2^28 bytes
    write_archive(tmp_path / "a", b"(" + one * 4 + b"t", [bytes(16)])
    assert len(read_torch(tmp_path / "a")) == 4
    write_archive(tmp_path / "a", b"(" + one * 5 + b"t", [bytes(16)])
    with pytest.raises(ValueError, match=r"a: 4: this tensor, with those before it,: claims"):
        read_torch(tmp_path / "a")


TWICE = {"tuple": b"(%b%bt", "list": b"](%b%be", "dict": b"}(K\x01%bK\x02%bu"}


@pytest.mark.parametrize("kind", TWICE)
def test_a_tree_that_grows_without_end_is_refused(tmp_path, kind):
    """Forty containers, each holding the one before it twice: a tree of 2^40."""
    laughs = [TWICE[kind] % (b"h%c" % i, b"h%c" % i) + b"\x94" for i in range(40)]
    write_archive(tmp_path / "a", b"()\x94" + b"".join(laughs) + b"t", [])
    with pytest.raises(ValueError, match="one list many times over"):
        read_torch(tmp_path / "a")


FOREIGN = {
    "empty": (b"", "the file is empty"),
    "a web page": (b"\n  <!DOCTYPE html><html>", "a web page"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    "gzip": (b"\x1f\x8b\x08\x00", "gzip"),
    "an HDF5 file": (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    "an array of numpy": (b"\x93NUMPY\x01\x00", "numpy.save"),
    "a file of Flax": (b"\x86\xa4step\x07", "flax.serialization"),
    "a large file of Flax": (b"\xde\x00\x20\xa4step\x07", "flax.serialization"),
    "safetensors": (b"\x02" + bytes(7) + b"{}" + bytes(9), "a file of safetensors"),
    "text": (b"hello", "neither a zip archive nor a pickle"),
    "a pickle": (pickled(program({"a": 1}, [], legacy=True)), "lacks the magic number"),
    "a pickle that runs": (b"\x80\x02cos\nsystem\n.", "it asks for os.system"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_given_instead_is_named(tmp_path, name):
    raw, says = FOREIGN[name]
    path = tmp_path / "checkpoint_1.pth"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=says) as caught:
        read_torch(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_folder_is_refused_and_an_absent_file_said(tmp_path):
    with pytest.raises(ValueError, match=r"a folder or device; expected a file of torch\.save"):
        read_torch(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_torch(tmp_path / "absent")


def test_names_do_not_reach_the_terminal_raw(tmp_path):
    tree = b"}" + text("\x1b[2J" + "a" * 5000) + b"C\x01as"
    write_sequence(tmp_path / "a", tree, [])
    with pytest.raises(ValueError, match="bytes, expected a tensor") as caught:
        read_torch(tmp_path / "a")
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 1000
