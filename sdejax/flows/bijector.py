"""Invertible maps of one example, with the logarithm of how much they stretch volume.

For y = f(x) with x of density p, the density of y is

    log q(y) = log p(x) - log |det df/dx|,    x = f^-1(y),

so a flow needs f and that log-determinant to sample, f^-1 and its own to evaluate. Both directions
take parameters and a condition: a bijector itself holds no numbers.

Reference: Rezende and Mohamed 2015, arXiv:1505.05770, eq. 5; Dinh et al. 2017, arXiv:1605.08803.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sdejax.types import Cond, Data, Params, Scalar

Mapping = Callable[[Params, Data, Cond], tuple[Data, Scalar]]


class Bijector(NamedTuple):
    """An invertible map and its inverse, pure functions of (params, value, cond)."""

    forward: Mapping  # x -> y, log |det dy/dx|
    inverse: Mapping  # y -> x, log |det dx/dy|


def chain(*bijectors: Bijector) -> Bijector:
    """One after another, the first being nearest to x; log-determinants add up.

    Args:
        *bijectors: f_1, ..., f_n.

    Returns:
        y = f_n(... f_1(x)), whose parameters are a sequence, one entry for each.
    """

    def through(maps: list[Mapping], params: list[Params], value: Data, cond: Cond):
        total = jnp.zeros((), value.dtype)
        for function, own in zip(maps, params, strict=True):
            value, log_det = function(own, value, cond)
            total = total + log_det
        return value, total

    def forward(params: Params, x: Data, cond: Cond) -> tuple[Data, Scalar]:
        return through([b.forward for b in bijectors], list(params), x, cond)

    def inverse(params: Params, y: Data, cond: Cond) -> tuple[Data, Scalar]:
        return through([b.inverse for b in bijectors[::-1]], list(params)[::-1], y, cond)

    return Bijector(forward, inverse)


def sigmoid() -> Bijector:
    """``y = 1 / (1 + exp(-x))`` in every entry: onto (0, 1), with dy/dx = y (1 - y).

    Returns:
        The bijector, without parameters; rounding takes y to 1 for x > 17 in float32.
    """

    def stretch(x: Data) -> Scalar:
        return jnp.sum(jax.nn.log_sigmoid(x) + jax.nn.log_sigmoid(-x))

    def forward(params: Params, x: Data, cond: Cond) -> tuple[Data, Scalar]:
        return jax.nn.sigmoid(x), stretch(x)

    def inverse(params: Params, y: Data, cond: Cond) -> tuple[Data, Scalar]:
        x = jnp.log(y) - jnp.log1p(-y)
        return x, -stretch(x)

    return Bijector(forward, inverse)
