"""The reader agrees with NumPy on what NumPy writes, and believes no header."""

import io
import struct
import zipfile

import numpy as np
import pytest

from sdejax.numpy_files import npz_names, open_npy, read_header, read_npz

ARRAYS = {
    "floats": np.arange(24.0).reshape(2, 3, 4),
    "half": np.arange(6, dtype=np.float16),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3)),
    "big_endian": np.arange(4, dtype=">i8"),
    "bytes": np.arange(7, dtype=np.uint8),
    "true": np.array([True, False]),
    "complex": np.array([1j, 2.0]),
    "scalar": np.asarray(3.5),
    "text": np.asarray("añ"),
    "raw_text": np.array([b"ab", b"c"]),
    "empty": np.zeros((0, 3), np.float32),
}


def header(text, version=1, length=None):
    raw = text.encode("latin1") + b"\n"
    size = len(raw) if length is None else length
    return (
        b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", size) + raw
    )


@pytest.mark.parametrize("name", ARRAYS)
def test_what_numpy_writes_is_read_the_same(tmp_path, name):
    array = ARRAYS[name]
    np.save(tmp_path / "a.npy", array)
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **{name: array, "other/part": ARRAYS["floats"]})
        assert npz_names(tmp_path / "a.npz") == [name, "other/part"]
        every = read_npz(tmp_path / "a.npz")
        assert set(every) == {name, "other/part"}
        for found in (open_npy(tmp_path / "a.npy"), every[name]):
            assert (found.dtype, found.shape) == (array.dtype, array.shape)
            assert found.flags.f_contiguous == array.flags.f_contiguous
            np.testing.assert_array_equal(found, array)
    every[name][...] = every[name]  # memory of its own
    assert set(read_npz(tmp_path / "a.npz", [name])) == {name}


@pytest.mark.parametrize("version", [1, 2, 3])
def test_every_version_and_spelling_of_a_header(version):
    text = "{'shape': (2L,\t3) ,'descr':'<f4',  'fortran_order':True}"
    found = read_header(io.BytesIO(header(text, version)))
    assert (found.shape, found.dtype, found.fortran, found.nbytes) == ((2, 3), np.float32, True, 24)


def entry(descr="'<f4'", fortran="False", shape="(2,)", more=""):
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, {more}}}"


LIES = {
    "objects": entry("'|O'"),
    "void": entry("'|V8'"),
    "structured": entry("[('a', '<f4'), ('b', '|O')]"),
    "dates": entry("'<M8[s]'"),
    "words": entry("'float32'"),
    "no such width": entry("'<f3'"),
    "no width": entry("'<U0'", shape="(4611686018427387904,)"),
    "negative": entry(shape="(-2,)"),
    "fraction": entry(shape="(2.5,)"),
    "expression": entry(shape="(2**60,)"),
    "call": entry(shape="(__import__('os').system('true'),)"),
    "many axes": entry(shape="(" + "1, " * 33 + ")"),
    "2**60 elements": entry(shape="(1152921504606846976,)"),
    "2**66 elements": entry(shape="(4294967296, 17179869184)"),
    "endless digits": entry(shape="(" + "9" * 5000 + ",)"),
    "empty and endless": entry(shape="(0, 4611686018427387904)"),
    "two shapes": entry(more="'shape': (1,)").replace("'shape'", "'s'", 1),
    "a key more": entry(more="'x': 1"),
    "a key less": "{'descr': '<f4', 'shape': (2,)}",
    "nested": "(" * 4000 + ")" * 4000,
    "minus": "-" * 9000 + "1",
    "no dict": "[1, 2]",
    "holes": entry(shape="(2,,3)"),
}


def refused(tmp_path, data):
    """By itself and as a member."""
    (tmp_path / "a.npy").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", data)
    with pytest.raises(ValueError, match=r"a\.npy: cannot be read"):
        open_npy(tmp_path / "a.npy")
    with pytest.raises(ValueError, match=r"a\.npz: member 'x' cannot be read"):
        read_npz(tmp_path / "a.npz")


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_refused_before_anything_is_made(tmp_path, lie):
    refused(tmp_path, header(LIES[lie]) + bytes(8))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        header(entry(), version=9) + bytes(8),
        header(entry(), length=5) + bytes(8),
        header(entry(), length=60_000) + bytes(8),
        header(entry(), version=2, length=2**32 - 1) + bytes(8),
        header(entry()) + bytes(7),
        header(entry()) + bytes(9),
    ],
)
def test_lengths_that_lie(tmp_path, data):
    refused(tmp_path, data)


@pytest.mark.parametrize("name", ["../../x.npy", "/x.npy", "a/../../x.npy", "a\\x.npy", "good.npy"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_lead_out_or_repeat(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for each in ("good.npy", name):
            archive.writestr(each, header(entry()) + bytes(8))
    for read in (npz_names, read_npz):
        with pytest.raises(ValueError, match=r"a\.npz: .*repeats or leads out"):
            read(tmp_path / "a.npz")


def test_what_is_packed_otherwise_missing_or_claims_too_much(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", header(entry()) + bytes(8))
    with pytest.raises(ValueError, match="packed otherwise"):
        read_npz(path)
    np.savez_compressed(path, x=np.zeros(2**20, np.uint8))  # about a thousand to one
    assert read_npz(path)["x"].size == 2**20
    with pytest.raises(ValueError, match=r"a\.npz: .*claims 1048704 bytes"):
        read_npz(path, free=2**16)
    with pytest.raises(ValueError, match=r"no member 'y' among \['x'\]"):
        read_npz(path, ["y"])
    with pytest.raises(FileNotFoundError):
        read_npz(tmp_path / "none.npz")
