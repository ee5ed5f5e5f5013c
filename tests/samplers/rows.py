"""What the contract tests share: targets, times and how a row of the catalog is run."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from oracles import plane

from sdejax import processes, truth
from sdejax.samplers.catalog import SAMPLERS

KEY = jax.random.key(0)
# Rows without fixed steps.
ADAPTIVE = {"gotta_go_fast_ode", "gotta_go_fast"}


def process(t_min=0.05, t_max=0.9):
    return processes.vp(t_min=t_min, t_max=t_max)


def slow_start(n, start=0.9, end=0.05):
    """Steps that grow from the first: the lower order of a multistep method's start is unseen."""
    root = np.sqrt(start) + (np.sqrt(end) - np.sqrt(start)) * (np.arange(n + 1) / n) ** 2
    return root**2


def off_centre():
    """N(m, C), m not 0, C anisotropic and not 1."""
    return truth.gaussian(jnp.asarray([1.2, -0.7]), jnp.asarray([[0.5, 0.2], [0.2, 0.15]]))


def run(name, dist, n, counted=None):
    """(key, sde, x, ts) -> (x, Stats) of one example, on n given steps."""

    def draw(key, sde, x, ts):
        exact = truth.denoiser(dist, sde)

        def denoiser(x, t):
            if counted is not None:
                jax.debug.callback(lambda: counted.append(1))
            return exact(x, t)

        steps = None if name in ADAPTIVE else n
        method = SAMPLERS[name].method(steps, lambda sde, steps: ts)
        return method.run(key, sde, denoiser, x)

    return draw


@functools.cache
def batched(name, n=6):
    """The row for a batch, float32 and jitted, with the list of its traces."""
    traces = []

    def draw(keys, sde, x, ts):
        traces.append(x.shape)
        return jax.vmap(run(name, plane(), n), in_axes=(0, None, 0, None))(keys, sde, x, ts)

    return jax.jit(draw), traces
