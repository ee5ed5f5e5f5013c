"""The pure train step on many devices, in two ways behind one interface.

    pmap  the state is replicated, each device works on its rows, gradients are averaged by name
    jit   a named mesh (data, fsdp): rows over both axes, every large leaf of the state over fsdp;
          the compiler places the communication

Both compute the same numbers up to the order of summation. Rows are told apart by their global
``position`` in the batch, not by the device they land on, so nothing here draws random numbers.

With several processes each one gives its own rows. Under ``pmap`` the working state is local to a
process; ``portable`` shows the same buffers as global arrays, which is what a checkpoint holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from sdejax.train.state import TrainState
from sdejax.train.step import Batch, LossFn, Metrics, eval_step, train_step
from sdejax.types import Key, Params

_AXIS = "batch"  # name of the pmapped axis


class Parallel(NamedTuple):
    """A train step laid out over devices; made by ``parallel``.

    Attributes:
        init: ``make_state -> state``; runs ``make_state()`` compiled, laid out from the start.
        abstract: ``make_state -> state`` of shapes with global shardings, to restore into.
        place: any state (host, restored, another layout) to this layout, as a copy.
        portable: this layout's state as global arrays, to save; shares the buffers.
        place_batch: this process's rows ``[local_batch_size, ...]`` to the devices.
        step: ``(state, batch) -> (state, metrics)``; the given state's buffers are donated.
        eval: ``(params, key, batch) -> metrics``.
        local_batch_size: rows this process gives per step.
    """

    init: Callable[[Callable[[], TrainState]], TrainState]
    abstract: Callable[[Callable[[], TrainState]], TrainState]
    place: Callable[[TrainState], TrainState]
    portable: Callable[[TrainState], TrainState]
    place_batch: Callable[[Batch], Batch]
    step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
    eval: Callable[[Params, Key, Batch], Metrics]
    local_batch_size: int


def parallel(
    mode: str,
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    ema_decay: float,
    global_batch_size: int,
    *,
    eval_loss_fn: LossFn | None = None,
    devices: Sequence[Any] | None = None,
    fsdp: int = 1,
) -> Parallel:
    """Lay the train step out over devices.

    Args:
        mode: "pmap" (replicated) or "jit" (named mesh, optionally fully sharded).
        loss_fn, tx, ema_decay: as in ``train_step``.
        global_batch_size: rows per step over all processes.
        eval_loss_fn: loss of ``eval``, without dropout and the like; by default ``loss_fn``.
        devices: devices of all processes; all there are by default.
        fsdp: devices that share one copy of the state, "jit" only.

    Returns:
        The wrapped step, see ``Parallel``.

    Raises:
        ValueError: unknown mode; rows or fsdp that do not divide; fsdp under "pmap".

    Reference:
        Rajbhandari et al., 2019, arXiv:1910.02054 (sharded state); Xu et al., 2021,
        arXiv:2105.04663 (sharding by compiler).
    """
    if mode not in _MODES:
        raise ValueError(f"mode={mode!r}: expected one of {sorted(_MODES)}")
    devices = list(jax.devices() if devices is None else devices)
    _check_divides(global_batch_size, len(devices), fsdp)
    step = partial(train_step, loss_fn, tx, ema_decay)
    evaluate = partial(eval_step, eval_loss_fn or loss_fn)
    return _MODES[mode](step, evaluate, global_batch_size, devices, fsdp)


def throttle(depth: int = 16) -> Callable[[PyTree], PyTree | None]:
    """A function that keeps the host at most ``depth`` steps ahead of the devices.

    Unbounded asynchronous loops with collectives deadlock on virtual CPU devices; elsewhere the
    bound keeps a stopped run from having work queued for minutes.

    Args:
        depth: steps that may be in flight.

    Returns:
        To be called with each step's metrics; waits for those of ``depth`` steps before and
        returns them, None in the first ``depth`` calls.
    """
    in_flight: deque[PyTree] = deque()

    def wait(metrics: PyTree) -> PyTree | None:
        in_flight.append(metrics)
        return jax.block_until_ready(in_flight.popleft()) if len(in_flight) > depth else None

    return wait


def _check_divides(rows: int, devices: int, fsdp: int) -> None:
    if rows < 1 or rows % devices:
        below, above = rows // devices * devices, (rows // devices + 1) * devices
        near = f"{below} or {above}" if below > 0 else f"{above}"
        raise ValueError(
            f"global_batch_size={rows} does not divide over {devices} devices: use {near}"
        )
    if fsdp < 1 or devices % fsdp:
        raise ValueError(f"fsdp={fsdp} does not divide {devices} devices")


def _check_rows(batch: Batch, local_rows: int) -> None:
    for name, value in batch.items():
        if np.shape(value)[:1] != (local_rows,):
            raise ValueError(
                f"batch[{name!r}] has shape {np.shape(value)}: expected {local_rows} rows, this "
                "process's share of global_batch_size"
            )


def _place(sharding_of: Callable[[Any], NamedSharding], state: PyTree) -> PyTree:
    """Copy a pytree to the shardings that a rule gives, never sharing a buffer with it."""

    def array(value: jax.Array, sharding: NamedSharding) -> jax.Array:
        if value.sharding == sharding:
            return jnp.copy(value)
        if value.is_fully_addressable or value.is_fully_replicated:
            host = np.array(value)
        else:  # sharded over several processes in another layout
            host = np.asarray(multihost_utils.process_allgather(value, tiled=True))
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    def leaf(value: Any) -> jax.Array:
        value = jnp.asarray(value)
        sharding = sharding_of(value)
        if not jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
            return array(value, sharding)
        data = array(jax.random.key_data(value), sharding)  # shaped [2], but laid out as one key
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(value))

    return jax.tree.map(leaf, state)


def _init(
    sharding_of: Callable[[Any], NamedSharding], make_state: Callable[[], TrainState]
) -> TrainState:
    shardings = jax.tree.map(sharding_of, jax.eval_shape(make_state))
    return jax.jit(make_state, out_shardings=shardings)()


def _abstract(
    sharding_of: Callable[[Any], NamedSharding], make_state: Callable[[], TrainState]
) -> TrainState:
    return jax.tree.map(
        lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=sharding_of(v)),
        jax.eval_shape(make_state),
    )


def _pmap(
    train: Callable[..., tuple[TrainState, Metrics]],
    evaluate: Callable[..., Metrics],
    rows: int,
    devices: list[Any],
    fsdp: int,
) -> Parallel:
    if fsdp != 1:
        raise ValueError(f"fsdp={fsdp} with mode='pmap': its state is replicated, use mode='jit'")
    local = [d for d in devices if d.process_index == jax.process_index()]
    local_rows = rows // len(devices) * len(local)
    here = Mesh(np.array(local), (_AXIS,))
    everywhere = NamedSharding(Mesh(np.array(devices), (_AXIS,)), P())

    def portable(state: TrainState) -> TrainState:
        return jax.tree.map(
            lambda v: jax.make_array_from_single_device_arrays(
                v.shape, everywhere, [shard.data for shard in v.addressable_shards]
            ),
            state,
        )

    def place_batch(batch: Batch) -> Batch:
        _check_rows(batch, local_rows)
        split = {
            k: np.asarray(v).reshape(len(local), -1, *np.shape(v)[1:]) for k, v in batch.items()
        }
        return jax.device_put(split, NamedSharding(here, P(_AXIS)))

    wrap = partial(jax.pmap, axis_name=_AXIS, out_axes=None, devices=devices)
    return Parallel(
        init=partial(_init, lambda v: NamedSharding(here, P())),
        abstract=partial(_abstract, lambda v: everywhere),
        place=partial(_place, lambda v: NamedSharding(here, P())),
        portable=portable,
        place_batch=place_batch,
        step=wrap(partial(train, axis_name=_AXIS), in_axes=(None, 0), donate_argnums=0),
        eval=wrap(partial(evaluate, axis_name=_AXIS), in_axes=(None, None, 0)),
        local_batch_size=local_rows,
    )


def _jit(
    train: Callable[..., tuple[TrainState, Metrics]],
    evaluate: Callable[..., Metrics],
    rows: int,
    devices: list[Any],
    fsdp: int,
) -> Parallel:
    mesh = jax.make_mesh(
        (len(devices) // fsdp, fsdp),
        ("data", "fsdp"),
        axis_types=(AxisType.Auto, AxisType.Auto),
        devices=devices,
    )
    by_rows = NamedSharding(mesh, P(("data", "fsdp")))
    local_rows = rows // len(devices) * len(mesh.local_devices)

    def sharding_of(leaf: Any) -> NamedSharding:
        """The largest axis that divides goes over fsdp; a leaf without one is replicated."""
        fits = [i for i, n in enumerate(leaf.shape) if n >= fsdp > 1 and n % fsdp == 0]
        if not fits:
            return NamedSharding(mesh, P())
        axis = max(fits, key=lambda i: leaf.shape[i])
        return NamedSharding(mesh, P(*[None] * axis, "fsdp"))

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        state, metrics = train(state, batch)
        # Pin the layout of the result, or the compiler may choose another and compile again.
        return jax.lax.with_sharding_constraint(
            (state, metrics), jax.tree.map(sharding_of, (state, metrics))
        )

    def place_batch(batch: Batch) -> Batch:
        _check_rows(batch, local_rows)
        return {
            k: jax.make_array_from_process_local_data(by_rows, np.asarray(v), (rows, *v.shape[1:]))
            for k, v in batch.items()
        }

    return Parallel(
        init=partial(_init, sharding_of),
        abstract=partial(_abstract, sharding_of),
        place=partial(_place, sharding_of),
        portable=lambda state: state,
        place_batch=place_batch,
        step=jax.jit(step, donate_argnums=0),
        eval=jax.jit(evaluate),
        local_batch_size=local_rows,
    )


_MODES: dict[str, Callable[..., Parallel]] = {"pmap": _pmap, "jit": _jit}
