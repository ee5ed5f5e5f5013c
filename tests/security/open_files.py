"""The child of the test of hostile files: opens each, in little memory, and says what came of it.

    python open_files.py LIST.json

One line of JSON a file: its name, the error, seconds. A missing line is a process that died.
"""

import json
import resource
import sys
import time
import warnings
from pathlib import Path

from sdejax.data.sources import load as load_data
from sdejax.evaluate import load_rows
from sdejax.likelihood.fit_dequantiser import load_noise
from sdejax.samplers.learned import load_solver
from sdejax.train.catalog import read_meta
from sdejax.train.checkpoint import Checkpoints
from sdejax.train.reader import restore_params
from sdejax.trained import load
from sdejax.viz.curves import read_records

MORE = 3 * 2**30  # bytes of address space that opening a file may add


def data(source, split="train"):
    return lambda path: load_data(source, path, split)[0]


def latest(workdir):
    """Opens, reads and closes as a run does; says which step it would go on from."""
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        step = checkpoints.latest_step()
    read_meta(workdir / "checkpoints")
    restore_params(workdir / "checkpoints")
    return step


READERS = {
    "npz": data("npz", "all"),
    "idx": data("idx"),
    "cifar10": data("cifar10", "test"),
    "folder": data("folder", "all"),
    "solver": load_solver,
    "noise": load_noise,
    "rows": lambda path: load_rows(path, {}),
    "records": read_records,
    "checkpoint": load,
    "step": latest,
}


def main():
    warnings.simplefilter("ignore")
    good = json.loads(Path(sys.argv[1]).read_text())
    load(good["workdir"])  # what is loaded once is loaded before memory is limited
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MORE, size + MORE))
    for name, reader, path in good["files"]:
        start, error, value = time.perf_counter(), None, None
        try:
            value = READERS[reader](Path(path))
        except Exception as raised:
            error = [[kind.__name__ for kind in type(raised).__mro__], str(raised)]
        value = value if isinstance(value, int) else None
        seconds = time.perf_counter() - start
        print(json.dumps([name, error, value, seconds]), flush=True)
    # Not getrusage: its maximum counts the memory of the parent that this process was forked from.
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    peak = int(status["VmHWM"].split()[0]) * 1024
    print(json.dumps({"peak": peak, "free": size}))


if __name__ == "__main__":
    main()
