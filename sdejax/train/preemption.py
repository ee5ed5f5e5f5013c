"""Noticing that the machine is about to be taken away.

Schedulers send SIGTERM and kill half a minute later or so. A run with unsaved work asks at each
step boundary and between the batches of an evaluation, saves, closes and exits with ``EXIT_CODE``.
While nothing is unsaved, in the start-up, the first compilation and the drawing of samples, it ends
at once, even in the middle of a call that Python cannot interrupt.

One process catches the signal itself. Several must stop at the *same* step although only one may
have been signalled: there the jax runtime catches the signal and agrees on a step, which needs to
be asked about equally often by every process. Ctrl-C stays a KeyboardInterrupt. Python lets only
the main thread catch signals: in another one a run is not told.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import jax
from jax.experimental import multihost_utils

EXIT_CODE = 143
"""128 + SIGTERM: what a shell and a scheduler see of any process that SIGTERM ended, so that
"preempted, start it again" is told apart from "done" (0) and from "failed" (1)."""

_AT_ONCE = b"\nsdejax: stopped by SIGTERM; nothing was unsaved, run the same command to go on\n"


class Preemption(NamedTuple):
    """What a run asks, and what it says of itself.

    Attributes:
        requested: ``() -> bool``: whether to save and stop now; stays true. With several processes
            it becomes true at the same call on all of them.
        unsaved: ``(bool) -> None``: whether a sudden end would lose work. Before the first call it
            would not.
        done: ``() -> None``: nothing will be unsaved again; from here on SIGTERM ends each process
            at once.
    """

    requested: Callable[[], bool]
    unsaved: Callable[[bool], None]
    done: Callable[[], object]


@contextmanager
def preemption_notice() -> Iterator[Preemption]:
    """Watch for preemption while the context is open.

    Yields:
        The notice. A process of its own ends with ``EXIT_CODE`` where nothing is unsaved.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if jax.process_count() > 1:
        calls, agreed = itertools.count(1), threading.Event()

        def requested() -> bool:
            if multihost_utils.reached_preemption_sync_point(next(calls)):  # true only once
                agreed.set()
            return agreed.is_set()

        yield Preemption(
            requested,
            lambda unsaved: None,
            # in place of the runtime's handler, which only tells of it
            lambda: in_main_thread and signal.signal(signal.SIGTERM, signal.SIG_DFL),
        )
    elif not in_main_thread:
        yield Preemption(lambda: False, lambda unsaved: None, lambda: None)
    else:
        noticed, unsaved = threading.Event(), threading.Event()
        previous = signal.signal(signal.SIGTERM, lambda number, frame: noticed.set())
        try:
            with _end_at_once(unless=unsaved):
                yield Preemption(
                    noticed.is_set,
                    lambda yes: unsaved.set() if yes else unsaved.clear(),
                    unsaved.clear,
                )
        finally:
            signal.signal(signal.SIGTERM, previous)


@contextmanager
def _end_at_once(unless: threading.Event) -> Iterator[None]:
    """A thread that ends the process on SIGTERM.

    A handler runs in the main thread, which may be compiling for minutes; the number of the signal
    is written to a socket at once.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    previous = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

    def watch() -> None:
        while number := reader.recv(1):
            if number[0] == signal.SIGTERM and not unless.is_set():
                os.write(2, _AT_ONCE)
                os._exit(EXIT_CODE)

    thread = threading.Thread(target=watch, name="sdejax-sigterm", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        writer.close()
        thread.join()
        reader.close()
