"""What a file that somebody else may have written can claim, JSON from such a file, and links.

A file of a few kilobytes may claim an array of terabytes. So what is claimed is compared with what
is stored before any memory is asked for: at most 1 GiB, or 200 times the bytes in the file where
that is more (pixels and weights compress less; a file that deserves trust and compresses more can
be saved without compression). JSON is read up to a size and a depth.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FREE = 2**30  # bytes that any file may claim
RATIO = 200  # and how many times its own size a larger file may
JSON_BYTES = 2**24
JSON_DEPTH = 64


def require_claim(where: Any, claimed: int, stored: int, free: int = FREE) -> None:
    """Refuses a claim that what is stored cannot hold.

        claimed <= max(free, 200 stored)

    Args:
        where: the file, for the message.
        claimed: bytes that it says it holds, once unpacked.
        stored: bytes on disk.
        free: bytes that may always be claimed.

    Raises:
        ValueError: for a larger claim, or a negative one.
    """
    most = max(free, RATIO * stored)
    if not 0 <= claimed <= most:
        raise ValueError(
            f"{where}: claims {claimed} bytes in {stored} bytes on disk, expected at most {most}; "
            "it is damaged or made to exhaust memory. If you trust it, save it uncompressed"
        )


def refuse_links(folder: Path, names: Iterable[str]) -> None:
    """Refuses to write through links, or into pipes and devices, that somebody left in a folder.

    Args:
        folder: where files are about to be written.
        names: of those files.

    Raises:
        ValueError: naming a link and where it leads, or what is no file.
    """
    for name in names:
        path = folder / name
        if path.is_symlink():
            raise ValueError(
                f"{path}: a link to {path.readlink()}; expected a file or nothing, which this run "
                "writes there: remove the link"
            )
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ValueError(
                f"{path}: neither a file nor a folder; this run writes there: remove it"
            )


def parse_json(raw: bytes | str, where: Any) -> Any:
    """JSON of limited size and depth.

    Args:
        raw: UTF-8 text.
        where: the file, for the message.

    Returns:
        Dicts, lists, text, numbers, booleans and None.

    Raises:
        ValueError: for what is no JSON, is larger than 16 MiB or nested deeper than 64.
    """
    if len(raw) > JSON_BYTES:
        raise ValueError(f"{where}: more than {JSON_BYTES} bytes of JSON; expected a small file")
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: cannot be read as JSON ({str(error)[:200]})") from None
    layer, depth = [found], 0
    while layer:
        layer = [
            child
            for node in layer
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        depth += 1
        if depth > JSON_DEPTH:
            raise ValueError(f"{where}: JSON nested deeper than {JSON_DEPTH}; no such is written")
    return found


def read_json(path: Any) -> Any:
    """JSON of a file of limited size and depth.

    Args:
        path: a path object, local or of an object store.

    Returns:
        As ``parse_json``.

    Raises:
        ValueError: as ``parse_json``.
        OSError: where it cannot be opened.
    """
    with path.open("rb") as file:
        return parse_json(file.read(JSON_BYTES + 1), path)
