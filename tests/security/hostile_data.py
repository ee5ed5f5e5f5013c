"""Hostile data sets and array files: name -> the reader, and what makes the file."""

import gzip
import io
import os
import pickle
import struct
import zipfile
import zlib

import numpy as np

BLOCK = 2**24


class Evil:
    """Unpickled, it makes a marker file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def objects(mark):
    return np.array([Evil(mark), None], object)


def npy(shape="(2,)", descr="'<f4'", data=bytes(8), length=None):
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    size = len(text) if length is None else length
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", size) + text + data


def file(name, data):
    """Writes one file; ``data`` may be made from the marker's path."""

    def make(folder, mark):
        (folder / name).write_bytes(data(mark) if callable(data) else data)
        return folder / name

    return make


def archive(name="a.npz", method=zipfile.ZIP_STORED, **members):
    def make(folder, mark):
        with zipfile.ZipFile(folder / name, "w", method) as opened:
            for member, data in members.items():
                opened.writestr(member, data(mark) if callable(data) else data)
        return folder / name

    return make


def named(member):
    return archive(**{"x.npy": npy(data=bytes(8)), member: npy()})


def dumped(mark):
    raw = io.BytesIO()
    np.save(raw, objects(mark), allow_pickle=True)
    return raw.getvalue()


def zip_bomb(folder, mark, claimed=200 * BLOCK):
    """3.3 GB of zeros in 3 MB: one block, packed once and repeated."""
    packer = zlib.compressobj(9, wbits=-15)
    packer.compress(npy(shape=f"({claimed - 80},)", descr="'|u1'", data=b""))
    first = packer.compress(bytes(BLOCK)) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(BLOCK)) + packer.flush(zlib.Z_FULL_FLUSH)
    data = first + block * (claimed // BLOCK) + packer.flush()
    head = struct.pack("<5H3L2H", 20, 0, 8, 0, 33, 0, len(data), claimed, 5, 0)
    local = b"PK\x03\x04" + head + b"x.npy"
    central = b"PK\x01\x02" + struct.pack("<H", 20) + head + struct.pack("<3H2L", 0, 0, 0, 0, 0)
    end = b"PK\x05\x06" + struct.pack(
        "<4H2LH", 0, 0, 1, 1, len(central) + 5, len(local) + len(data), 0
    )
    (folder / "a.npz").write_bytes(local + data + central + b"x.npy" + end)
    return folder / "a.npz"


ARRAYS = {
    "npy of objects": file("a.npy", dumped),
    "npz of objects": archive(**{"x.npy": dumped}),
    "npz with labels of objects": archive(**{"x.npy": npy("(2, 1)"), "y.npy": dumped}),
    "pickle called npy": file("a.npy", lambda mark: pickle.dumps(Evil(mark))),
    "pickle called npz": file("a.npz", lambda mark: pickle.dumps(Evil(mark))),
    "pickle in npz": archive(**{"x.npy": lambda mark: pickle.dumps(Evil(mark))}),
    "npy of 2**60 elements": file("a.npy", npy("(1152921504606846976, 2)")),
    "npy of 2**70 elements": file("a.npy", npy("(1099511627776, 1073741824)")),
    "npy of a negative shape": file("a.npy", npy("(-2, -1)")),
    "npy of a thousand axes": file("a.npy", npy("(" + "1," * 1000 + ")")),
    "npy of voids": file("a.npy", npy("(1, 1)", "'|V8'")),
    "npy of structures": file("a.npy", npy("(1, 1)", "[('a', '|O')]")),
    "npy with an expression": file("a.npy", npy("(2 ** 60, 1)")),
    "npy with a call": file(
        "a.npy", lambda mark: npy(f"(__import__('os').system('touch {mark}'), 1)")
    ),
    "npy with parentheses without end": file("a.npy", npy("(" * 9000)),
    "npy with a header that lies": file("a.npy", npy("(2, 1)", length=65_000)),
    "npz with a header that lies": archive(**{"x.npy": npy("(2, 1)", length=3)}),
    "npz of 2**60 elements": archive(**{"x.npy": npy("(1152921504606846976, 2)")}),
    "npz with a way up": named("../../x.npy"),
    "npz with an absolute name": named("/etc/x.npy"),
    "npz packed otherwise": archive(method=zipfile.ZIP_BZIP2, **{"x.npy": npy("(2, 1)")}),
    "npz bomb": zip_bomb,
    "npz cut off": file("a.npz", b"PK\x03\x04" + bytes(100)),
}


def idx(images=None, labels=None, suffix=""):
    def make(folder, mark):
        shape = struct.pack(">4I", 0x803, 2, 3, 3) + bytes(18)
        target = folder / f"train-images-idx3-ubyte{suffix}"
        target.write_bytes(shape if images is None else images())
        (folder / "train-labels-idx1-ubyte").write_bytes(
            struct.pack(">2I", 0x801, 2) + bytes(2) if labels is None else labels
        )
        return folder

    return make


def gzip_bomb(dims):
    def make():
        head = gzip.compress(struct.pack(">4I", 0x803, *dims))
        return head + gzip.compress(bytes(BLOCK)) * 200

    return make


IDX = {
    "gz bomb that says so": idx(gzip_bomb((200, 4096, 4096)), suffix=".gz"),
    "gz bomb that says little": idx(gzip_bomb((2, 3, 3)), suffix=".gz"),
    "dims that lie": idx(lambda: struct.pack(">4I", 0x803, *[2**32 - 1] * 3) + b"abc"),
    "dims that lie, packed": idx(
        lambda: gzip.compress(struct.pack(">4I", 0x803, *[2**32 - 1] * 3)), suffix=".gz"
    ),
    "magic of floats": idx(lambda: struct.pack(">4I", 0xD03, 2, 3, 3) + bytes(72)),
    "255 axes": idx(lambda: struct.pack(">4I", 0x8FF, 2, 3, 3)),
    "labels that lie": idx(labels=struct.pack(">2I", 0x801, 2**32 - 1)),
}


def cifar(batch=None, meta=None):
    def make(folder, mark):
        good = {"data": np.zeros((1, 3072), np.uint8), "labels": [0]}
        (folder / "test_batch").write_bytes(batch(mark) if batch else pickle.dumps(good, 2))
        if meta:
            (folder / "batches.meta").write_bytes(meta(mark))
        return folder

    return make


def laughs():
    """A list of 2**60 entries, written in one kilobyte."""
    nested = []
    for _ in range(60):
        nested = [nested, nested]
    return nested


PICKLES = {
    "a call": cifar(lambda mark: pickle.dumps({"data": Evil(mark)}, 2)),
    "a call, newest protocol": cifar(lambda mark: pickle.dumps({"data": Evil(mark)}, 5)),
    "a call among the names": cifar(meta=lambda mark: pickle.dumps({"label_names": Evil(mark)})),
    "an array of objects": cifar(lambda mark: pickle.dumps({"data": objects(mark), "labels": []})),
    "a memo of 32 GiB": cifar(lambda mark: b"\x80\x02}r" + struct.pack("<I", 2**31 - 1) + b"."),
    "bytes that lie": cifar(lambda mark: b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"a."),
    "a persistent id": cifar(lambda mark: b"Pcos.system\n."),
    "an extension code": cifar(lambda mark: b"\x80\x02\x82\x01."),
    "an old instance": cifar(lambda mark: f"(S'touch {mark}'\nios\nsystem\n.".encode()),
    "labels beyond any": cifar(
        lambda mark: pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [2**70]}, 2)
    ),
    "names that laugh": cifar(meta=lambda mark: pickle.dumps({"label_names": [laughs()]})),
}


