"""From a model and a method to one jitted function that draws a batch.

A ``Method`` draws one example from its prior state. ``make_sampler`` adds the batch axis once, by
``vmap`` over the examples' indices: an example's noise depends on its index alone, not on the batch
or on the devices it is drawn with. Over several devices each one draws its share by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from sdejax.denoiser import Model, make_denoiser
from sdejax.prediction import require_decodable
from sdejax.samplers.base import Method, Stats
from sdejax.samplers.shards import by_shard
from sdejax.sde import SDE, prior_sample
from sdejax.thresholding import Transform
from sdejax.types import Cond, Key, Params

SampleFn = Callable[..., tuple[Float[Array, "n *event"], Stats]]


def make_sampler(
    model: Model,
    method: Method,
    event_shape: tuple[int, ...],
    *,
    transform: Transform | None = None,
    dtype: Any = None,
    devices: Sequence[Any] | None = None,
) -> SampleFn:
    """One jitted function that draws a batch of examples.

    Args:
        model: network and prediction type.
        method: ``on_grid(...)``, ``ode(...)`` or ``reverse_sde(...)``.
        event_shape: shape of one example.
        transform: a change of the denoiser, e.g. ``clipped(-1, 1)``.
        dtype: floating dtype of the state, by default the working one.
        devices: to draw on, each an equal share of the examples with adaptive steps of its own, so
            that a stiff example holds up its own device only; None for the default device, or for
            the layout of ``indices``, over which all devices take as many steps.

    Returns:
        ``draw(params, sde, key, indices, cond=None)``: indices [n] of the examples to draw, cond
        with leaves [n, ...]; gives x [n, *event] and ``Stats`` of [n]. Example i starts from
        ``fold_in(key, i)``. It compiles once for a batch size; fields of the process may change.

    Raises:
        ValueError: for a dtype of less than 32 bits; and by ``draw``, where the network has no x0
            at t_max, the noise is infinite, or the devices do not divide the examples.
    """

    if dtype is not None and jnp.finfo(dtype).bits < 32:
        raise ValueError(
            f"dtype: got {jnp.dtype(dtype).name}; times and states need float32 or float64; let "
            "the network compute in bfloat16 instead"
        )

    def one(params, sde, key, index, cond):
        prior_key, solve_key = jax.random.split(jax.random.fold_in(key, index))
        denoiser = make_denoiser(model, params, sde, cond)
        denoiser = denoiser if transform is None else transform(denoiser, sde)
        return method.run(
            solve_key, sde, denoiser, prior_sample(prior_key, sde, event_shape, dtype)
        )

    batch = by_shard(one, (None, None, None, 0, 0), devices)

    @once_per_value
    def require(sde: SDE) -> None:
        require_decodable(model.prediction, sde, sde.t_max)
        method.require(sde, sde.t_max)

    def draw(
        params: Params, sde: SDE, key: Key, indices: Int[Array, " n"], cond: Cond = None
    ) -> tuple[Float[Array, "n *event"], Stats]:
        require(sde)
        if devices is not None and len(indices) % len(devices):
            raise ValueError(
                f"indices: got {len(indices)} of them for {len(devices)} devices; expected a "
                "multiple, e.g. draw more and drop the rest"
            )
        return batch(params, sde, key, indices, cond)

    return draw


def once_per_value(require: Callable[[SDE], None]) -> Callable[[SDE], None]:
    """A check of a process that is not made again for the fields that it passed last.

    Args:
        require: raises ValueError for a process that it refuses; slow, since it computes eagerly.

    Returns:
        The check; it lets processes with traced fields through, whose values nobody knows.
    """
    passed: set[Any] = set()

    def check(sde: SDE) -> None:
        leaves, structure = jax.tree.flatten(sde)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            return
        arrays = [np.asarray(leaf) for leaf in leaves]
        # Looked up by hash: the structures of two classes with the same fields compare as equal.
        values = (structure, *((a.dtype, a.shape, a.tobytes()) for a in arrays))
        if values not in passed:
            require(sde)
            passed.clear()
            passed.add(values)

    return check
