"""Noticing that the machine is about to be taken away.

Schedulers send SIGTERM and kill half a minute later or so. The loop asks at each step boundary,
saves, closes and exits with ``EXIT_CODE``. One process catches the signal itself. Several must
stop at the *same* step although only one may have been signalled: there the jax runtime catches
the signal and agrees on a step, which needs to be asked about at every step by every process.
Ctrl-C stays a KeyboardInterrupt. Python lets only the main thread catch signals: in another one a
run is not told.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
from jax.experimental import multihost_utils

EXIT_CODE = 143
"""128 + SIGTERM: what a shell and a scheduler see of any process that SIGTERM ended, so that
"preempted, start it again" is told apart from "done" (0) and from "failed" (1)."""


@contextmanager
def preemption_notice() -> Iterator[Callable[[int], bool]]:
    """Watch for preemption while the context is open.

    Yields:
        ``requested(step) -> bool``: whether to save and stop after this step. With one process it
        stays true; with several it is true at exactly one step, on all of them, so it must be
        called once per step with the same steps everywhere.
    """
    if jax.process_count() > 1:
        yield multihost_utils.reached_preemption_sync_point
        return
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: False
        return
    noticed = threading.Event()
    previous = signal.signal(signal.SIGTERM, lambda number, frame: noticed.set())
    try:
        yield lambda step: noticed.is_set()
    finally:
        signal.signal(signal.SIGTERM, previous)
