"""Files of flax.serialization are read bit for bit; damaged and hostile ones say what is wrong."""

import io
import zipfile
from typing import Any

import flax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
from flax import serialization

from sdejax.published.flax_file import CHUNKED, read_flax


@flax.struct.dataclass
class Optimizer:
    target: Any
    state: Any


@flax.struct.dataclass
class State:
    """The layout of the original checkpoints."""

    step: int
    optimizer: Any
    lr: float
    model_state: Any
    ema_rate: float
    params_ema: Any
    rng: Any


def params(seed):
    draw = np.random.default_rng(seed).standard_normal
    return {
        "Conv_0": {"kernel": draw((3, 3, 2, 4), np.float32), "bias": draw(4, np.float32)},
        "GroupNorm_0": {"scale": draw((1, 1, 1, 4), np.float32)},
    }


def checkpoint():
    moments = {
        layer: {
            leaf: {"grad_ema": v + 1, "grad_sq_ema": v * v} for leaf, v in leaves.items()
        }
        for layer, leaves in params(0).items()
    }  # fmt: skip
    state = {"step": np.int32(7), "param_states": moments}
    rng = np.array([3, 2**32 - 1], np.uint32)
    return State(7, Optimizer(params(0), state), 2e-4, {}, 0.999, params(1), rng)


def same(found, want):
    if isinstance(want, dict):
        assert isinstance(found, dict)
        assert set(found) == set(want)
        for key in want:
            same(found[key], want[key])
    elif isinstance(want, np.ndarray | np.generic):
        assert type(found) is type(want)
        assert found.dtype == want.dtype
        assert found.shape == want.shape
        assert found.tobytes() == want.tobytes()
    else:
        assert type(found) is type(want)
        assert found == want


def test_a_checkpoint_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "checkpoint_26"
    state = checkpoint()
    path.write_bytes(serialization.to_bytes(state))
    found = read_flax(path)
    same(found, serialization.to_state_dict(state))
    assert set(found) == set(State.__dataclass_fields__)
    with pytest.raises(ValueError, match="read-only"):
        found["rng"][0] = 1


LEAVES = {
    "none": None, "text": "text", "yes": True, "whole": -5, "big": 2**63, "real": 0.1,
    "complex": 1 - 2j, "scalar": np.float32(1.5), "flag": np.bool_(True), "empty": np.zeros((0, 3)),
    "point": np.array(2.0), "bool": np.array([True, False]), "half": np.ones(3, np.float16),
    "bytes": np.arange(6, dtype=np.int8).reshape(2, 3), "nothing": {},
}  # fmt: skip


def test_every_kind_of_leaf_is_read(tmp_path):
    path = tmp_path / "leaves"
    path.write_bytes(serialization.msgpack_serialize(LEAVES))
    same(read_flax(path), LEAVES)


def test_bfloat16_is_widened(tmp_path):
    path = tmp_path / "half"
    values = jnp.array([[1.5, -0.0, jnp.inf, 3e-39, 1 / 3]], jnp.bfloat16)
    path.write_bytes(serialization.msgpack_serialize({"a": values, "b": values[0, 4]}))
    found = read_flax(path)
    same(found["a"], np.asarray(values).astype(np.float32))
    assert found["b"] == np.float32(values[0, 4])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, jnp.bfloat16])
def test_pieces_are_joined(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 24)
    array = np.arange(60).reshape(3, 4, 5).astype(dtype)
    path = tmp_path / "pieces"
    raw = serialization.msgpack_serialize({"a": {"kernel": array, "small": np.ones(2, np.float32)}})
    assert CHUNKED.encode() in raw
    path.write_bytes(raw)
    wide = np.float32 if dtype == jnp.bfloat16 else dtype
    same(read_flax(path)["a"]["kernel"], array.astype(wide))


