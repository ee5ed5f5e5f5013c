"""What the tests run in a process of its own: ``python train_worker.py COMMAND ARGUMENTS``."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import jax
from jax.experimental import multihost_utils
from train_toy import ROWS, SGD, batch_at, drawn, loss_fn, make_state, run

from sdejax.train.checkpoint import Checkpoints
from sdejax.train.hosts import check_agreement, join
from sdejax.train.integrity import CheckpointError
from sdejax.train.parallel import parallel
from sdejax.train.places import choose_place
from sdejax.train.preemption import preemption_notice
from sdejax.train.reader import restore_params


def refusal(action):
    try:
        action()
    except (CheckpointError, ValueError) as error:
        return str(error)


def member(index, port, directory):
    """One of two tasks of Slurm: train in both modes, save from each, then agree on a stop."""
    task = {"SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": index}
    join(choose_place({**task, "JAX_COORDINATOR_PORT": port}))
    half = ROWS // 2

    def my_rows(step):
        return batch_at(step, int(index) * half, (int(index) + 1) * half)

    losses, evals, draws = {}, {}, {}
    for mode, fsdp in (("pmap", 1), ("jit", 1), ("jit", 4)):
        name = f"{mode}{fsdp}"
        layout = parallel(mode, loss_fn, SGD, 0.99, ROWS, fsdp=fsdp)
        assert layout.local_batch_size == half
        state = layout.init(lambda: make_state(SGD))
        with Checkpoints(f"{directory}/{name}") as checkpoints:
            state, losses[name] = run(layout, state, 0, 5, my_rows)
            checkpoints.save(5, layout.portable(state), {"next": 5})
            restored, _ = checkpoints.restore(layout.abstract(lambda: make_state(SGD)))
            assert checkpoints.latest_step() == 5
            state, more = run(layout, layout.place(restored), 5, 8, my_rows)
            losses[name] += more
            if name == "pmap1":
                refused = [refusal(lambda: Checkpoints(checkpoints.directory))]
        # The same state, brought to the other mode and back, evaluates to the same loss.
        for other in ("pmap", "jit"):
            there = parallel(other, loss_fn, SGD, 0.99, ROWS)
            moved = there.place(layout.portable(state))
            batch = there.place_batch(my_rows(9))
            if name == "jit1":
                draws[other] = drawn(other, batch)
            evals[f"{name}-{other}"] = float(there.eval(moved.params, moved.key, batch)["loss"])
    if index == "0":
        path = Path(directory, "jit1", "5", "state", "manifest.ocdbt")
        path.write_bytes(path.read_bytes()[:-1])
    multihost_utils.sync_global_devices("damaged")
    refused.append(refusal(lambda: restore_params(f"{directory}/jit1")))
    check_agreement({"config": "same", "data set": "same"})
    refused.append(refusal(lambda: check_agreement({"config": "same", "data set": index})))
    with preemption_notice() as notice:
        stopped_at = None
        for step in range(200):
            if step == 2 and index == "1":
                os.kill(os.getpid(), signal.SIGTERM)
            if notice.requested():
                stopped_at = step
                break
            time.sleep(0.02)
    found = {"losses": losses, "evals": evals, "refused": refused, "stopped_at": stopped_at}
    print(json.dumps(found | {"draws": draws}), flush=True)
    jax.distributed.shutdown()


if __name__ == "__main__":
    {"member": member}[sys.argv[1]](*sys.argv[2:])
