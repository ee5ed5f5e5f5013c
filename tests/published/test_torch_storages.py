"""Archives and sequences of storages: every cut and every lie about a size is noticed."""

import io
import struct
import time
import zipfile

import numpy as np
import pytest
from torch_writer import (
    MAGIC,
    pickled,
    program,
    storage,
    tensor,
    write_archive,
    write_pth,
    write_sequence,
)

from sdejax.published import torch_storages
from sdejax.published.torch_file import read_torch

TREE = {"a": np.arange(4, dtype=np.float32), "b": [np.arange(3), "text", 1.5, {"c": None}]}
CODE = tensor(storage("Float", "0", 4), 0, [4], [1])
WANT = np.arange(4, dtype=np.float32)
NUMBERS = WANT.tobytes()
GOOD = {"data.pkl": pickled(CODE), "data/0": NUMBERS, "version": b"3\n"}


def archive(members, packed=zipfile.ZIP_STORED, root="a/"):
    """A zip archive of pairs of names and bytes."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", packed) as file:
        for name, content in dict(members).items():
            file.writestr(root + name, content)
    return raw.getvalue()


def twice(members):
    """The last member of an archive once more, under the name of the first."""
    raw = archive([*members.items(), ("data.pkX", members["data.pkl"])])
    return raw.replace(b"data.pkX", b"data.pkl")


def listed(raw, offset, value, member=b"a/data/0"):
    """The archive with another field in the list of its members."""
    start = raw.rindex(b"PK\x01\x02", 0, raw.rindex(member)) + offset
    return raw[:start] + value + raw[start + len(value) :]


@pytest.mark.parametrize("packed", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("root", ["archive/", "my model/", "deep/er/"])
def test_an_archive_of_any_name_is_read(tmp_path, packed, root):
    (tmp_path / "a").write_bytes(archive(GOOD, packed, root))
    np.testing.assert_array_equal(read_torch(tmp_path / "a"), WANT, strict=True)


PLAIN = archive(GOOD)
BOMB = tensor(storage("Byte", "0", 2**31), 0, [1], [1])
ARCHIVES = {
    "no members": (b"PK\x03\x04" + archive({}), "0 members NAME/data.pkl"),
    "an archive of numpy": (archive({"x.npy": b"1"}, root=""), "numpy.savez"),
    "another archive": (archive({"word/document.xml": b"1"}), "a zip archive of .'a/word/docu"),
    "two roots": (archive({**GOOD, "b/data.pkl": b"N."}), "2 members NAME/data.pkl"),
    "a program": (archive({**GOOD, "constants.pkl": b"N."}), "torch.jit.save"),
    "a newer version": (archive({**GOOD, "version": b"11\n"}), "version b'11' of the archive"),
    "a version of noise": (archive({**GOOD, "version": "²"}), "of the archive, expected 1 to 10"),
    "a huge version": (archive({**GOOD, "version": b"3" * 40}), "version has 40 bytes"),
    "an order of noise": (archive({**GOOD, "byteorder": b"middle"}), "byte order b'middle'"),
    "two objects": (archive({**GOOD, "data.pkl": pickled(CODE) * 2}), "bytes follow the objects"),
    "no storage": (archive({"data.pkl": GOOD["data.pkl"]}), "storage '0' is not in the archive"),
    "a storage cut short": (archive({**GOOD, "data/0": bytes(15)}), "15 bytes, expected 16"),
    "a storage too long": (archive({**GOOD, "data/0": bytes(17)}), "17 bytes, expected 16"),
    "a name twice": (twice(GOOD), "'a/data.pkl' is there twice"),
    "a name that leads out": (archive({**GOOD, "../b": b"1"}), "leads out of the archive"),
    "a name from the root": (archive({**GOOD, "/b": b"1"}, root="/"), "leads out of the archive"),
    "a name of Windows": (archive({**GOOD, "..\\b": b"1"}), "leads out of the archive"),
    "encrypted": (listed(PLAIN, 8, b"\x01\x00"), "encrypted or packed otherwise"),
    "packed with bzip2": (archive(GOOD, zipfile.ZIP_BZIP2), "packed otherwise than with deflate"),
    "a size that lies": (listed(PLAIN, 24, struct.pack("<I", 2**31)), "lies about its size"),
    "both sizes lie": (listed(PLAIN, 20, struct.pack("<II", 99, 99)), "lies inside another"),
    "the last reaches out": (listed(PLAIN, 20, struct.pack("<II", 99, 99), b"a/version"),
                             "reaches into the list of members"),
    "inside another": (listed(PLAIN, 42, struct.pack("<I", 9)), "lies inside another"),
    "a bomb that says so": (listed(archive(GOOD, zipfile.ZIP_DEFLATED), 24,
                                   struct.pack("<I", 2**31)), "claims 2147483"),
    "a bomb that lies": (listed(archive({**GOOD, "data/0": bytes(10**6)}, zipfile.ZIP_DEFLATED),
                                24, struct.pack("<I", 16)), "'a/data/0' is damaged"),
    "a changed number": (PLAIN.replace(NUMBERS, bytes(16)), "Bad CRC-32"),
    "a huge pickle": (archive({"data.pkl": bytes(2**24 + 1)}, zipfile.ZIP_DEFLATED), "data.pkl"),
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_damaged_archive_is_refused(tmp_path, name):
    raw, says = ARCHIVES[name]
    path = tmp_path / "a"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=says) as caught:
        read_torch(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 1000


def sequence(keys=("0",), count=4, raw=NUMBERS, magic=MAGIC, version=1001, machine=None):
    parts = [magic, version, {} if machine is None else machine]
    head = b"".join(pickled(program(part, [], legacy=True)) for part in parts)
    listed = pickled(program(keys, [], legacy=True))
    return head + pickled(CODE) + listed + struct.pack("<q", count) + raw


SEQUENCES = {
    "another number": (sequence(magic=1), "lacks the magic number"),
    "another version": (sequence(version=1002), "not version 1001"),
    "no machine": (sequence(machine=0), "not version 1001"),
    "keys that are none": (sequence(keys="0"), "no list of text"),
    "keys that are numbers": (sequence(keys=[0]), "no list of text"),
    "a key too many": (sequence(keys=["0", "1"]), "2 storages are listed, and 1 are used"),
    "a key twice": (sequence(keys=["0", "0"]), "2 storages are listed, and 1 are used"),
    "another key": (sequence(keys=["1"]), "1 storages are listed, and 1 are used"),
    "no key": (sequence(keys=[]), "0 storages are listed, and 1 are used"),
    "another count": (sequence(["0"], count=5), "5 numbers, expected 4"),
    "a negative count": (sequence(["0"], count=-4), "-4 numbers, expected 4"),
    "cut short": (sequence(["0"], raw=bytes(15)), "truncated: storage '0' ends behind"),
    "appended to": (sequence(["0"], raw=bytes(18)), "2 bytes follow the last storage"),
}  # fmt: skip


def test_a_sequence_is_read(tmp_path):
    (tmp_path / "a").write_bytes(sequence(["0"]))
    np.testing.assert_array_equal(read_torch(tmp_path / "a"), WANT, strict=True)


@pytest.mark.parametrize("name", SEQUENCES)
def test_a_damaged_sequence_is_refused(tmp_path, name):
    raw, says = SEQUENCES[name]
    path = tmp_path / "a"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=says) as caught:
        read_torch(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("legacy", [False, True])
def test_every_cut_is_noticed(tmp_path, legacy):
    write_pth(tmp_path / "whole", TREE, legacy)
    raw = (tmp_path / "whole").read_bytes()
    for end in range(1, len(raw), 5):
        (tmp_path / "cut").write_bytes(raw[:end])
        with pytest.raises(ValueError, match="cut: "):
            read_torch(tmp_path / "cut")


@pytest.mark.parametrize("legacy", [False, True])
def test_any_changed_byte_is_read_or_refused(tmp_path, legacy):
    write_pth(tmp_path / "whole", TREE, legacy)
    whole = (tmp_path / "whole").read_bytes()
    draw, path, start = np.random.default_rng(0), tmp_path / "changed", time.perf_counter()
    for _ in range(400):
        raw = bytearray(whole)
        for place in draw.integers(len(raw), size=draw.integers(1, 4)):
            raw[place] = draw.integers(256)
        path.write_bytes(raw)
        try:
            read_torch(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017
    assert time.perf_counter() - start < 60  # seconds, beside others; it takes two


def test_a_storage_is_read_once(tmp_path, monkeypatch):
    seen = []
    unpacked = torch_storages._unpacked
    monkeypatch.setattr(
        torch_storages, "_unpacked", lambda a, i: (seen.append(i.filename), unpacked(a, i))[1]
    )
    write_archive(tmp_path / "a", b"(" + CODE * 3 + b"t", [bytes(16)])
    assert len(read_torch(tmp_path / "a")) == 3
    assert seen.count("archive/data/0") == 1


def test_the_older_format_has_no_limit_of_its_own(tmp_path):
    """Storages may begin beyond the part that is read for the objects."""
    many = 2**23
    code = b"(" + b"".join(tensor(storage("Byte", str(k), many), 0, [many], [1]) for k in range(4))
    raws = [np.full(many, k, np.uint8) for k in range(4)]
    sizes = [many] * 4
    # The writer's count of numbers comes first, then the numbers.
    write_sequence(tmp_path / "a", code + b"t", list(zip(sizes, raws, strict=True)))
    found = read_torch(tmp_path / "a")
    assert [(array.min(), array.max()) for array in found] == [(k, k) for k in range(4)]
