"""The conditioner of a variational dequantiser: small, and zero before training.

It sees the entries that pass a coupling, the scaled integers and the mask, and gives shift and
log-scale of the entries that do not: convolutions with residuals for images, a perceptron for
anything else. The output layer starts at zero, so the noise starts out uniform.

Reference: Ho et al. 2019, arXiv:1902.00275, sections 3.1 and 3.3 (larger, with attention).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sdejax.nets.layers import conv, dense
from sdejax.types import Array, Data, Float, Key, Params


class NoiseConditioner(nn.Module):
    """Shift and log-scale of a coupling layer for the noise in the bins of integers.

    Attributes:
        features: channels, or hidden units.
        depth: hidden layers, residual from the second on.
        dtype: type to compute in; None promotes input and parameters. Outputs have x's type.
    """

    features: int = 32
    depth: int = 3
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch *event"],
        context: Float[Array, "batch *event"],
        mask: Float[Array, "batch *event"],
    ) -> tuple[Float[Array, "batch *event"], Float[Array, "batch *event"]]:
        """Shift and log-scale, of the shape of x.

        Args:
            x: the entries that pass, 0 elsewhere.
            context: the integers, scaled to [-1, 1].
            mask: 1 where an entry passes.

        Returns:
            The two outputs, exactly zero before training.
        """
        image, size = x.ndim == 4, math.prod(x.shape[1:])
        out = x.shape[-1] if image else size

        def layer(h, features, name, scale=1.0):
            make = conv if image else dense
            return make(features, scale=scale, dtype=self.dtype, name=name)(h)

        inputs = [x, context, mask]
        if not image:
            inputs = [each.reshape(each.shape[0], size) for each in inputs]
        h = layer(jnp.concatenate(inputs, axis=-1), self.features, "hidden_0")
        for i in range(1, self.depth):
            h = h + layer(nn.silu(h), self.features, f"hidden_{i}")
        outputs = jnp.split(layer(nn.silu(h), 2 * out, "out", 0.0), 2, axis=-1)
        shift, log_scale = (each.reshape(x.shape).astype(x.dtype) for each in outputs)
        return shift, log_scale


def noise_network(module: NoiseConditioner) -> Callable[..., tuple[Data, Data]]:
    """The module as a function of one example.

    Args:
        module: the network, batch first.

    Returns:
        ``apply(params, x, context, mask)`` -> shift and log-scale, [*event] each.
    """

    def apply(params: Params, x: Data, context: Data, mask: Data) -> tuple[Data, Data]:
        rows: Any = module.apply({"params": params}, x[None], context[None], mask[None])
        return rows[0][0], rows[1][0]

    return apply


def init_noise_network(
    key: Key, module: NoiseConditioner, event_shape: tuple[int, ...], layers: int
) -> tuple[Params, ...]:
    """Fresh parameters for some coupling layers.

    Args:
        key: of the initialisation.
        module: the network.
        event_shape: shape of one example.
        layers: couplings.

    Returns:
        A tuple with one tree of parameters a layer.
    """
    x = jnp.zeros((1, *event_shape))
    init = jax.jit(module.init)
    return tuple(init(each, x, x, x)["params"] for each in jax.random.split(key, layers))