def png(width, height, data=b""):
    def chunk(kind, body):
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    head = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def pictures(name, data):
    def make(folder, mark):
        file(name, data)(folder, mark)
        return folder

    return make


def link(target, name="a.png"):
    def make(folder, mark):
        (folder / "good.png").write_bytes(png(1, 1, bytes(4)))
        (folder / name).symlink_to(target)
        return folder

    return make


def pipe(folder, mark):
    os.mkfifo(folder / "a.png")
    return folder


FOLDERS = {
    "png of terabytes": pictures("a.png", png(2**30, 2**30)),
    "png of ten gigabytes": pictures("a.png", png(60_000, 60_000, bytes(1000))),
    "png cut off": pictures("a.png", png(100, 100, bytes(1000))[:-40]),
    "png with too little": pictures("a.png", png(100, 100, bytes(1000))),
    "a program called png": pictures(
        "a.png", lambda mark: f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{mark}".encode()
    ),
    "a pickle called png": pictures("a.png", lambda mark: pickle.dumps(Evil(mark))),
    "a link to a file outside": link("/etc/passwd"),
    "a link to a folder outside": link("/etc", "class"),
    "a link to nothing": link("nowhere.png"),
    "a link to itself": link("a.png"),
    "a pipe": pipe,
}


def about(text):
    return npy("()", f"'<U{len(text)}'", text.encode("utf-32-le"))


SOLVERS = {
    "objects": archive(**{"ts.npy": dumped, "weights.npy": npy()}),
    "a pickle": file("a.npz", lambda mark: pickle.dumps(Evil(mark))),
    "a shape beyond any": archive(
        **{"ts.npy": npy("(1152921504606846976,)"), "weights.npy": npy()}
    ),
    "text": archive(**{"ts.npy": about("abc"), "weights.npy": about("abc")}),
}
NOISES = {
    "objects": archive(**{"about.npy": about("{}"), "0/w.npy": dumped}),
    "a thousand folders": archive(**{"about.npy": about("{}"), "0/" + "a/" * 999 + "w.npy": npy()}),
    "an array under an array": archive(
        **{"about.npy": about("{}"), "0/w.npy": npy(), "0/w/v.npy": npy()}
    ),
    "YAML that calls": archive(**{"about.npy": about("!!python/object/apply:os.system [x]")}),
    "JSON without end": archive(**{"about.npy": about('{"a":' * 1000)}),
}
ROW = {
    f"{name}.npy": npy() for name in ("log_p", "bits_per_dim", "standard_error", "nfe", "result")
}
ROWS = {
    "objects": archive(**{**ROW, "about.npy": about("{}"), "log_p.npy": dumped}),
    "a list": archive(**{**ROW, "about.npy": about("[]")}),
    "YAML that calls": archive(**{**ROW, "about.npy": about("!!python/name:os.system")}),
    "rows of another length": archive(
        **{**ROW, "about.npy": about("{}"), "nfe.npy": npy("(1,)", data=bytes(4))}
    ),
    "a pickle": file("a.npz", lambda mark: pickle.dumps(Evil(mark))),
}
RECORDS = {
    "lines without end": file("a.jsonl", b'{"a":' * 10**5 + b"\n{}\n"),
    "numbers": file("a.jsonl", b"1\n2\n"),
    "a pickle": file("a.jsonl", lambda mark: pickle.dumps(Evil(mark)) + b"\n{}\n"),
}
DATA = {"npz": ARRAYS, "idx": IDX, "cifar10": PICKLES, "folder": FOLDERS, "solver": SOLVERS,
        "noise": NOISES, "rows": ROWS, "records": RECORDS}  # fmt: skip
