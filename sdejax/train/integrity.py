"""What must hold before a checkpoint is believed: its files and its config.

Each step directory carries ``manifest.json``: size and sha256 of every data file. It is written
after the data and before the commit marker, so a committed step always has one. Array formats do
not notice a flipped bit; the manifest does, and names the file. Links are refused, and so is a file
that the manifest does not list.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from etils import epath

from sdejax.untrusted import read_json

MANIFEST = "manifest.json"
# Written by the checkpoint library after the manifest; they hold no data.
_NOT_DATA = frozenset({MANIFEST, "_CHECKPOINT_METADATA", "commit_success.txt"})
_T = TypeVar("_T")
_MAX_LINES = 18  # with the lines before and after them, a message has at most twenty


class CheckpointError(ValueError):
    """A checkpoint cannot be written or believed; the message says which, why and what to do."""


def explained(what: str, action: Callable[[], _T]) -> _T:
    """Run one call of the checkpoint library; whatever it raises becomes one error type.

    Args:
        what: is being done, for the message.
        action: the call.

    Returns:
        What it returns.

    Raises:
        CheckpointError: in place of any exception.
    """
    try:
        return action()
    except CheckpointError:
        raise
    except Exception as error:  # the library raises assorted types, bare Exception among them
        raise CheckpointError(
            f"{what} failed ({type(error).__name__}: {error}). Complete checkpoints are untouched; "
            "check free space and permissions."
        ) from error


def _digest(path: epath.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _irregular(path: epath.Path) -> str | None:
    """What a local path is instead of a file or a folder; links are not followed."""
    if "://" in str(path):
        return None
    mode = os.lstat(path).st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return None
    return "a link" if stat.S_ISLNK(mode) else "no regular file"


def _data_files(directory: epath.Path, prefix: str = "") -> dict[str, epath.Path]:
    found: dict[str, epath.Path] = {}
    for path in directory.iterdir():
        name = prefix + path.name
        if kind := _irregular(path):
            raise CheckpointError(f"{path}: {kind}; expected files and folders of the step itself")
        if path.is_dir():
            found |= _data_files(path, name + "/")
        elif name not in _NOT_DATA:
            found[name] = path
    return found


def stored_bytes(directory: epath.Path) -> int:
    """Bytes of all files under a directory.

    Raises:
        CheckpointError: for a link or what is no regular file.
    """
    return sum(path.stat().length for path in _data_files(directory).values())


def write_manifest(directory: epath.Path) -> None:
    """Record size and sha256 of every data file under a step directory.

    Args:
        directory: the step directory, its data complete.
    """
    files = {
        name: {"size": path.stat().length, "sha256": _digest(path)}
        for name, path in sorted(_data_files(directory).items())
    }
    (directory / MANIFEST).write_text(json.dumps({"format": 1, "files": files}, indent=1))


def manifest_problem(
    directory: epath.Path, under: str = "", part: int = 0, parts: int = 1
) -> str | None:
    """What is wrong with the files of a step directory, if anything.

    Args:
        directory: the step directory.
        under: check only the files whose name starts so.
        part: which share of the files to read, in [0, parts).
        parts: number of shares; several processes read one each.

    Returns:
        One line naming the file, what was expected and what was found; None if all is well.
    """
    manifest = directory / MANIFEST
    if not manifest.exists():
        return f"{manifest}: missing"
    try:
        present = _data_files(directory)
        files = dict(read_json(manifest)["files"])
        expected = {name: (int(f["size"]), str(f["sha256"])) for name, f in files.items()}
    except CheckpointError as error:
        return str(error)
    except (ValueError, KeyError, TypeError, OverflowError, OSError) as error:
        return f"{manifest}: not readable as a manifest ({type(error).__name__}: {error})"
    # Names are never followed out of the step: a listed file is one that was found in it.
    absent = sorted(set(expected) - set(present))
    odd = [name for name in absent if name.startswith("/") or ".." in name.split("/")]
    if odd:
        return f"{manifest}: names {odd[0]!r}, which leads out of the step"
    unlisted = sorted(name for name in set(present) - set(expected) if name.startswith(under))
    if unlisted:
        return f"{directory / unlisted[0]}: not in the manifest; it was added after the save"
    wanted = sorted(name for name in expected if name.startswith(under))
    for name in wanted[part::parts]:
        path, (size, sha256) = directory / name, expected[name]
        if name not in present:
            return f"{path}: missing, expected {size} bytes"
        try:
            found = path.stat().length
            if found != size:
                return f"{path}: expected {size} bytes, found {found}"
            if _digest(path) != sha256:
                return f"{path}: its content changed since it was saved (sha256 differs)"
        except OSError as error:
            return f"{path}: cannot be read ({error})"
    return None


def limited_lines(lines: list[str]) -> str:
    """At most eighteen indented lines for an error message; the rest as a count."""
    rest = len(lines) - _MAX_LINES
    shown = lines if rest <= 0 else [*lines[: _MAX_LINES - 1], f"... and {rest + 1} more"]
    return "\n  " + "\n  ".join(shown)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def check_config(
    saved: Mapping[str, Any], now: Mapping[str, Any], may_change: Collection[str] = ()
) -> None:
    """Refuse to continue a run under another config than it was started with.

    Values are compared as JSON holds them, so a tuple equals the list it is saved as.

    Args:
        saved: nested config of the checkpoint.
        now: nested config of this run.
        may_change: dotted keys that do not matter, such as the number of steps; a key covers all
            below it.

    Raises:
        CheckpointError: naming each differing key with its old and new value.
    """
    old, new = _flat(saved), _flat(json.loads(json.dumps(now)))
    lines = [
        f"{key}: {old.get(key, '(absent)')!r} -> {new.get(key, '(absent)')!r}"
        for key in sorted({*old, *new})
        if old.get(key, _NOT_DATA) != new.get(key, _NOT_DATA)
        and not any(key == free or key.startswith(f"{free}.") for free in may_change)
    ]
    if lines:
        raise CheckpointError(
            f"the checkpoints here belong to another config (saved -> now):{limited_lines(lines)}\n"
            "Use another --workdir, or the saved values."
        )
