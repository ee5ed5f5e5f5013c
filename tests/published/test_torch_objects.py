"""Pickles of torch.save are noted down; one that asks for more is refused by what it asks for."""

import io
import time

import pytest
from torch_writer import ORDERED, REBUILD, pickled, storage, tensor, text, whole, write_archive
from torch_writer import write_sequence as written_before_2020

from sdejax.published.torch_file import read_torch
from sdejax.published.torch_objects import Storage, Tensor, itemsize, read_objects, read_plain

ONE = storage("Float", "0", 4)
FLAT = tensor(ONE, 0, [4], [1])


def read(code):
    return read_objects(io.BytesIO(pickled(code)))


def test_tensors_are_noted_down():
    found, storages = read(tensor(ONE, 1, [3], [1]))
    assert isinstance(found, Tensor)
    assert (found.offset, found.size, found.stride, found.dtype) == (1, (3,), (1,), None)
    assert storages == {"0": found.storage} == {"0": Storage("float32", "0", 4)}
    assert found.storage.nbytes == 16


@pytest.mark.parametrize(("dtype", "size"), [("bool", 1), ("bfloat16", 2), ("int64", 8)])
def test_the_size_of_a_number(dtype, size):
    assert itemsize(dtype) == size


V3 = b"(" + storage("Untyped", "0", 4).replace(b"ctorch\n", b"ctorch.storage\n")
TYPED = (b"ctorch._utils\n_rebuild_tensor_v3\n" + V3 + b"K\x00K\x02\x85K\x01\x85\x89" + ORDERED
         + b"ctorch\nuint16\ntR")  # fmt: skip


@pytest.mark.parametrize(
    ("code", "dtype"),
    [
        (FLAT, None),
        (FLAT.replace(b"tensor_v2", b"tensor").replace(b"\x89" + ORDERED, b""), None),
        (b"ctorch._utils\n_rebuild_parameter\n(" + FLAT + b"\x88" + ORDERED + b"tR", None),
        (TYPED, "uint16"),
    ],
    ids=["tensor", "older tensor", "parameter", "typed tensor"],
)
def test_every_way_to_write_a_tensor(code, dtype):
    found, _ = read(code)
    assert isinstance(found, Tensor)
    assert found.dtype == dtype


def test_other_objects():
    state = ORDERED + text("a") + b"K\x01s}" + text("_metadata") + ORDERED + b"sb"
    assert read(state)[0] == {"a": 1}
    assert read(b"ccollections\ndefaultdict\n(c__builtin__\ndict\ntRK\x00Ns")[0] == {0: None}
    assert read(b"ctorch\nSize\n(K\x02K\x03\x86tR")[0] == (2, 3)
    assert read(b"ctorch\ndevice\n(" + text("cuda") + b"K\x01tR")[0] == "cuda:1"


def test_a_plain_value_has_no_names():
    assert read_plain(io.BytesIO(b"\x80\x02](K\x01e.")) == [1]
    with pytest.raises(ValueError, match=r"asks for collections\.OrderedDict"):
        read_plain(io.BytesIO(pickled(ORDERED)))


def call(name, *arguments):
    return b"c" + name + b"\n(" + b"".join(arguments) + b"tR"


def identifier(*parts):
    return b"(" + b"".join(parts) + b"tQ"


