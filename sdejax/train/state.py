"""What a training run carries from one step to the next.

Everything the next step depends on is in one pytree of arrays, so that a run resumed from it
continues bit for bit: there is no hidden counter and no hidden source of randomness. The step's
key is ``fold_in(key, step)``; the key itself never changes.

A step whose gradient is not finite is skipped but still counted: ``step`` counts batches seen,
``step - skipped`` counts updates applied, ``bad_streak`` counts skipped steps in a row.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from sdejax.types import Key, Params


class TrainState(NamedTuple):
    """The state of training; every field is a pytree of arrays.

    Attributes:
        step: batches seen, ``[]`` int32.
        params: parameters of the network.
        opt_state: state of the optax transform.
        ema_params: moving average of ``params``, same structure.
        key: typed key of the run; step ``n`` uses ``fold_in(key, n)``.
        skipped: steps skipped for a non-finite gradient, ``[]`` int32.
        bad_streak: skipped steps in a row up to now, ``[]`` int32.
    """

    step: Int[Array, ""]
    params: Params
    opt_state: PyTree
    ema_params: Params
    key: Key
    skipped: Int[Array, ""]
    bad_streak: Int[Array, ""]


def init_state(params: Params, tx: optax.GradientTransformation, key: Key) -> TrainState:
    """The state before the first step; the average starts at the parameters.

    The average and the parameters are separate buffers: the train step donates its state, and one
    buffer cannot be donated twice.

    Args:
        params: pytree of floating-point arrays.
        tx: optax transform.
        key: typed key, ``jax.random.key(seed)``.

    Returns:
        A state at step 0.
    """
    params = jax.tree.map(jnp.asarray, params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=tx.init(params),
        ema_params=jax.tree.map(jnp.copy, params),
        key=key,
        skipped=jnp.zeros((), jnp.int32),
        bad_streak=jnp.zeros((), jnp.int32),
    )
