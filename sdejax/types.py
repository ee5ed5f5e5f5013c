"""Type aliases that the whole library shares (floor 0).

Everything is written for one example: ``x`` has the shape of an event, ``t`` is a scalar and a
key is one example's key. A batch axis is added once, at the public boundary, by ``jax.vmap``.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from jaxtyping import Array, Float, Int, PRNGKeyArray

Key: TypeAlias = PRNGKeyArray  # a typed threefry key, ``jax.random.key(0)``
Scalar: TypeAlias = Float[Array, ""]  # a coefficient or a loss
Time: TypeAlias = Float[Array, ""] | float | int  # t = 0 is data, t = t_max is noise
Times: TypeAlias = Float[Array, " n"]  # a grid of times
Data: TypeAlias = Float[Array, "*event"]  # one example
Index: TypeAlias = Int[Array, ""] | int  # an example's place in a run or in a batch
Params: TypeAlias = Any  # any pytree of arrays
Cond: TypeAlias = Any  # what a network is conditioned on: a label, a pytree or None
Leaf: TypeAlias = Any  # a number of a hyper-parameter; JAX may put a tracer or a placeholder there
