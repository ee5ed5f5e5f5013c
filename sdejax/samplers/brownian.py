"""Brownian motion for diffrax's solvers, in the step variable of a route.

On a grid the increments of step i come from ``fold_in(key, i)``, so they are the same under
``jit``, without it and on any device: diffrax's own path for fixed steps takes its keys from the
bits of the times, which rounding changes. With adaptive steps diffrax bisects a tree.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import diffrax as dfx
import jax
import jax.numpy as jnp

from sdejax.coordinates import Frame
from sdejax.samplers.solvers import LEVY_AREAS, Route
from sdejax.types import Key, Times


class GridPath(dfx.AbstractBrownianPath):
    """Independent increments over the whole steps of a grid.

    The unit increment of step i has variance 1 and Levy areas to match; over a step of length h
    all are sqrt(h) times as large.

    Attributes:
        shape: shape and dtype of an increment.
        levy_area: diffrax's kind of Levy area.
        us: the grid [n + 1], rising.
        key: the example's key.
        t0: the start of the grid.
        t1: its end.
    """

    shape: jax.ShapeDtypeStruct = dataclasses.field(metadata={"static": True})
    levy_area: Any = dataclasses.field(metadata={"static": True})
    us: Times
    key: Key
    t0: Any
    t1: Any

    def evaluate(self, t0: Any, t1: Any = None, left: bool = True, use_levy: bool = False) -> Any:
        """The increment over the step from t0 to t1.

        Args:
            t0: start of a step of the grid.
            t1: its end.
            left: unused, as in diffrax's own paths.
            use_levy: give the Levy areas as well.

        Returns:
            The increment [*event], or diffrax's record of it with its Levy areas.
        """
        index = jnp.sum(self.us[1:-1] < 0.5 * (t0 + t1))
        unit = dfx.UnsafeBrownianPath(
            self.shape, jax.random.fold_in(self.key, index), levy_area=self.levy_area
        )
        zero, dt = jnp.zeros_like(t0), t1 - t0
        drawn = unit.evaluate(zero, zero + 1.0, use_levy=use_levy)
        scaled = jax.tree.map(lambda leaf: jnp.sqrt(dt).astype(leaf.dtype) * leaf, drawn)
        return dataclasses.replace(scaled, dt=dt) if use_levy else scaled


class _Mirrored(dfx.AbstractBrownianPath):
    """Brownian motion in u = -v from one in v > 0: its increments, run through backwards.

    A tree of v resolves small v, which float32 could not tell apart as times since the start.
    """

    forward: dfx.VirtualBrownianTree
    t0: Any
    t1: Any
    levy_area: Any = dataclasses.field(metadata={"static": True})

    def evaluate(self, t0, t1=None, left=True, use_levy=False):
        increment: Any = self.forward.evaluate(-t1, -t0, left, use_levy)
        if not use_levy or not issubclass(self.levy_area, dfx.AbstractSpaceTimeLevyArea):
            return increment
        # Backwards, W(h) - W(h - s): the area H between path and chord changes its sign.
        return dataclasses.replace(increment, H=-increment.H)


def brownian_path(
    key: Key, frame: Frame, way: Route, solver: dfx.AbstractSolver, shape: jax.ShapeDtypeStruct
) -> dfx.AbstractBrownianPath:
    """Brownian motion over a route: independent steps on a grid, else a tree to be bisected.

    Args:
        key: the example's key.
        frame: the coordinates in use.
        way: the route.
        solver: the solver, which says what Levy areas it needs.
        shape: of one example.

    Returns:
        A path in the step variable.
    """
    area = LEVY_AREAS[getattr(solver, "minimal_levy_area", dfx.AbstractBrownianIncrement)]
    if way.fixed:
        return GridPath(shape, area, way.us, key, way.us[0], way.us[-1])
    start, end = way.us[0], way.us[-1]
    if frame.clock == 0:
        # The tree interpolates below this; a finer one costs a little more a step.
        return dfx.VirtualBrownianTree(start, end, (end - start) * 2.0**-20, shape, key, area)
    if frame.clock > 0:
        return dfx.VirtualBrownianTree(start, end, start * 2.0**-10, shape, key, area)
    tree = dfx.VirtualBrownianTree(-end, -start, -end * 2.0**-10, shape, key, area)
    return _Mirrored(forward=tree, t0=start, t1=end, levy_area=area)
