"""Where ``torch.save`` puts the numbers: in members of a zip archive, or one after another.

Since 2020 (PyTorch 1.6) a file is a zip archive: NAME/data.pkl holds the objects, NAME/data/KEY the
bytes of a storage, NAME/byteorder their order. Before, it was five pickles (a magic number, the
version, the machine, the objects, the list of keys), and for every key the count of its numbers and
these numbers, always with the lowest byte first.

Archives are never unpacked onto the disk. A storage is read when it is first asked for, once.

Reference: PyTorch, ``torch/serialization.py``, ``caffe2/serialize/inline_container.h``.
"""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np

from sdejax.published.torch_objects import PICKLE, Storage, itemsize, read_objects, read_plain
from sdejax.untrusted import require_claim

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
VERSIONS = range(1, 11)  # of the archive
BLOCK = 2**20
LOCAL = 30  # bytes before the name of a member
Order = Literal["<", ">"]  # of the bytes of a number


class Archive:
    """The zip archive."""

    def __init__(self, file: Any, size: int) -> None:
        try:
            self.archive = zipfile.ZipFile(file)
        except Exception as error:  # besides BadZipFile, of a damaged list nearly anything
            raise ValueError(f"a truncated or damaged zip archive ({error})") from None
        self.members = _members(self.archive, size)
        self.root = _root(list(self.members))
        version = self.small("version", 32, b"3").strip()
        if not version.isdigit() or int(version) not in VERSIONS:
            raise ValueError(f"version {version!r} of the archive, expected 1 to 10")
        order = self.small("byteorder", 32, b"little").strip()
        if order not in (b"little", b"big"):
            raise ValueError(f"byte order {order!r}, expected little or big")
        self.order: Order = "<" if order == b"little" else ">"
        program = io.BytesIO(self.small("data.pkl", PICKLE, b""))
        self.tree, _ = read_objects(program)
        if rest := program.read():
            raise ValueError(f"{len(rest)} bytes follow the objects in data.pkl")
        self.held: dict[str, np.ndarray] = {}

    def small(self, name: str, most: int, absent: bytes) -> bytes:
        """A member of limited size beside the storages."""
        info = self.members.get(f"{self.root}/{name}")
        if info is None:
            return absent
        if info.file_size > most:
            raise ValueError(f"{name} has {info.file_size} bytes, expected at most {most}")
        return _unpacked(self.archive, info).tobytes()

    def memory(self, storage: Storage) -> np.ndarray:
        """The bytes of a storage."""
        if storage.key not in self.held:
            info = self.members.get(f"{self.root}/data/{storage.key}")
            if info is None:
                raise ValueError(f"its storage {storage.key[:80]!r} is not in the archive")
            if info.file_size != storage.nbytes:
                raise ValueError(
                    f"its storage {storage.key[:80]!r} has {info.file_size} bytes, expected "
                    f"{storage.nbytes} for {storage.count} of {storage.dtype}"
                )
            self.held[storage.key] = _unpacked(self.archive, info)
        return self.held[storage.key]


def _members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The members by name: plain, one after another, and no more than the file can hold."""
    members: dict[str, zipfile.ZipInfo] = {}
    end = 0
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
        name, shown = info.filename, repr(info.filename[:80])
        if name.startswith("/") or "\\" in name or ".." in PurePosixPath(name).parts:
            raise ValueError(f"member {shown} leads out of the archive")
        if name in members:
            raise ValueError(f"member {shown} is there twice")
        if info.flag_bits & 1 or info.compress_type not in (
            zipfile.ZIP_STORED,
            zipfile.ZIP_DEFLATED,
        ):
            raise ValueError(f"member {shown} is encrypted or packed otherwise than with deflate")
        if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
            raise ValueError(f"member {shown} lies about its size")
        if info.header_offset < end:
            raise ValueError(f"member {shown} lies inside another")
        end = info.header_offset + LOCAL + len(name) + info.compress_size
        members[name] = info
    if end > archive.start_dir:
        raise ValueError("a member reaches into the list of members")
    require_claim("the archive", sum(info.file_size for info in members.values()), size)
    return members


def _root(names: list[str]) -> str:
    """The folder inside the archive that all lies in."""
    roots = [name[: -len("/data.pkl")] for name in names if name.endswith("/data.pkl")]
    if len(roots) != 1:
        if packed := [name for name in names if name.endswith((".pth", ".pt"))]:
            raise ValueError(
                f"a zip archive with {packed[0][:200]!r} in it; unpack it and give that file"
            )
        numpy = bool(names) and all(name.endswith(".npy") for name in names)
        kind = "an archive of numpy.savez" if numpy else f"a zip archive of {str(names[:3])[:200]}"
        raise ValueError(f"{kind}, with {len(roots)} members NAME/data.pkl, expected one")
    if f"{roots[0]}/constants.pkl" in names:
        raise ValueError("a program of torch.jit.save; save the state_dict instead")
    return roots[0]


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """The bytes of a member, their checksum compared."""
    raw, place = np.empty(info.file_size, np.uint8), 0
    try:
        with archive.open(info) as stream:
            while chunk := stream.read(min(BLOCK, max(1, info.file_size - place))):
                raw[place : place + len(chunk)] = np.frombuffer(chunk, np.uint8)
                place += len(chunk)
    except Exception as error:  # zipfile and zlib raise nearly anything
        raise ValueError(
            f"member {info.filename[:80]!r} is damaged, or was saved without checksums ({error})"
        ) from None
    if place != info.file_size:
        raise ValueError(f"member {info.filename[:80]!r} is damaged: {place} bytes of {raw.size}")
    raw.flags.writeable = False
    return raw


class Sequence:
    """The older format."""

    order: Order = "<"

    def __init__(self, file: Any, size: int) -> None:
        stream = io.BytesIO(file.read(PICKLE))
        magic = read_plain(stream)
        if type(magic) is not int or magic != MAGIC:
            raise ValueError("a pickle, but not of torch.save: it lacks the magic number")
        version, machine = read_plain(stream), read_plain(stream)
        if version != PROTOCOL or not isinstance(machine, dict):
            raise ValueError(f"not version {PROTOCOL} of the format before PyTorch 1.6")
        self.tree, storages = read_objects(stream)
        keys = read_plain(stream)
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise ValueError("the keys of its storages are no list of text")
        if len(set(keys)) != len(keys) or set(keys) != set(storages):
            raise ValueError(f"{len(keys)} storages are listed, and {len(storages)} are used")
        self.file, self.held = file, dict[str, np.ndarray]()
        self.places, end = dict[str, int](), stream.tell()
        for key in keys:
            file.seek(end)
            count = int.from_bytes(file.read(8), "little", signed=True)
            if end + 8 + storages[key].nbytes > size:
                raise ValueError(f"truncated: storage {key[:80]!r} ends behind {size} bytes")
            if count * itemsize(storages[key].dtype) != storages[key].nbytes:
                raise ValueError(
                    f"storage {key[:80]!r} has {count} numbers, expected {storages[key].count}"
                )
            self.places[key] = end + 8
            end += 8 + storages[key].nbytes
        if end != size:
            raise ValueError(f"{size - end} bytes follow the last storage")

    def memory(self, storage: Storage) -> np.ndarray:
        """The bytes of a storage."""
        if storage.key not in self.held:
            raw = np.empty(storage.nbytes, np.uint8)
            self.file.seek(self.places[storage.key], os.SEEK_SET)
            if self.file.readinto(raw) != raw.size:
                raise ValueError("truncated while it was read")
            raw.flags.writeable = False
            self.held[storage.key] = raw
        return self.held[storage.key]
