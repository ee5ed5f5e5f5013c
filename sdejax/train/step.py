"""One training step, a pure function of (state, batch).

    g = mean over the batch of grad loss_i(params)        one all-reduce
    params' = params + tx(clip(g)),    ema' = ema + (1 - d_n)(params' - ema)
    d_n = min(decay, (1 + n)/(10 + n)),    n updates applied before this one

The same function runs on one device, under ``pmap`` (``axis_name`` given) and under ``jit`` over
sharded arrays (``axis_name=None``: the mean is already global). Loss, auxiliary means and gradient
are averaged over the devices *before* they are judged, so all devices judge alike; the test for
finiteness comes before clipping, which would turn an infinite gradient into NaN parameters. A bad
step changes nothing but the counters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from sdejax.train.state import TrainState
from sdejax.types import Key, Params, Scalar

Batch: TypeAlias = dict[str, Any]  # arrays [B, ...]; always "x" and "position"
Metrics: TypeAlias = dict[str, Any]  # scalars [] by name
LossFn: TypeAlias = Callable[[Params, Key, Batch], tuple[Float[Array, " B"], dict[str, Any]]]
Update: TypeAlias = Callable[[PyTree, TrainState], tuple[PyTree, PyTree, PyTree]]

_OWN_METRICS = ("loss", "grad_norm", "skipped", "bad_streak")


def ema_rate(n: Int[Array, ""], decay: float, dtype: Any) -> Scalar:
    """Weight of the old average at the n-th update, ``min(decay, (1 + n)/(10 + n))``.

    The warm-up forgets the random initialisation: early averages reach over about n/9 updates.

    Args:
        n: updates applied before this one, ``[]``.
        decay: the limit, in [0, 1).
        dtype: floating-point type of the result.

    Returns:
        The weight, ``[]``.

    Reference:
        Polyak and Juditsky, 1992, for averaging; the warm-up is that of TensorFlow's
        ``ExponentialMovingAverage(num_updates)``.
    """
    count = n.astype(dtype)
    return jnp.minimum(jnp.asarray(decay, dtype), (1 + count) / (10 + count))


def _mean_loss(
    loss_fn: LossFn, params: Params, key: Key, batch: Batch
) -> tuple[Scalar, dict[str, Any]]:
    losses, aux = loss_fn(params, key, batch)
    clash = sorted(set(aux) & set(_OWN_METRICS))
    if clash:
        raise ValueError(f"loss_fn returned aux named {clash}, names the step itself reports")
    return jnp.mean(losses), jax.tree.map(jnp.mean, aux)


def _across(axis_name: str | None, tree: PyTree) -> PyTree:
    """The mean over devices; one call, so that the compiler makes one all-reduce of it."""
    return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def _unless_bad(
    good: Bool[Array, ""], update: Update, grads: PyTree, state: TrainState
) -> tuple[PyTree, PyTree, PyTree]:
    """``update(grads, state)``, or what the state holds already after a bad gradient.

    A GPU would wait for the host to take a branch, so it selects; on a CPU a branch is cheaper
    than a select of every number.
    """

    def keep(grads, state):
        return state.params, state.opt_state, state.ema_params

    def branch(good, grads, state):
        return jax.lax.cond(good, update, keep, grads, state)

    def select(good, grads, state):
        new, old = update(grads, state), keep(grads, state)
        return jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)

    return jax.lax.platform_dependent(good, grads, state, cpu=branch, default=select)


def train_step(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    ema_decay: float,
    state: TrainState,
    batch: Batch,
    *,
    axis_name: str | None = None,
) -> tuple[TrainState, Metrics]:
    """One update of the parameters and of their moving average.

    Args:
        loss_fn: ``(params, key, batch) -> (losses [B], aux of [B])``; the key is the step's and
            the same on all devices, the loss folds in ``batch["position"]`` itself.
        tx: optax transform, e.g. from ``make_optimizer``.
        ema_decay: limit of the averaging weight, in [0, 1).
        state: state before the step.
        batch: arrays ``[B, ...]``, B the rows on this device.
        axis_name: name of the mapped device axis, None outside ``pmap``.

    Returns:
        The next state, and metrics as scalars: ``loss``, ``grad_norm`` (before clipping),
        ``skipped``, ``bad_streak`` and the means of aux.

    Raises:
        ValueError: aux uses one of the step's own metric names (at trace time).
    """
    key = jax.random.fold_in(state.key, state.step)
    local = jax.value_and_grad(lambda p: _mean_loss(loss_fn, p, key, batch), has_aux=True)
    (loss, aux), grads = _across(axis_name, local(state.params))

    grad_norm = optax.global_norm(grads)  # not finite if any entry is not
    good = jnp.isfinite(grad_norm) & jnp.isfinite(loss)

    def update(grads: PyTree, state: TrainState) -> tuple[PyTree, PyTree, PyTree]:
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        n = state.step - state.skipped

        def average(old: Array, new: Array) -> Array:
            return old + (1 - ema_rate(n, ema_decay, old.dtype)) * (new - old)

        return params, opt_state, jax.tree.map(average, state.ema_params, params)

    params, opt_state, ema_params = _unless_bad(good, update, grads, state)
    bad = (~good).astype(jnp.int32)
    state = TrainState(
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        ema_params=ema_params,
        key=state.key,
        skipped=state.skipped + bad,
        bad_streak=(state.bad_streak + 1) * bad,
    )
    own = (loss, grad_norm, state.skipped, state.bad_streak)
    return state, {**aux, **dict(zip(_OWN_METRICS, own, strict=True))}


def eval_step(
    loss_fn: LossFn, params: Params, key: Key, batch: Batch, *, axis_name: str | None = None
) -> Metrics:
    """The mean loss of a batch, without an update.

    Args:
        loss_fn: as in ``train_step``.
        params: parameters, usually the average.
        key: typed key; the same key gives the same loss.
        batch: arrays ``[B, ...]``.
        axis_name: name of the mapped device axis, None outside ``pmap``.

    Returns:
        ``loss`` and the means of aux, scalars.
    """
    loss, aux = _across(axis_name, _mean_loss(loss_fn, params, key, batch))
    return {**aux, "loss": loss}
