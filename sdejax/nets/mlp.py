"""A multilayer perceptron for points and tabular data.

Each hidden layer adds a projection of the embedded noise level (and label) before its
nonlinearity: h <- silu(W h + V silu(e)). The output layer starts at zero, so an untrained network
returns exactly zero whatever it is asked.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn

from sdejax.nets.embed import GaussianFourier, LabelEmbed, check_choice, check_label, sinusoidal
from sdejax.types import Array, Float, Int


class MLP(nn.Module):
    """Perceptron conditioned on a noise level and, if asked for, on a class label.

    Attributes:
        hidden: widths of the hidden layers.
        time_features: width of the noise embedding.
        embedding_type: "fourier" (labels of order 1, such as t in [0, 1] or log sigma / 4) or
            "positional" (labels of order 1 to 1000, such as 999 t). No logarithm is taken.
        fourier_scale: standard deviation of the Fourier frequencies, in cycles per unit of t.
        num_classes: number of classes, or None; the null label is ``num_classes``.
        dropout: rate after each hidden layer, drawn from the rng "dropout" when train=True.
        dtype: type to compute in; None promotes input and parameters. The output has x's type.
    """

    hidden: tuple[int, ...] = (128, 128, 128)
    time_features: int = 64
    embedding_type: str = "fourier"
    fourier_scale: float = 1.0
    num_classes: int | None = None
    dropout: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch *event"],
        t: Float[Array, " batch"],
        cond: Int[Array, " batch"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "batch *event"]:
        """Output of the network, of the shape of x.

        Args:
            x: points [batch, *event]; the event is flattened inside.
            t: noise-conditioning numbers [batch].
            cond: labels [batch] in 0 .. num_classes, or None for the null label.
            train: draw dropout.

        Returns:
            Output [batch, *event].

        Raises:
            ValueError: on an unknown ``embedding_type``, or labels without ``num_classes``.
        """
        check_choice("embedding_type", self.embedding_type, ("fourier", "positional"))
        check_label(cond, self.num_classes)
        batch, event = x.shape[0], x.shape[1:]
        if self.embedding_type == "fourier":
            emb = GaussianFourier(self.time_features // 2, self.fourier_scale, name="fourier")(t)
        else:
            emb = sinusoidal(t, self.time_features)
        width = 2 * self.time_features
        emb = nn.Dense(width, dtype=self.dtype, name="time_0")(emb)
        emb = nn.Dense(width, dtype=self.dtype, name="time_1")(nn.silu(emb))
        if self.num_classes is not None:
            emb += LabelEmbed(self.num_classes, width, self.dtype, name="label")(cond, batch)
        emb = nn.silu(emb)

        h = x.reshape(batch, -1)
        for i, features in enumerate(self.hidden):
            h = nn.Dense(features, dtype=self.dtype, name=f"hidden_{i}")(h)
            h = nn.silu(h + nn.Dense(features, dtype=self.dtype, name=f"inject_{i}")(emb))
            h = nn.Dropout(self.dropout, deterministic=not train)(h)
        zeros = nn.initializers.zeros_init()
        h = nn.Dense(math.prod(event), kernel_init=zeros, dtype=self.dtype, name="out")(h)
        h = h.reshape(batch, *event)
        return h if self.dtype is None else h.astype(x.dtype)
