"""What a loss of a batch draws for each example: its time, its noise and whether its label stays.

All randomness of an example comes from ``fold_in(key, position)``, its place in the global batch,
so a batch gives the same losses on any number of devices. Times are stratified over it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sdejax.times import TimeSampling, stratified
from sdejax.types import Cond, Data, Index, Key, Scalar


class Draw(NamedTuple):
    """One example of a batch, as its loss sees it."""

    x0: Data
    eps: Data
    t: Scalar
    label: Cond
    key: Key  # for dropout and for what else the loss draws


def make_draw(
    batch_size: int, times: TimeSampling, label_drop: float = 0.0, null_label: int | None = None
) -> Callable[[Key, Data, Index, Cond], Draw]:
    """The draws of one example, from the key of the step and its place in the global batch.

    Args:
        batch_size: global batch size, over which times are stratified.
        times: density of times.
        label_drop: probability of replacing a label by ``null_label``.
        null_label: the label that stands for "no label".

    Returns:
        ``draw(key, x0, position, label)``, to be mapped over all but the key.

    Raises:
        ValueError: for a label_drop outside [0, 1], or above 0 without a null_label.
    """
    if not 0.0 <= label_drop <= 1.0:
        raise ValueError(f"make_loss: got label_drop={label_drop}; expected a probability")
    if label_drop > 0.0 and null_label is None:
        raise ValueError(f"make_loss: got label_drop={label_drop} without a null_label; give one")

    def draw(key: Key, x0: Data, position: Index, label: Cond) -> Draw:
        time_key, example_key = jax.random.split(key)
        noise_key, own_key, label_key = jax.random.split(
            jax.random.fold_in(example_key, position), 3
        )
        t = times.density.quantile(stratified(time_key, position, batch_size))
        t = jax.lax.stop_gradient(t)
        if null_label is not None and label is not None:
            label = jnp.where(jax.random.bernoulli(label_key, label_drop), null_label, label)
        eps = jax.random.normal(noise_key, x0.shape, x0.dtype)
        return Draw(x0, eps, t, label, own_key)

    return draw