def test_pieces_in_lists_are_joined(tmp_path):
    path = tmp_path / "pieces"
    tree = {"a": {CHUNKED: True, "shape": [2, 2], "chunks": [np.arange(3), np.arange(1)]}}
    path.write_bytes(serialization.msgpack_serialize(tree))
    same(read_flax(path), {"a": np.array([[0, 1], [2, 0]])})


def packed(*parts, code=1):
    return msgpack.ExtType(code, msgpack.packb(parts))


def leaf(value):
    return msgpack.packb({"optimizer": {"target": {"Conv_0": {"kernel": value}}}})


def pieces(**changes):
    two = packed([2], "float32", bytes(8))
    return leaf({CHUNKED: True, "shape": {"0": 4}, "chunks": {"0": two, "1": two}, **changes})


def archive():
    path = io.BytesIO()
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", "x")
    return path.getvalue()


GOOD = serialization.to_bytes({"a": params(0), "b": params(1)})
KERNEL = "optimizer/target/Conv_0/kernel: "
DAMAGED = {
    "empty": (b"", "empty"),
    "truncated": (GOOD[:-1], "truncated"),
    "cut in half": (GOOD[: len(GOOD) // 2], "truncated"),
    "one byte": (GOOD[:1], "truncated"),
    "appended to": (GOOD + b"\x00", "1 bytes follow the tree"),
    "twice": (GOOD + GOOD, f"{len(GOOD)} bytes follow"),
    "a pickle": (b"\x80\x02}q\x00.", "a pickle"),
    "a zip archive": (archive(), "zip archive"),
    "a web page": (b"\n  <!DOCTYPE html><html>", "a web page"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    "gzip": (b"\x1f\x8b\x08\x00", "gzip"),
    "an array of numpy": (b"\x93NUMPY\x01\x00", "numpy.save"),
    "text": (b"hello", "no dictionary"),
    "a number": (b"\x01", "no dictionary"),
    "an array on top": (msgpack.packb(packed([1], "int8", b"1")), "no dictionary"),
    "a chunked array on top": (msgpack.packb({CHUNKED: True}), "no dictionary"),
    "a byte without meaning": (b"\x81\xa1a\xc1", "FormatError"),
    "names that are no text": (b"\x81\xa1\xff\x01", "utf-8"),
    "a number for a name": (b"\x81\x01\x02", "int is not allowed for map key"),
    "bytes for a name": (b"\x81\xc4\x01a\x02", "expected text"),
    "a name twice": (b"\x82\xa1a\x01\xa1a\x02", "'a' twice"),
    "a huge dictionary": (b"\xdf\xff\xff\xff\xff", "exceeds max_map_len"),
    "a huge list": (b"\x81\xa1a\xdd\x7f\xff\xff\xff", "exceeds max_array_len"),
    "a huge text": (b"\x81\xa1a\xdb\x7f\xff\xff\xff", "exceeds|truncated"),
    "a huge extension": (b"\x81\xa1a\xc9\x7f\xff\xff\xff\x01", "exceeds|truncated"),
    "deep": (b"\x81\xa1a" * 70 + b"\x01", "deeper than 64"),
    "deep lists": (b"\x81\xa1a" + b"\x91" * 900 + b"\x01", "deeper than 64"),
    "very deep": (b"\x81\xa1a" * 9000 + b"\x01", "StackError"),
    "bytes": (leaf(b"abc"), f"{KERNEL}bytes"),
    "a date": (leaf(msgpack.Timestamp(1, 2)), f"{KERNEL}Timestamp"),
    "an unknown extension": (leaf(msgpack.ExtType(4, b"x")), f"{KERNEL}extension type 4"),
    "an extension of noise": (leaf(msgpack.ExtType(1, b"\xc1")), f"{KERNEL}1 bytes that cannot"),
    "an extension cut short": (leaf(msgpack.ExtType(1, b"\x93\x90")), f"{KERNEL}2 bytes that cann"),
    "no dtype": (leaf(packed([1], bytes(4))), f"{KERNEL}an array that is not"),
    "too few bytes": (leaf(packed([2, 3], "float32", bytes(20))), f"{KERNEL}20 bytes, expected 24"),
    "too many bytes": (leaf(packed([2], "float64", bytes(17))), f"{KERNEL}17 bytes, expected 16"),
    "a shape bomb": (leaf(packed([2**20] * 2, "int8", b"1")), "1 bytes, expected 1099511627776"),
    "an empty shape bomb": (leaf(packed([0, 2**62], "float32", b"")), "no such array"),
    "a negative size": (leaf(packed([-1, -4], "float32", bytes(16))), f"{KERNEL}shape"),
    "half a size": (leaf(packed([0.5], "float32", b"")), f"{KERNEL}shape"),
    "True for a size": (leaf(packed([True], "int8", b"1")), f"{KERNEL}shape"),
    "40 dimensions": (leaf(packed([1] * 40, "int8", b"1")), f"{KERNEL}.*exceeds max_array_len"),
    "objects": (leaf(packed([1], "object", bytes(8))), f"{KERNEL}dtype 'object', expected"),
    "records": (leaf(packed([1], "f4,f4", bytes(8))), f"{KERNEL}dtype 'f4,f4'"),
    "dates": (leaf(packed([1], "datetime64", bytes(8))), f"{KERNEL}dtype"),
    "odd booleans": (leaf(packed([2], "bool", b"\x01\x02")), f"{KERNEL}booleans"),
    "a scalar that is none": (leaf(packed([1], "int8", b"1", code=3)), f"{KERNEL}a scalar of"),
    "half a complex number": (leaf(packed(1.0, code=2)), f"{KERNEL}a complex"),
    "a complex text": (leaf(packed("a", "b", code=2)), f"{KERNEL}a complex"),
    "pieces of another size": (pieces(shape={"0": 5}), f"{KERNEL}4 numbers in 2 pieces"),
    "a piece that is missing": (pieces(chunks={"1": packed([4], "int8", b"1234")}), "0, 1, 2"),
    "no pieces": (pieces(chunks={}), "one or more flat arrays"),
    "pieces that are numbers": (pieces(chunks=[1, 2]), "one or more flat arrays"),
    "pieces of two dtypes": (pieces(chunks=[packed([n], kind, bytes(n)) for n, kind in
                                            ((1, "int8"), (3, "bool"))]), "pieces of bool, int8"),
    "something beside pieces": (pieces(more=1), f"{KERNEL}an array in pieces has"),
    "a piece that is damaged": (pieces(chunks=[packed([3], "int8", b"1")]), "kernel/chunks/0: "),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_refused(tmp_path, damage):
    raw, says = DAMAGED[damage]
    path = tmp_path / "checkpoint_1"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=says) as caught:
        read_flax(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 1000


def test_every_cut_is_noticed(tmp_path):
    path = tmp_path / "cut"
    for end in range(1, len(GOOD), 7):
        path.write_bytes(GOOD[:end])
        with pytest.raises(ValueError, match="truncated"):
            read_flax(path)


def test_any_changed_byte_is_read_or_refused(tmp_path):
    path = tmp_path / "changed"
    draw = np.random.default_rng(0)
    for _ in range(500):
        raw = bytearray(GOOD)
        raw[draw.integers(len(raw))] = draw.integers(256)
        path.write_bytes(raw)
        try:
            read_flax(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017


def test_names_do_not_reach_the_terminal_raw(tmp_path):
    path = tmp_path / "names"
    path.write_bytes(msgpack.packb({"\x1b[2J" + "a" * 5000: b"x"}))
    with pytest.raises(ValueError, match="bytes, expected") as caught:
        read_flax(path)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_folder_is_refused_and_an_absent_file_said(tmp_path):
    with pytest.raises(ValueError, match="orbax"):
        read_flax(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_flax(tmp_path / "absent")