def hostile(mark):
    """Name of the attack -> the program, and what is said about it."""
    touch = text(f"touch {mark}")
    system = call(b"posix\nsystem", touch)
    code = text(f"open({str(mark)!r}, 'w')")
    kind, there = b"ctorch\nFloatStorage\n", text("storage")
    good = (there, kind, text("0"), text("cpu"), whole(4))
    # Sixty tuples, each holding the one before it twice: a tree of 2^60.
    laughs = b")\x94" + b"".join(b"h%c" % i * 2 + b"\x86\x94" for i in range(60))
    long = b"X" + (10**6).to_bytes(4, "little") + b"a" * 10**6 + b"\x94"
    devices = (call(b"torch\ndevice", b"h\x00K\x01") for _ in range(20))
    nested = b")" + b"\x85" * 5000
    return {
        "os.system": (call(b"os\nsystem", touch), "it asks for os.system"),
        "posix.system": (system, "it asks for posix.system"),
        "eval": (call(b"builtins\neval", code), "it asks for builtins.eval"),
        "eval of Python 2": (call(b"__builtin__\neval", code), "it asks for __builtin__.eval"),
        "a call in a tensor": (tensor(system, 0, [4], [1]), "it asks for posix.system"),
        "a call in a storage": (identifier(there, system), "it asks for posix.system"),
        "a call in a hook": (FLAT.replace(ORDERED, system), "it asks for posix.system"),
        "a call in a parameter": (call(b"torch._utils\n_rebuild_parameter", system), "posix"),
        "torch.load": (call(b"torch\nload", touch), "it asks for torch.load"),
        "torch.hub": (call(b"torch.hub\nload", touch), "it asks for torch.hub.load"),
        "a module": (call(b"torch.nn\nLinear"), "it asks for torch.nn.Linear"),
        "a name below an admitted one": (call(b"torch\nSize.index"), "torch.Size.index"),
        "a method of text": (call(b"builtins\nstr.format", code), "builtins.str.format"),
        "getattr": (call(b"builtins\ngetattr", ORDERED, touch), "builtins.getattr"),
        "a type with attributes": (call(b"torch._tensor\n_rebuild_from_type_v2"), "from_type_v2"),
        "complex numbers": (storage("ComplexFloat", "0", 1), "asks for torch.ComplexFloatStorage"),
        "numpy": (call(b"numpy.core.multiarray\nscalar"), "numpy.core.multiarray.scalar"),
        "bytes": (call(b"_codecs\nencode", touch, touch), "it asks for _codecs.encode"),
        "an instance": (b"(" + touch + b"iposix\nsystem\n", "INST of posix system"),
        "a storage that is called": (call(b"torch\nFloatStorage"), "it calls torch.FloatStorage"),
        "a dict with contents": (call(b"builtins\ndict", b"]"), "made with contents"),
        "a state of a tensor": (FLAT + b"}b", "the state of what is no dict"),
        "a state that is none": (b"}Nb", "the state of what is no dict"),
        "a parameter of a list": (call(b"torch._utils\n_rebuild_parameter", b"]NN"), "no tensor"),
        "a conjugate view": (FLAT[:-2] + b"}" + text("conj") + b"\x88stR", "save its clone"),
        "a tensor of too little": (REBUILD + b")R", "missing"),
        "a dtype that is text": (TYPED.replace(b"ctorch\nuint16\n", text("uint16")), "dtype is"),
        "a device of lists": (call(b"torch\ndevice", b"]"), "a device that is no text"),
        "a device of tuples": (call(b"torch\ndevice", laughs), "a device that is no text"),
        "a size of two": (call(b"torch\nSize", b"K\x01K\x02"), "TypeError"),
        "an identifier of text": (text("storage") + b"Q", "a persistent id that is no"),
        "an identifier of lines": (b"Pstorage\n", "a persistent id that is no"),
        "an identifier too short": (identifier(*good[:4]), "a persistent id that is no"),
        "another identifier": (identifier(text("module"), *good[1:]), "a persistent id that is no"),
        "a class that is text": (identifier(there, text("torch FloatStorage"), *good[2:]), "id"),
        "a class that is none": (identifier(there, b"ctorch\nSize\n", *good[2:]), "id that is no"),
        "a key that is a number": (identifier(*good[:2], whole(0), *good[3:]), "id that is no"),
        "a key of tuples": (identifier(*good[:2], laughs, *good[3:]), "id that is no"),
        "an identifier of tuples": (nested + b"Q", "a persistent id that is no"),
        "a negative count": (identifier(*good[:4], whole(-1)), "a persistent id that is no"),
        "a huge count": (identifier(*good[:4], whole(2**60)), "a persistent id that is no"),
        "a count of half": (identifier(*good[:4], b"G" + bytes(8)), "a persistent id that is no"),
        "a view of a storage": (identifier(*good, b"(" + text("1") + b"K\x00K\x04t"), "PyTorch 0"),
        "a view of tuples": (identifier(*good, laughs), "PyTorch 0.4"),
        "a storage of two sizes": (b"(" + ONE + storage("Float", "0", 5) + b"t", "another number"),
        "a text that is copied": (b"](" + long + b"".join(devices) + b"e", "more bytes than it"),
        "a huge integer": (b"\x8b" + (10**6).to_bytes(4, "little") + bytes(10**6), "LONG4"),
    }  # fmt: skip


@pytest.mark.parametrize("name", hostile("x"))
@pytest.mark.parametrize("legacy", [False, True])
def test_an_attack_is_refused_by_what_it_asks_for(tmp_path, name, legacy):
    mark, path = tmp_path / "mark", tmp_path / "a.pth"
    code, says = hostile(mark)[name]
    if legacy:
        written_before_2020(path, code, [(4, bytes(16))])
    else:
        write_archive(path, code, [bytes(16)])
    start = time.perf_counter()
    with pytest.raises(ValueError, match=says) as caught:
        read_torch(path)
    assert time.perf_counter() - start < 10  # seconds, beside others; each takes less than one
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 1000
    assert caught.value.__cause__ is None
    assert not mark.exists()
