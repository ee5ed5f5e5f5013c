"""One writer, known by name, and no lock outlives its holder."""

import os
import signal
import subprocess
import sys
import time

import pytest
from etils import epath

from sdejax.train.lock import Held, Lock, lock_state, take_lock

HOLD = """
import sys, time
from etils import epath
from sdejax.train.lock import take_lock
with take_lock(epath.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(100)
"""


def test_the_second_is_told_who_is_first(tmp_path):
    directory = epath.Path(tmp_path)
    assert lock_state(directory) == Lock(False, "nobody")
    with take_lock(directory):
        start = time.monotonic()
        with pytest.raises(Held, match=f"process {os.getpid()} on "):
            take_lock(directory)
        assert time.monotonic() - start < 1.0
        assert lock_state(directory).held
    assert not lock_state(directory).held
    with take_lock(directory):
        pass


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    directory = epath.Path(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(Held, match=f"process {process.pid} on "):
            take_lock(directory)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert lock_state(directory) == Lock(False, lock_state(directory).holder)
    with take_lock(directory):
        assert lock_state(directory).holder.startswith(f"process {os.getpid()} ")
