"""What every scenario shares: its outcome, and processes that are started, followed and ended.

Most workers are forked from a process that has imported the library and nothing else (no device
is started yet), so that a life costs a fraction of a second and two hundred kills are affordable.
A forked worker is a process of its own in every respect that matters here: SIGKILL, locks and
exit codes are the kernel's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 200.0  # seconds that a worker may take on a busy machine


class Outcome(NamedTuple):
    """What a scenario found; all three counts are zero where it passes.

    Attributes:
        name: what was done.
        tries: how often.
        lost: committed steps (or runs) that were gone.
        unreadable: steps that were offered and could not be read, or damage without an error.
        wrong: values, exit codes or messages that differ from what they should be.
        worst_seconds: the longest that whatever has a time limit took.
        notes: what else was measured, in one line.
    """

    name: str
    tries: int
    lost: int = 0
    unreadable: int = 0
    wrong: int = 0
    worst_seconds: float = 0.0
    notes: str = ""

    @property
    def passed(self) -> bool:
        """Whether nothing was lost, unreadable or wrong."""
        return self.tries > 0 and not (self.lost or self.unreadable or self.wrong)


def environment(cache: Path, devices: int = 1) -> dict[str, str]:
    """The environment of a worker: virtual CPU devices, and one compile cache for all.

    Args:
        cache: folder of the persistent compile cache.
        devices: number of virtual CPU devices.
    """
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PJRT_NPROC": "32",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "TQDM_MININTERVAL": "0",
    }


def start(
    words: Sequence[str], cache: Path, errors: Path, *, devices: int = 1, **more: Any
) -> subprocess.Popen[str]:
    """Start ``python WORDS`` from the root of the repository; its stdout is a pipe of lines.

    Args:
        words: arguments of the interpreter, e.g. ("-m", "experiments.reliability.worker").
        cache: folder of the persistent compile cache.
        errors: file that takes its stderr.
        devices: number of virtual CPU devices.
        more: further arguments of ``subprocess.Popen``.
    """
    with errors.open("w") as file:
        return subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, env=environment(cache, devices),
            stdout=subprocess.PIPE, stderr=file, text=True, **more,
        )  # fmt: skip


def wait_for(what: Callable[[], Any], process: subprocess.Popen[str], limit: float = LIMIT) -> None:
    """Wait until ``what()`` holds.

    Args:
        what: asked fifty times a second.
        process: what is waited for; that it ends first is an error.
        limit: seconds.

    Raises:
        RuntimeError: the process ended, or the time did.
    """
    end = time.monotonic() + limit
    while not what():
        if process.poll() is not None:
            raise RuntimeError(f"the worker ended with code {process.returncode}")
        if time.monotonic() > end:
            raise RuntimeError(f"nothing happened in {limit:.0f} s")
        time.sleep(0.02)


def kill_all(*processes: subprocess.Popen[str]) -> None:
    """SIGKILL whatever still runs of these processes, and collect them."""
    for process in processes:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
