"""What the checkpoint library says about stored arrays, before it makes any.

Arrays lie in a database with a header of their own: shape, type, chunks. The library believes it: a
header that claims terabytes ends the process, with no exception to catch. So the headers are
compared with the table of leaves that was saved beside them, and what they claim with the bytes
that are there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from sdejax.train.integrity import CheckpointError, limited_lines, stored_bytes
from sdejax.untrusted import read_json, require_claim

JSON_FILES = ("_METADATA", "_sharding")  # of the library, beside the database
JSON_FOLDERS = ("array_metadatas",)


def require_arrays(step_directory: epath.Path, leaves: Mapping[str, Any]) -> None:
    """Refuses arrays that are not as the table of leaves says.

    Args:
        step_directory: of a complete step, its files checked.
        leaves: ``name -> [shape, dtype]``.

    Raises:
        CheckpointError: naming at most eighteen arrays, what was saved and what is there.
    """
    state = step_directory / "state"
    try:
        _check_json(state)
        claimed = sum(
            math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in leaves.values()
        )
        require_claim(state, claimed, stored_bytes(state))
        found = ocp.PyTreeCheckpointHandler().metadata(state).tree
        saved = {name: (tuple(shape), dtype) for name, (shape, dtype) in leaves.items()}
        lines = [
            f"{name}: saved {saved.get(name, 'nothing')}, found {_shown(found.get(name))}"
            for name in sorted({*saved, *found})
            if name not in saved or not _fits(found.get(name), *saved[name])
        ]
    except Exception as error:  # the library raises assorted types on damage
        raise CheckpointError(
            f"{state}: cannot be read ({type(error).__name__}: {str(error)[:300]}). Nothing was "
            "changed; take another step or another --workdir"
        ) from error
    if lines:
        raise CheckpointError(
            f"{state}: the headers of the arrays are not as they were saved:{limited_lines(lines)}"
            "\nThe checkpoint was made by others or tampered with: take another one"
        )


def _check_json(state: epath.Path) -> None:
    """The library's own JSON has an end."""
    for path in [state / name for name in JSON_FILES] + [
        file
        for name in JSON_FOLDERS
        if (state / name).exists()
        for file in (state / name).iterdir()
    ]:
        if path.exists():
            read_json(path)


def _fits(found: Any, shape: tuple[int, ...], dtype: str) -> bool:
    """Whether a header has this shape and type, and chunks no larger than the array."""
    storage = getattr(found, "storage", None)
    parts = [getattr(storage, name, None) for name in ("chunk_shape", "write_shape")]
    return (
        tuple(getattr(found, "shape", None) or ()) == shape
        and str(getattr(found, "dtype", None)) == dtype
        and all(
            part is not None
            and len(part) == len(shape)
            and all(0 < c <= max(1, n) for c, n in zip(part, shape, strict=True))
            for part in parts
        )
    )


def _shown(found: Any) -> str:
    if getattr(found, "storage", None) is None:
        return "nothing"
    return f"{found.dtype}{list(found.shape)} in chunks of {found.storage.chunk_shape}"
