"""Optimizers and learning-rate schedules by name, composed from optax.

The rate rises linearly over the first W updates, from lr/(W + 1) to lr (never zero, so no update
is wasted), and then follows a schedule over the rest of the run:

    constant  lr
    linear    lr to end * lr, straight
    cosine    lr to end * lr, half a cosine

Gradients are clipped to a global norm first. Clipping divides by the norm, so an infinite gradient
becomes NaN: whoever calls the optimizer tests for finiteness before (``train_step`` does).
"""

from __future__ import annotations

from collections.abc import Callable

import optax

_SCHEDULES: dict[str, Callable[[float, int, float], optax.Schedule]] = {
    "constant": lambda lr, steps, end: optax.constant_schedule(lr),
    "linear": lambda lr, steps, end: optax.linear_schedule(lr, end * lr, steps),
    "cosine": lambda lr, steps, end: optax.cosine_decay_schedule(lr, steps, alpha=end),
}

_OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": lambda rate, *, b1, b2, eps, **_: optax.adam(rate, b1, b2, eps),
    "adamw": lambda rate, *, b1, b2, eps, weight_decay, **_: optax.adamw(
        rate, b1, b2, eps, weight_decay=weight_decay
    ),
    "sgd": lambda rate, *, momentum, **_: optax.sgd(rate, momentum=momentum or None),
}


def make_schedule(
    learning_rate: float,
    *,
    schedule: str = "constant",
    warmup_steps: int = 0,
    total_steps: int | None = None,
    end_factor: float = 0.0,
) -> optax.Schedule:
    """The learning rate as a function of the number of updates applied.

    Args:
        learning_rate: rate after the warm-up.
        schedule: "constant", "linear" or "cosine".
        warmup_steps: updates W of the linear warm-up.
        total_steps: updates of the whole run; needed unless the schedule is constant.
        end_factor: last rate over ``learning_rate``.

    Returns:
        ``update count -> rate``.

    Raises:
        ValueError: unknown schedule; a decay without ``total_steps > warmup_steps``.
    """
    if schedule not in _SCHEDULES:
        raise ValueError(f"schedule={schedule!r}: expected one of {sorted(_SCHEDULES)}")
    if schedule != "constant" and (total_steps is None or total_steps <= warmup_steps):
        raise ValueError(
            f"schedule={schedule!r} with total_steps={total_steps}, warmup_steps={warmup_steps}: "
            "a decay needs total_steps > warmup_steps"
        )
    after = _SCHEDULES[schedule](learning_rate, (total_steps or 0) - warmup_steps, end_factor)
    if warmup_steps == 0:
        return after
    before = optax.linear_schedule(learning_rate / (warmup_steps + 1), learning_rate, warmup_steps)
    return optax.join_schedules([before, after], [warmup_steps])


def make_optimizer(
    name: str = "adam",
    learning_rate: float = 2e-4,
    *,
    schedule: str = "constant",
    warmup_steps: int = 0,
    total_steps: int | None = None,
    end_factor: float = 0.0,
    clip_norm: float | None = 1.0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
) -> optax.GradientTransformation:
    """An optax transform: clip to a global norm, then a named optimizer on a schedule.

    Args:
        name: "adam", "adamw" or "sgd".
        learning_rate: rate after the warm-up.
        schedule, warmup_steps, total_steps, end_factor: see ``make_schedule``.
        clip_norm: largest global norm of the gradient; None for no clipping.
        b1, b2, eps: of adam and adamw.
        weight_decay: decoupled decay, adamw only.
        momentum: heavy-ball momentum, sgd only.

    Returns:
        The transform; its schedule counts the updates applied.

    Raises:
        ValueError: unknown name or schedule; weight decay without adamw;
            momentum without sgd; ``clip_norm <= 0``.

    Reference:
        Kingma and Ba, 2014, arXiv:1412.6980 (Adam); Loshchilov and Hutter, 2017, arXiv:1711.05101
        (AdamW), 2016, arXiv:1608.03983 (cosine); Pascanu et al., 2012, arXiv:1211.5063 (clipping).
    """
    if name not in _OPTIMIZERS:
        raise ValueError(f"name={name!r}: expected one of {sorted(_OPTIMIZERS)}")
    if weight_decay != 0.0 and name != "adamw":
        raise ValueError(f"weight_decay={weight_decay} with name={name!r}: only adamw decays")
    if momentum != 0.0 and name != "sgd":
        raise ValueError(f"momentum={momentum} with name={name!r}: only sgd takes it, use b1")
    if clip_norm is not None and clip_norm <= 0:
        raise ValueError(f"clip_norm={clip_norm}: expected a positive norm, or None for none")
    rate = make_schedule(
        learning_rate,
        schedule=schedule,
        warmup_steps=warmup_steps,
        total_steps=total_steps,
        end_factor=end_factor,
    )
    clip = optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm)
    optimizer = _OPTIMIZERS[name](
        rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, momentum=momentum
    )
    return optax.chain(clip, optimizer)
