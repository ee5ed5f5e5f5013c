"""From a network to a ``Denoiser``: input scaling, noise conditioning and prediction type.

A network is any pure function ``apply(params, x, t, cond)``: a flax.linen or NNX module, or plain
JAX. It sees the scaled input ``c_in x_t`` and a number that tells the noise level,

    output = apply(params, c_in(t) x_t, c_noise(t), cond),

by default EDM's ``c_in = 1/sqrt(alpha^2 sigma_data^2 + sigma^2)`` and
``c_noise = log(sigma/alpha) / 4`` (Karras et al. 2022, arXiv:2206.00364, table 1), which mean the
same for every process. A ``Model`` is such a network with its prediction type; losses train it and
``make_denoiser`` turns it into the function (x, t) -> (x0, eps) that samplers consume.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.custom_derivatives import SymbolicZero

from sdejax.conditioning import Conditioning, log_noise
from sdejax.prediction import Denoiser, Estimate, Prediction, decode
from sdejax.sde import SDE, Coefficients, as_time, coefficients
from sdejax.types import Cond, Data, Key, Params, Scalar, Time

ApplyFn = Callable[[Params, Any, Any, Cond], Any]
TrainApplyFn = Callable[[Params, Any, Any, Cond, Key], Any]
Scaling = Callable[[Coefficients], Scalar]


class Model(NamedTuple):
    """A network of one example together with what its input and output mean."""

    apply: ApplyFn
    train_apply: TrainApplyFn
    prediction: Prediction
    conditioning: Conditioning
    scaling: Scaling
    batch_train_apply: TrainApplyFn | None = None  # batch first and with one key, if it is so made


def unit_variance(sigma_data: float = 0.5) -> Scaling:
    """``c_in = 1/sqrt(alpha^2 sigma_data^2 + sigma^2)``: an input of unit variance.

    Args:
        sigma_data: standard deviation of the data.

    Returns:
        The scaling.
    """
    return lambda c: 1.0 / jnp.sqrt((c.alpha * sigma_data) ** 2 + c.sigma**2)


def no_scaling(c: Coefficients) -> Scalar:
    """``c_in = 1``: the network sees x_t."""
    return jnp.ones_like(c.alpha)


def make_model(
    apply_fn: ApplyFn,
    prediction: Prediction,
    *,
    batched: bool,
    train_apply_fn: TrainApplyFn | None = None,
    conditioning: Conditioning = log_noise,
    scaling: Scaling | None = None,
) -> Model:
    """A ``Model`` from any pure ``apply(params, x, t, cond)``.

    Args:
        apply_fn: the network in evaluation mode.
        prediction: what its output means, e.g. ``prediction.eps``.
        batched: True for a network written batch first (x [n, *event], t [n], leaves of cond
            [n, ...]) whose rows do not see each other; False for one written for a single example
            (x [*event], t []).
        train_apply_fn: the same with a key as a fifth argument, for dropout in training; by
            default ``apply_fn``.
        conditioning: the number that tells the network the noise level.
        scaling: c_in; by default ``unit_variance(0.5)``.

    Returns:
        The model of one example.
    """
    train = _without_key(apply_fn) if train_apply_fn is None else train_apply_fn
    scaling = unit_variance() if scaling is None else scaling
    if not batched:
        return Model(apply_fn, train, prediction, conditioning, scaling)
    return Model(_evaluated(apply_fn), _single(train), prediction, conditioning, scaling, train)


def in_evaluation(model: Model) -> Model:
    """The model without its dropout, for losses on held-out data.

    Args:
        model: the model.

    Returns:
        A model whose training function is that of evaluation.
    """
    return model._replace(train_apply=_without_key(model.apply), batch_train_apply=None)


def _without_key(apply_fn: ApplyFn) -> TrainApplyFn:
    """A network in evaluation mode where one in training mode is called."""
    return lambda params, x, t, cond, key: apply_fn(params, x, t, cond)


def _single(apply_fn: Callable) -> Callable:
    """A batch-first function applied to one example, through a leading axis of one."""

    def single(params, x, t, cond, *key):
        cond = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], cond)
        return apply_fn(params, x[None], t[None], cond, *key)[0]

    return single


def _evaluated(apply_fn: ApplyFn) -> ApplyFn:
    """``_single(apply_fn)``, whose values under ``vmap`` are one call for the batch.

    A time that the batch shares is spread over it as a batch-first loop would, which XLA makes
    better code of than of one row of embeddings. Derivatives, of either mode, are ``_single``'s.
    """
    single = _single(apply_fn)
    mapped = custom_vmap(single)

    @mapped.def_vmap
    def call_once(n, batched, params, x, t, cond):
        if any(jax.tree.leaves(batched[0])):
            axes = jax.tree.map(lambda b: 0 if b else None, batched)
            return jax.vmap(single, in_axes=tuple(axes))(params, x, t, cond), True

        def spread(leaf, has_axis):
            return leaf if has_axis else jnp.broadcast_to(leaf, (n, *jnp.shape(leaf)))

        return apply_fn(params, *jax.tree.map(spread, (x, t, cond), tuple(batched[1:]))), True

    def derivative(primals, tangents):
        # Of what moves alone: a zero for each parameter would be multiplied out.
        leaves, tree = jax.tree.flatten(primals)
        moves = [not isinstance(leaf, SymbolicZero) for leaf in jax.tree.leaves(tangents)]

        def of_moving(*moving):
            given = iter(moving)
            filled = (next(given) if m else leaf for m, leaf in zip(moves, leaves, strict=True))
            return single(*jax.tree.unflatten(tree, filled))

        moving = tuple(leaf for leaf, m in zip(leaves, moves, strict=True) if m)
        along = tuple(leaf for leaf, m in zip(jax.tree.leaves(tangents), moves, strict=True) if m)
        return jax.jvp(of_moving, moving, along)

    evaluated = jax.custom_jvp(lambda params, x, t, cond: mapped(params, x, t, cond))
    evaluated.defjvp(derivative, symbolic_zeros=True)
    return evaluated


def linen_functions(module: Any) -> tuple[ApplyFn, TrainApplyFn]:
    """The two apply functions of a flax.linen module called as ``module(x, t, cond, train=...)``.

    Args:
        module: the module; its dropout uses the stream "dropout".

    Returns:
        ``apply_fn`` and ``train_apply_fn`` for ``make_model(..., batched=True)``.
    """

    def apply_fn(params, x, t, cond):
        return module.apply({"params": params}, x, t, cond)

    def train_apply_fn(params, x, t, cond, key):
        return module.apply({"params": params}, x, t, cond, train=True, rngs={"dropout": key})

    return apply_fn, train_apply_fn


def init_linen(
    key: Key, module: Any, event_shape: tuple[int, ...], cond: Cond = None, dtype: Any = None
) -> Params:
    """Parameters of a flax.linen module for examples of one shape.

    Args:
        key: key of the initialisation.
        module: the module, batch first.
        event_shape: shape of one example.
        cond: the condition of one example, e.g. an integer label.
        dtype: floating dtype of the input, by default the working one.

    Returns:
        The parameter tree.

    Raises:
        ValueError: for a module with batch statistics or other state, which have no meaning for
            one example.
    """
    x = jnp.zeros((1, *event_shape), dtype or jnp.result_type(float))
    cond = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], cond)
    variables = jax.jit(module.init)(key, x, jnp.zeros((1,), x.dtype), cond)
    state = sorted(set(variables) - {"params"})
    if state:
        raise ValueError(
            f"module {type(module).__name__}: got the collections {state} beside 'params'; a"
            " network is a pure function of one example, so normalise by group, layer or instance"
            " (GroupNorm, LayerNorm) instead of by batch"
        )
    return variables["params"]


def make_denoiser(model: Model, params: Params, sde: SDE, cond: Cond = None) -> Denoiser:
    """The denoiser (x_t, t) -> (x0, eps) of one example.

    Args:
        model: network and prediction type.
        params: its parameters.
        sde: the process.
        cond: the condition of this example, or None.

    Returns:
        A function of x [*event] and t [] that gives an ``Estimate``; ValueError where the network
        gives another shape than that of x.
    """

    def denoiser(x: Data, t: Time) -> Estimate:
        t = as_time(t)
        c = coefficients(sde, t)
        output = model.apply(
            params, model.scaling(c).astype(x.dtype) * x, model.conditioning(sde, t), cond
        )
        if output.shape != x.shape:
            raise ValueError(
                f"network: got an output of shape {list(output.shape)} for an example of shape "
                f"{list(x.shape)}; expected the same; is batched= of make_model right?"
            )
        return decode(model.prediction, c, x, output.astype(x.dtype))

    return denoiser
