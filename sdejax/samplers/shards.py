"""Rows over devices, each device with loops of its own.

A loop over a batch that is laid out over devices runs until every row is done, so its condition is
a collective: one stiff example slows all devices, and where something goes wrong on one of them the
others wait. Mapped shard by shard there is nothing to wait for: each device maps its own rows, its
loops end when they are done, and the program has no communication at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

_ROWS = "rows"  # name of the mesh's axis


def by_rows(devices: Sequence[Any]) -> NamedSharding:
    """The layout of arrays whose first axis goes over devices.

    Args:
        devices: in the order of the rows.

    Returns:
        The sharding; its ``.mesh`` serves a replicated one.
    """
    return NamedSharding(Mesh(np.array(devices), (_ROWS,)), P(_ROWS))


def replicated(devices: Sequence[Any]) -> NamedSharding:
    """The layout of arrays of which every device has all.

    Args:
        devices: as of ``by_rows``.

    Returns:
        The sharding.
    """
    return NamedSharding(by_rows(devices).mesh, P())


def by_shard(
    one: Callable[..., Any], in_axes: tuple[int | None, ...], devices: Sequence[Any] | None
) -> Any:
    """``jit(vmap(one))`` whose rows go over devices, without communication between them.

    Args:
        one: a function of one example; all that it returns belongs to that example.
        in_axes: 0 for an argument with rows, None for one that all examples share.
        devices: how many divide the number of rows; None for one device, or for whatever layout
            the arguments have, which makes the condition of a loop a collective.

    Returns:
        The jitted function.
    """
    batch = jax.vmap(one, in_axes=in_axes)
    if devices is None:
        return jax.jit(batch)
    # The check of what varies over the mesh does not know diffrax's loops.
    return jax.jit(
        jax.shard_map(
            batch,
            mesh=by_rows(devices).mesh,
            in_specs=tuple(P() if axis is None else P(_ROWS) for axis in in_axes),
            out_specs=P(_ROWS),
            check_vma=False,
        )
    )
