"""Any objective on integers with noise that fills their bins, drawn anew at every step.

A density fitted to the integers themselves has no limit: it may put all of its mass on them. With
y + w (u - 1/2), w the width of a bin and u uniform on [0, 1)^d, the likelihood of the noisy data is
a lower bound on that of the integers, and fitting it is fitting a model of the integers.

Reference: Uria et al. 2013, arXiv:1306.0186; Theis et al. 2016, arXiv:1511.01844, section 3.1.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sdejax.losses.denoising import LossFn
from sdejax.types import Data, Index, Key

STREAM = 2  # of a step's key; the objectives split it in two


def dequantised(loss_fn: LossFn, width: Any) -> LossFn:
    """The loss of a batch whose integers are spread over their bins.

    The noise of an example comes from its place in the global batch and from a stream of its own:
    all else that the loss draws is as it was.

    Args:
        loss_fn: ``loss_fn(params, key, batch)`` of any objective.
        width: of a bin in the network's units, [] or one for each entry of the last axis;
            1/scale of the data (``likelihood.quantisation.bin_width``).

    Returns:
        The loss with the same arguments.

    Raises:
        ValueError: for a width that is not positive and finite; when it is called, for one that
            does not fit the last axis.
    """
    widths = np.asarray(width, float)
    if widths.ndim > 1 or not np.all(np.isfinite(widths) & (widths > 0)):
        raise ValueError(f"dequantised: got width={widths.tolist()}; expected positive numbers")

    def spread(key: Key, x: Data, position: Index) -> Data:
        if widths.size not in (1, *x.shape[-1:]):
            raise ValueError(
                f"dequantised: got {widths.size} widths for examples {list(x.shape)}; expected "
                "one, or one for each entry of the last axis"
            )
        shape = widths.shape if widths.size > 1 else ()
        scale = jnp.broadcast_to(jnp.asarray(widths.reshape(shape), x.dtype), x.shape)
        own = jax.random.fold_in(jax.random.fold_in(key, STREAM), position)
        return x + scale * (jax.random.uniform(own, x.shape, x.dtype) - 0.5)

    def spread_loss(params, key, batch):
        spread_all = jax.vmap(spread, in_axes=(None, 0, 0))
        return loss_fn(params, key, {**batch, "x": spread_all(key, batch["x"], batch["position"])})

    return spread_loss
