"""One writer in a directory: a lock on a file, held as long as the process lives.

The kernel releases the lock when its holder dies, however it dies, so a lock is never stale (but a
child that the holder forked keeps it). The
file says who took it last, for the message to the second one. Network file systems lock between
machines where they support ``flock`` at all; object stores have no locks.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from typing import NamedTuple

from etils import epath

LOCK = "lock"
_TRIES = 5  # a look at the lock takes it for an instant


class Held(Exception):
    """The lock is taken; the text says by whom."""


class Lock(NamedTuple):
    """State of a lock.

    Attributes:
        held: whether a living process holds it.
        holder: who took it last, as it said of itself.
    """

    held: bool
    holder: str


def take_lock(directory: epath.Path) -> contextlib.ExitStack:
    """Lock a directory for this process; another that holds it is not waited for.

    Args:
        directory: where the lock file is; exists.

    Returns:
        A context; closing it gives the lock back.

    Raises:
        Held: another process, or another writer in this one, holds it.
        OSError: the lock file cannot be made, or is a link.
    """
    with contextlib.ExitStack() as stack:
        # Not through a link: the file is emptied below.
        file = os.open(
            directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644
        )
        stack.callback(os.close, file)
        for tries_left in reversed(range(_TRIES)):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if not tries_left:
                    raise Held(_holder(file)) from error
                time.sleep(0.05)
        with contextlib.suppress(OSError):  # on a full disk the message has to do without a name
            os.truncate(file, 0)
            os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        return stack.pop_all()


def lock_state(directory: epath.Path) -> Lock:
    """Whether a directory is locked, and who locked it last; changes nothing.

    Args:
        directory: of the lock file, which may be missing.

    Returns:
        The state at this moment.
    """
    try:
        file = os.open(directory / LOCK, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return Lock(False, "nobody")
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, file)
        holder = _holder(file)
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return Lock(True, holder)
        return Lock(False, holder)


def _holder(file: int) -> str:
    return os.pread(file, 200, 0).decode(errors="replace") or "another run"
