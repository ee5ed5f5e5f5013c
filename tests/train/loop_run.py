"""A run of the loop on the toy problem, shared by its tests."""

import json

import jax
import numpy as np
from train_toy import ADAM, ROWS, batch_at, loss_fn, make_state

from sdejax.train.catalog import all_steps
from sdejax.train.checkpoint import Checkpoints
from sdejax.train.logs import Logs
from sdejax.train.loop import Schedule, restore_or_init, roll_back, run_loop
from sdejax.train.parallel import parallel
from sdejax.train.preemption import preemption_notice


class Run:
    """A run of the loop on the toy problem, and what it leaves behind."""

    def __init__(self, workdir, mode="pmap", fsdp=1, bad=(), active=True, keep=9):
        self.workdir, self.bad, self.active, self.traces = workdir, bad, active, 0
        self.keep = keep
        self.layout = parallel(mode, self._loss, ADAM, 0.9, ROWS, fsdp=fsdp)

    def _loss(self, params, key, batch):
        self.traces += 1
        return loss_fn(params, key, batch)

    def _batches(self, step):
        while True:
            batch = batch_at(step)
            if step + 1 in self.bad:
                batch["x"][3] = np.inf
            yield batch
            step += 1

    def __call__(self, tasks=(), batches=None, rolled_back=0, **schedule):
        schedule = {"log_every": 2, "save_every": 3, "max_bad_steps": 3, **schedule}
        with (
            Checkpoints(self.workdir / "checkpoints", keep=self.keep, best="score") as checkpoints,
            Logs(self.workdir, active=self.active) as logs,
        ):
            state, self.found = restore_or_init(self.layout, make_state, checkpoints)
            if rolled_back:
                state = roll_back(self.layout, make_state, checkpoints, rolled_back)
            with preemption_notice() as notice:
                return run_loop(
                    self.layout,
                    state,
                    self._batches(int(state.step)) if batches is None else batches,
                    checkpoints,
                    logs,
                    Schedule(**schedule),
                    lambda step: {"at": step},
                    tasks,
                    ROWS,
                    notice=notice,
                )

    @property
    def lines(self):
        return [json.loads(line) for line in (self.workdir / "metrics.jsonl").open()]

    @property
    def saved(self):
        return all_steps(self.workdir / "checkpoints")


def params_of(state):
    return jax.tree.map(np.asarray, (state.params, state.ema_params, state.opt_state))


def assert_same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)
