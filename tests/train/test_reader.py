"""Reading beside a writer; what is read is held in ``test_checkpoint.py``."""

import threading

import numpy as np
from saved import small

from sdejax.train.checkpoint import Checkpoints
from sdejax.train.reader import restore_params


def test_a_reader_finds_a_whole_step_while_a_run_saves_without_a_pause(tmp_path):
    done = threading.Event()

    def write():
        with Checkpoints(tmp_path, keep=1) as checkpoints:
            step = 1
            while not done.is_set():
                step += 1
                checkpoints.save(step, small(step), {})

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, small(1), {})
    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = [restore_params(tmp_path, which="params")["w"] for _ in range(60)]
    finally:
        done.set()
        writer.join()
    assert all(np.all(w == w[0, 0]) for w in seen)
    assert len({float(w[0, 0]) for w in seen}) > 5
    assert sorted(float(w[0, 0]) for w in seen) == [float(w[0, 0]) for w in seen]
