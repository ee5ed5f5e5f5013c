"""Files of ``torch.save`` without PyTorch, for the tests: the program of a pickle, written by hand.

Arrays become tensors; a dict is a dict, an ``OrderedDict`` one of Python's. Both formats.
"""

import struct
import zipfile
from collections import OrderedDict

import numpy as np

STORAGES = {
    "float32": "Float", "float64": "Double", "float16": "Half", "bfloat16": "BFloat16",
    "int64": "Long", "int32": "Int", "int16": "Short", "int8": "Char", "uint8": "Byte",
    "bool": "Bool",
}  # fmt: skip
MAGIC = 0x1950A86A20F9469CFC6C
ORDERED = b"ccollections\nOrderedDict\n)R"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def whole(number):
    if 0 <= number < 256:
        return b"K" + bytes([number])
    if -(2**31) <= number < 2**31:
        return b"J" + struct.pack("<i", number)
    raw = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def text(value):
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def storage(kind, key, count, legacy=False):
    last = b"N" if legacy else b""
    name = b"ctorch\n" + kind.encode() + b"Storage\n"
    return b"(" + text("storage") + name + text(key) + text("cpu") + whole(count) + last + b"tQ"


def tensor(stored, offset, size, stride):
    sizes = [b"(" + b"".join(map(whole, numbers)) + b"t" for numbers in (size, stride)]
    return REBUILD + b"(" + stored + whole(offset) + b"".join(sizes) + b"\x89" + ORDERED + b"tR"


def program(node, arrays, legacy):
    """The instructions that make a node; its arrays are appended."""
    if isinstance(node, np.ndarray):
        array = np.ascontiguousarray(node).reshape(node.shape)
        arrays.append(array)
        stored = storage(STORAGES[array.dtype.name], str(len(arrays) - 1), array.size, legacy)
        strides = [step // array.itemsize for step in array.strides]
        return tensor(stored, 0, array.shape, strides)
    if isinstance(node, dict):
        start = ORDERED if isinstance(node, OrderedDict) else b"}"
        pairs = (part for pair in node.items() for part in pair)
        return start + b"(" + b"".join(program(part, arrays, legacy) for part in pairs) + b"u"
    if isinstance(node, list | tuple):
        start, end = (b"](", b"e") if isinstance(node, list) else (b"(", b"t")
        return start + b"".join(program(part, arrays, legacy) for part in node) + end
    if isinstance(node, str):
        return text(node)
    if isinstance(node, float):
        return b"G" + struct.pack(">d", node)
    if node is None or isinstance(node, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[node]
    return whole(node)


def pickled(code):
    return b"\x80\x02" + code + b"."


def raw_bytes(array):
    return array.reshape(-1).view(np.uint8).data


def write_archive(path, code, storages, root="archive", order="little"):
    """The zip format of a program and the bytes of its storages."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{root}/data.pkl", pickled(code))
        file.writestr(f"{root}/byteorder", order)
        for key, raw in enumerate(storages):
            file.writestr(f"{root}/data/{key}", raw)
        file.writestr(f"{root}/version", "3\n")


def write_sequence(path, code, storages):
    """The format before PyTorch 1.6, of a program and pairs (count, bytes)."""
    machine = {"protocol_version": 1001, "little_endian": True,
               "type_sizes": {"short": 2, "int": 4, "long": 4}}  # fmt: skip
    keys = [str(key) for key in range(len(storages))]
    with open(path, "wb") as file:
        for part in (MAGIC, 1001, machine):
            file.write(pickled(program(part, [], legacy=True)))
        file.write(pickled(code) + pickled(program(keys, [], legacy=True)))
        for count, raw in storages:
            file.write(struct.pack("<q", count))
            file.write(raw)


def write_pth(path, tree, legacy=False):
    """Writes a tree as ``torch.save`` does.

    Args:
        path: of the file.
        tree: nested dicts, lists and tuples of numbers, text, None and arrays.
        legacy: the format before PyTorch 1.6.
    """
    arrays = []
    code = program(tree, arrays, legacy)
    if legacy:
        write_sequence(path, code, [(array.size, raw_bytes(array)) for array in arrays])
    else:
        write_archive(path, code, map(raw_bytes, arrays))
