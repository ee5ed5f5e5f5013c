"""The worker's side of the speed benchmark: jobs by name, asked for over a pipe.

A request is one line of JSON, {"job": name, "best_of": k, "clock": "wall" or "cpu"}; the first
request for a job builds it, which compiles and warms up. The answer is {"seconds": the least of k}
or {"value": anything} for a job that measures something else than time. What was built is kept for
as long as the worker lives; nothing else goes to the pipe.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
Job = Callable[[], Callable[[], Any]]  # build() -> run(); run() waits until it is done


def serve(jobs: Mapping[str, Job], values: Mapping[str, Callable[[], Any]]) -> None:
    """Answers until the pipe is closed.

    Args:
        jobs: what is timed, by name.
        values: what is asked for its value, by name.
    """
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints stays out
    built: dict[str, Callable[[], Any]] = {}
    for line in sys.stdin:
        request = json.loads(line)
        name = request["job"]
        if name in values:
            answer = {"value": values[name]()}
        elif name in jobs:
            if name not in built:
                built[name] = jobs[name]()
                for _ in range(2):
                    built[name]()
            clock = CLOCKS[request["clock"]]
            seconds = [_timed(built[name], clock) for _ in range(request["best_of"])]
            answer = {"seconds": min(seconds)}
        else:
            answer = {"missing": name}
        pipe.write(json.dumps(answer) + "\n")


def _timed(run: Callable[[], Any], clock: Callable[[], float]) -> float:
    start = clock()
    run()
    return clock() - start
