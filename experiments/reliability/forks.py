"""A process that has imported the library and forks one worker at a time.

    with Forks(cache, errors) as forks:
        life = forks.start("save_forever", str(directory))
        life.until("committed")
        life.signal(signal.SIGKILL)
        code = life.end()

A worker says what it is doing in lines on the pipe, each written at once, so that after a kill its
last word is known. Its function is called at the top of the interpreter: exceptions, ``sys.exit``
and the end of the function all leave as they would in a script.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from experiments.reliability.base import LIMIT, kill_all, start

WORKERS = "experiments.reliability.workers"


def say(words: str) -> None:
    """One line to whoever started this worker; not buffered.

    Args:
        words: the line.
    """
    os.write(1, f"{words}\n".encode())


class Life:
    """One worker, from its start to its end.

    Args:
        lines: what it says, put there by a thread that reads the pipe.
        errors: file of its stderr.
    """

    def __init__(self, lines: queue.Queue[str], errors: Path) -> None:
        self._lines = lines
        self._errors = errors
        self.said: list[str] = []
        self.code: int | None = None
        self.pid = int(self.until("started").split()[1])

    def line(self, limit: float = LIMIT) -> str | None:
        """The next line; None when the worker has ended.

        Args:
            limit: seconds to wait for it.
        """
        if self.code is not None:
            return None
        line = self._lines.get(timeout=limit)
        if line.startswith("ended "):
            self.code = int(line.split()[1])
            return None
        self.said.append(line)
        return line

    def until(self, *starts: str, limit: float = LIMIT) -> str:
        """The next line that starts with one of some words.

        Args:
            *starts: the words.
            limit: seconds to wait for it.

        Raises:
            RuntimeError: the worker ended before, or said other things all the time.
        """
        end = time.monotonic() + limit
        while time.monotonic() < end and (line := self.line(limit)) is not None:
            if line.startswith(starts):
                return line
        raise RuntimeError(
            f"the worker (code {self.code}) did not say {starts}: it said {self.said[-20:]}; "
            f"end of its stderr: {self._errors.read_text()[-2000:]}"
        )

    def signal(self, number: int) -> None:
        """Send a signal, unless the worker is known to have ended.

        Args:
            number: of the signal.
        """
        if self.code is None:
            os.kill(self.pid, number)

    def end(self, limit: float = LIMIT) -> int:
        """Wait for the end.

        Args:
            limit: seconds to wait for any line.

        Returns:
            The exit code; minus the number of the signal that ended it.
        """
        while self.line(limit) is not None:
            pass
        assert self.code is not None
        return self.code

    def succeeds(self) -> None:
        """Wait for the end, which has to be a good one.

        Raises:
            RuntimeError: the exit code is not 0.
        """
        if self.end() != 0:
            raise RuntimeError(f"code {self.code}; stderr: {self._errors.read_text()[-2000:]}")


class Forks:
    """The process that forks; a context manager.

    Args:
        cache: folder of the persistent compile cache.
        errors: file that takes what workers write to stderr.
        module: where the functions of the workers are; imported once.
        devices: number of virtual CPU devices.
    """

    def __init__(
        self, cache: Path, errors: Path, module: str = WORKERS, *, devices: int = 1
    ) -> None:
        self.errors = errors
        words = ("-m", "experiments.reliability.forks", module)
        self._process = start(words, cache, errors, devices=devices, stdin=subprocess.PIPE)
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        self._life: Life | None = None

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put("ended -1000")

    def start(self, name: str, *arguments: Any) -> Life:
        """Fork a worker.

        Args:
            name: of the function.
            arguments: what JSON can hold.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([name, *arguments]) + "\n")
        self._process.stdin.flush()
        self._life = Life(self._lines, self.errors)
        return self._life

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, *_: object) -> None:
        if self._life is not None and self._life.code is None:
            self._life.signal(signal.SIGKILL)
        assert self._process.stdin is not None
        self._process.stdin.close()
        kill_all(self._process)


def serve(module: str) -> None:
    """Fork a worker for each line of stdin, and say how it ended.

    Args:
        module: where the functions are.
    """
    functions = importlib.import_module(module)
    gc.freeze()  # or each worker would visit, and so copy, all of it when it ends
    while line := sys.stdin.readline():
        name, *arguments = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.close(0)
            say(f"started {os.getpid()}")
            getattr(functions, name)(*arguments)
            return
        _, status = os.waitpid(pid, 0)
        say(f"ended {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    serve(sys.argv[1])
