"""Two processes that train together, each forked by a process of its own."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.reliability.base import LIMIT, ROOT
from experiments.reliability.forks import Forks, Life

CONFIG = str(ROOT / "experiments" / "reliability" / "small.py")
COMMANDS = "experiments.reliability.commands"


class Pair:
    """Starts pairs of ``sdejax train``; a context manager.

    Args:
        folder: takes the compile cache and what the processes write to stderr.
        devices: virtual CPU devices of each process.
    """

    def __init__(self, folder: Path, devices: int = 1) -> None:
        self.errors = [folder / f"stderr{index}" for index in range(2)]
        self._devices = devices
        self._stack = contextlib.ExitStack()
        self._forks = [
            self._stack.enter_context(Forks(folder / "cache", errors, COMMANDS))
            for errors in self.errors
        ]

    def start(self, workdir: Path, heartbeat: int, *overrides: str) -> list[Life]:
        """Start both processes.

        Args:
            workdir: of the run.
            heartbeat: seconds.
            overrides: of the config.

        Returns:
            Process 0 and process 1.
        """
        words = train(workdir, *overrides)
        port = free_port()
        return [
            forks.start("command", self._devices, *words, *place(index, port, heartbeat))
            for index, forks in enumerate(self._forks)
        ]

    def wait_for(self, what: Callable[..., bool], *arguments: Any) -> None:
        """Wait until ``what(*arguments)`` holds.

        Args:
            what: asked fifty times a second.
            arguments: of it.

        Raises:
            RuntimeError: it does not, for too long.
        """
        end = time.monotonic() + LIMIT
        while not what(*arguments):
            if time.monotonic() > end:
                said = [errors.read_text()[-2000:] for errors in self.errors]
                raise RuntimeError(f"nothing happened in {LIMIT:.0f} s; ends of stderr: {said}")
            time.sleep(0.02)

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def train(workdir: Path, *overrides: str) -> list[str]:
    """The words of ``sdejax train`` on the small config."""
    return ["train", "--config", CONFIG, "--workdir", str(workdir), *overrides]


def place(index: int, port: int, heartbeat: int) -> list[str]:
    """The flags of process ``index`` of two."""
    return [
        "--coordinator", f"127.0.0.1:{port}", "--num-processes", "2",
        "--process-id", str(index), "--heartbeat", str(heartbeat),
    ]  # fmt: skip


def started_at(life: Life) -> int:
    """The step at which process 0 says that it starts or resumes.

    Args:
        life: of process 0.

    Raises:
        RuntimeError: it ended before.
    """
    while (line := life.line()) is not None:
        if found := re.search(r"ing at step (\d+) of", line):
            return int(found[1])
    raise RuntimeError(f"process 0 ended with code {life.code}: {life.said}")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
