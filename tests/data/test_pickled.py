"""Pickles that would run code, fill the memory or never end are refused by the reader."""

import copyreg
import os
import pickle
import struct
import time

import numpy as np
import pytest

from sdejax.data import pickled
from sdejax.data.pickled import read_pickle

PIXELS = np.arange(12, dtype=np.uint8).reshape(3, 4)
BATCH = {b"data": PIXELS, b"labels": [1, 2, 3], "more": [None, True, 2.5, ("a", b"b"), {"k": []}]}


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_batch_is_read_as_pickle_reads_it(tmp_path, protocol, order):
    batch = {**BATCH, b"data": np.asarray(PIXELS, order=order)}
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps(batch, protocol))
    found = read_pickle(path)
    np.testing.assert_array_equal(found.pop("data"), PIXELS)
    assert found == {"labels": [1, 2, 3], "more": BATCH["more"]}


class Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def binary(number):
    return struct.pack("<I", number)


def hostile(mark):
    """Name of the attack -> the pickle."""
    shout = Calls(os.system, f"touch {mark}")
    laughs = b"\x80\x04)" + b"\x86".join([b"\x94h" + bytes([i]) for i in range(60)]) + b"\x86"
    whole = pickle.dumps({"data": PIXELS}, 2)
    plain = {
        "a key that takes for ever to hash": b"\x80\x04}" + laughs[2:] + b"Ns.",
        "an integer of a billion bytes": b"\x80\x02\x8b" + binary(10**9) + b"\x01.",
        "an integer of endless digits": b"L" + b"9" * 10**5 + b"L\n.",
        "text of a length that lies": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"a.",
        "bytes of a length that lies": b"\x80\x05\x8e" + struct.pack("<Q", 2**63) + b"a.",
        "memory of a length that lies": b"\x80\x05\x96" + struct.pack("<Q", 2**62) + b"a.",
        "a persistent id": b"Pcos.system\n.",
        "a persistent id of the stack": b"\x80\x02NQ.",
        "an extension code": b"\x80\x02\x82\x01.",
        "an instance": b"(S'touch x'\nios\nsystem\n.",
        "an object": b"(cos\nsystem\nS'touch x'\no.",
        "a new object": b"\x80\x02cposix\nsystem\n)\x81.",
        "a name inside an admitted one": b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.tofile\x93.",
        "a name of the registry": b"\x80\x02ccopyreg\nadd_extension\n.",
        "a buffer out of band": b"\x80\x05\x97.",
        "too many instructions": b"\x80\x02" + b"]" + b"Na" * 150_000 + b".",
        "lists in lists": b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".",
        "a stack that is empty": b"\x80\x02a.",
        "two values": b"\x80\x02}}.",
        "no end": b"\x80\x02}",
        "nothing": b"",
        "a list": pickle.dumps([1]),
        "a state of a dict": b"\x80\x02}}b.",
        "a call of text": b"\x80\x02X\x01\x00\x00\x00a)R.",
        "an array of objects": pickle.dumps({"data": np.array([{}, None], object)}),
        "an array of floats": pickle.dumps({"data": np.zeros(3)}),
        "a shape that lies": whole.replace(b"K\x03K\x04", b"J\xff\xff\xff\x7fK\x04"),
    }  # fmt: skip
    calls = {
        f"a call, protocol {protocol}": pickle.dumps({"x": shout}, protocol)
        for protocol in range(6)
    }
    nested = {"a call in a call": pickle.dumps({"x": Calls(os.path.join, shout)})}
    registry = {
        "a call of copyreg": pickle.dumps({"x": Calls(copyreg._reconstructor, str, str, "a")})
    }
    return {**plain, **calls, **nested, **registry}


@pytest.mark.parametrize("name", hostile("x"))
def test_an_attack_is_one_short_error(tmp_path, name):
    mark, path = tmp_path / "mark", tmp_path / "batch"
    path.write_bytes(hostile(mark)[name])
    start = time.perf_counter()
    with pytest.raises(ValueError, match=r"refused or damaged pickle") as error:
        read_pickle(path)
    assert time.perf_counter() - start < 20  # seconds, beside others; each takes less than two
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 900
    assert error.value.__cause__ is None
    assert not mark.exists()


def test_the_calls_are_working_ones(tmp_path):
    pickle.loads(hostile(tmp_path / "mark")["a call, protocol 0"])
    assert (tmp_path / "mark").exists()


def test_a_file_larger_than_any_batch_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(pickled, "LARGEST", 10)
    (tmp_path / "batch").write_bytes(pickle.dumps(BATCH))
    with pytest.raises(ValueError, match="more than 10 bytes"):
        read_pickle(tmp_path / "batch")


def test_a_place_far_out_in_the_memo_costs_nothing(tmp_path):
    """The pickle machine would make a table of 32 GiB."""
    (tmp_path / "batch").write_bytes(b"\x80\x02}r" + binary(2**31 - 1) + b".")
    assert read_pickle(tmp_path / "batch") == {}


def test_a_text_that_is_copied_again_and_again_is_refused(tmp_path):
    """Twenty calls on one text of the memo, a megabyte each, in a file of a megabyte."""
    text = b"X" + (10**6).to_bytes(4, "little") + b"a" * 10**6 + b"q\x00"
    call = b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R"
    file = tmp_path / "bomb"
    file.write_bytes(b"\x80\x02}X\x01\x00\x00\x00d]" + text + b"a" + (call + b"a") * 20 + b"s.")
    with pytest.raises(ValueError, match="make more bytes than it has"):
        read_pickle(file)
