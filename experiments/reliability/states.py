"""States and scores that follow from the step alone: every stored byte can be recomputed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sdejax.train.leaves import named_leaves
from sdejax.train.reader import restore_params


def content(step: int) -> dict[str, Any]:
    """The state at a step: several shapes and dtypes, and a typed key.

    Args:
        step: the step.
    """
    rng = np.random.default_rng(step)
    return {
        "params": {
            "kernel": jnp.asarray(rng.standard_normal((64, 64)), jnp.float32),
            "bias": jnp.asarray(rng.standard_normal(64), jnp.bfloat16),
            "mask": jnp.asarray(rng.integers(0, 256, 100), jnp.uint8),
            "step": jnp.asarray(step, jnp.int32),
            "key": jax.random.key(step),
        }
    }


def abstract() -> Any:
    """Shapes and dtypes of ``content``, on one device: what a step is restored into."""
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
        jax.eval_shape(lambda: content(0)),
    )


def falling(step: int) -> float:
    """Every step is the best so far."""
    return 1.0 / step


def worsening(step: int) -> float:
    """Ever worse, but for a new record every tenth step; each third step is not a number."""
    if step % 3 == 0:
        return math.nan
    return -float(step) if step % 10 == 0 else math.inf if step % 7 == 0 else float(step)


def meta_of(step: int) -> dict[str, Any]:
    """What is saved beside the state."""
    return {"next": step, "text": f"step {step}"}


def differing(found: Mapping[str, Any], step: int) -> list[str]:
    """Names of the leaves that differ in shape, dtype or any bit from those of a step.

    Args:
        found: nested, as ``content`` gives it or as it was read back.
        step: whose content is expected.
    """
    expected, names = named_leaves(content(step)), named_leaves(found)
    pairs = {name: (np.asarray(leaf), names.get(name)) for name, leaf in expected.items()}
    same = {
        name
        for name, (wanted, leaf) in pairs.items()
        if leaf is not None
        and (leaf.dtype, leaf.shape) == (wanted.dtype, wanted.shape)
        and np.asarray(leaf).tobytes() == wanted.tobytes()
    }
    return sorted({*expected, *names} - same)


def read(directory: Path, step: int) -> dict[str, Any]:
    """The whole stored state of a step, as host arrays.

    Args:
        directory: of the checkpoints.
        step: which.

    Raises:
        CheckpointError: it cannot be read.
    """
    return {"params": restore_params(directory, step, which="params")}
