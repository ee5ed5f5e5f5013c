"""Random weights and compiled functions without XLA's compile time.

Compiling an initialiser costs a random generator per parameter, ten times the network itself, so
weights are drawn by numpy; and code for a few small images need not be optimised.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

jit = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


def random_params(net, *args):
    """Float32 parameters of ``net`` for inputs ``args``, all of them away from zero.

    Kernels have unit gain, scales are near one; the seed is fixed.
    """
    shapes = jax.eval_shape(net.init, jax.random.key(0), *args)
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        n = rng.standard_normal(leaf.shape)
        kind = path[-1].key
        if kind == "kernel":
            n /= np.sqrt(n[..., 0].size)
        elif kind in ("scale", "bias"):
            n = (kind == "scale") + 0.1 * n
        return jnp.asarray(n, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)
