"""Processes that train together: joined before JAX touches a device, and ended together.

A process that dies takes the others down: they miss its heartbeats and abort. A process that fails
has to die too, since an orderly exit waits for the others, and they for the next step of this one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint.multihost import get_barrier_sync_fn

from sdejax.train.places import Place
from sdejax.train.preemption import EXIT_CODE

HEARTBEAT = 100
"""Seconds without a sign of life after which a process counts as dead."""
WAIT = 7 * 24 * 3600
"""Seconds that a process which is done waits for the others: process 0 may draw for hours. JAX's
own wait at the end cannot be set above five minutes, after which it aborts all."""


def join(place: Place | None, *, heartbeat: int = HEARTBEAT) -> None:
    """Join the others; says so in one line. Comes before anything that touches a device.

    Args:
        place: of this process; None does nothing.
        heartbeat: seconds without a sign of life after which a process counts as dead. Survivors
            then end within a few seconds. JAX takes 1; less than 10 mistakes a busy host for a
            dead one.

    Raises:
        ValueError: for a heartbeat below a second.
        OSError: process 0 cannot listen, or JAX cannot find the others out. (A coordinator that
            does not answer for five minutes ends the process, with JAX's message.)
    """
    if heartbeat < 1:
        raise ValueError(f"--heartbeat: got {heartbeat}, expected at least 1 second")
    if place is None:
        return
    known = place.processes is not None
    if known:
        print(
            f"process {place.process} of {place.processes} ({place.found}), "
            f"coordinator {place.coordinator}", flush=True,
        )  # fmt: skip
    try:
        jax.distributed.initialize(
            place.coordinator,
            place.processes,
            place.process,
            place.devices,
            cluster_detection_method="deactivate" if known else None,
            heartbeat_timeout_seconds=heartbeat,
        )
    except (RuntimeError, ValueError) as error:
        raise OSError(
            f"joining the other processes ({place.found}) failed: {error}. Is the port of "
            f"{place.coordinator or 'process 0'} free? --coordinator, --num-processes and "
            "--process-id say it by hand; --no-distributed runs one process"
        ) from error
    if not known:
        print(f"process {jax.process_index()} of {jax.process_count()} ({place.found})", flush=True)


def check_agreement(given: Mapping[str, str]) -> None:
    """Refuses processes that were given different things, on all of them.

    Args:
        given: name to value, the same names everywhere: configs, fingerprints of data ...

    Raises:
        ValueError: naming what differs, and where.
    """
    if jax.process_count() == 1:
        return
    digests = [list(hashlib.sha256(value.encode()).digest()) for value in given.values()]
    found = np.asarray(multihost_utils.process_allgather(np.array(digests, np.uint8)))
    for place, name in enumerate(given):
        others = np.flatnonzero(np.any(found[:, place] != found[0, place], axis=-1))
        if len(others):
            raise ValueError(
                f"{name}: process(es) {others.tolist()[:10]} have another one than process 0; "
                "start all with the same command, code and files"
            )


@contextlib.contextmanager
def together() -> Iterator[None]:
    """What several processes do together: done when all are, and a failure ends this one at once.

    The interpreter's exit joins threads that wait for the others, and JAX's waits for all to leave
    at the same time: for minutes, while they wait for the next step of this one. So a process that
    fails leaves without either. Stopping where all have agreed to (``EXIT_CODE``) is orderly.
    """
    try:
        yield
        if jax.distributed.is_initialized():
            get_barrier_sync_fn()(key="sdejax_done", timeout_ms=1000 * WAIT)
    except BaseException as error:
        code = _exit_code(error)
        if code in (0, EXIT_CODE) or not jax.distributed.is_initialized():
            raise
        if not isinstance(error, SystemExit):
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _exit_code(error: BaseException) -> int:
    code: Any = getattr(error, "code", 1) if isinstance(error, SystemExit) else 1
    return code if isinstance(code, int) else int(code is not None)
