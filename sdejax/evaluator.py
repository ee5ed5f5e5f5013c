"""Likelihood of one stored example by a trained model, by any of three methods.

| method | of | gives |
|---|---|---|
| ode | the probability-flow ODE | its log-density; of integers, a bound by noise in their bins |
| elbo | the reverse SDE | a bound, in continuous time; of integers, by noise in their bins |
| chain | DDPM's chain of levels | a bound; of integers, by a discretised decoder |

The first two methods belong to two different models wherever the score is learned. Integers (data
with ``scaling.levels``) have probabilities, log P = log p(y) + log|dy/du| - log q(u), real data a
density in their own units, log p(x) = log p(y) + log|dy/dx|: there is no other offset.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from sdejax import grids
from sdejax.build import Parts
from sdejax.data.base import Dataset
from sdejax.denoiser import make_denoiser
from sdejax.dequantiser import Noise, quantisation_of
from sdejax.divergence import Divergence, exact, hutchinson, hutchpp, orthogonal
from sdejax.likelihood.chain import chain_bound
from sdejax.likelihood.cutoff import CUTOFFS
from sdejax.likelihood.decoders import discretised, gaussian
from sdejax.likelihood.dequantisation import discrete_report
from sdejax.likelihood.elbo import data_bound
from sdejax.likelihood.ode import log_likelihood
from sdejax.likelihood.quantisation import bits_per_dim, log_det, quantisation
from sdejax.prediction import Denoiser, require_decodable
from sdejax.samplers.base import SUCCESS
from sdejax.sde import SDE
from sdejax.tables import look_up, near
from sdejax.times import information

TRACES: Mapping[str, Callable[[int], Divergence]] = {
    "exact": lambda probes: exact(),
    "rademacher": hutchinson,
    "gaussian": partial(hutchinson, kind="gaussian"),
    "orthogonal": orthogonal,
    "hutchpp": hutchpp,
}


class Options(NamedTuple):
    """How examples are evaluated."""

    method: str = "ode"  # a row of METHODS
    trace: str = "rademacher"  # a row of TRACES (ode)
    probes: int = 4  # (ode)
    tolerance: float = 1e-5  # (ode)
    cutoff: str = "as_is"  # a row of CUTOFFS (ode)
    draws: int = 128  # of times and noise an example (elbo)
    levels: int = 1000  # of the chain (chain)
    samples: int = 1  # K of the importance-weighted bound on integers (ode with the exact trace)
    t_min: float | None = None  # another end of the process than its own


def options_of(**given: Any) -> Options:
    """``Options``, with an unknown name refused.

    Args:
        **given: fields of ``Options``.

    Returns:
        The options.

    Raises:
        ValueError: naming the nearest known option.
    """
    for name in given:
        if name not in Options._fields:
            raise ValueError(
                f"there is no option {name!r}; the options are {list(Options._fields)}"
                f"{near(name, Options._fields)}"
            )
    return Options(**given)


class Row(NamedTuple):
    """One example; leaves [n] for a data set."""

    log_p: Any  # nats: log-probability of integers, log-density of real data in their own units
    bits_per_dim: Any
    standard_error: Any  # of log_p, in nats: from the probes of an ODE, the draws of a bound
    nfe: Any  # network calls
    result: Any  # a code of ``samplers.base``


Density = Callable[..., tuple[Any, tuple[Any, Any, Any]]]  # log p, (standard error, nfe, result)


def _ode(options: Options, sigma_data: float, key, sde: SDE, denoiser: Denoiser, y):
    found = log_likelihood(
        key, sde, denoiser, y, divergence=TRACES[options.trace](options.probes),
        tolerance=options.tolerance, cutoff=CUTOFFS[options.cutoff], sigma_data=sigma_data,
    )  # fmt: skip
    return found.log_p, (found.standard_error, found.nfe, found.result)


def _elbo(options: Options, sigma_data: float, key, sde: SDE, denoiser: Denoiser, y):
    times = information(sde, sigma_data)
    found = data_bound(key, sde, denoiser, y, samples=options.draws, times=times)
    return found.log_p, (found.standard_error, found.nfe, found.result)


def _chain(options: Options, decoder, key, sde: SDE, denoiser: Denoiser, y):
    ts = grids.uniform(sde, options.levels - 1)
    found = chain_bound(key, sde, denoiser, y, ts, decoder=decoder)
    return found.log_p, (found.standard_error, found.nfe, found.result)


METHODS = ("ode", "elbo", "chain")


def evaluator(
    parts: Parts,
    data: Dataset,
    options: Options,
    *,
    sigma_data: float = 0.5,
    noise: Noise | None = None,
) -> Callable[..., Row]:
    """The function of one example: (params, noise_params, key, stored x, index, cond) -> ``Row``.

    Args:
        parts: process, network and shape of an example.
        data: whose scaling says what is integers and what is real.
        options: how.
        sigma_data: standard deviation of the data in the network's scale.
        noise: fitted noise of variational dequantisation; by default uniform.

    Returns:
        The function.

    Raises:
        ValueError: for unknown rows of tables, options that do not fit the method, or a prediction
            type that is singular at an end.
    """
    sde = moved(parts.sde, options.t_min)
    _require(options, noise, parts.event_shape)
    for t in (sde.t_min, sde.t_max):
        require_decodable(parts.model.prediction, sde, t)
    scaling, size = data.scaling, int(np.prod(parts.event_shape))
    integers = scaling.levels is not None
    if not integers and (noise is not None or options.samples > 1):
        raise ValueError("the data are real numbers: no dequantiser and no samples > 1")
    q = quantisation_of(scaling) if integers else None
    units = quantisation(scaling.offset, scaling.scale, 2)  # only offset and scale are used
    decoder = gaussian()
    if q is not None:
        decoder = discretised(q.levels, scale=scaling.scale, offset=scaling.offset)
    density = {
        "ode": partial(_ode, options, sigma_data),
        "elbo": partial(_elbo, options, sigma_data),
        "chain": partial(_chain, options, decoder),
    }[options.method]

    def one(params, noise_params, key, x, index, cond) -> Row:
        key = jax.random.fold_in(key, index)
        denoiser = make_denoiser(parts.model, params, sde, cond)
        value_of = partial(density, sde=sde, denoiser=denoiser)
        if q is not None and options.method != "chain":
            bound, (errors, nfe, result) = discrete_report(
                key, lambda key, y: value_of(key, y=y), q, x,
                dequantiser=None if noise is None else noise.dequantiser,
                params=noise_params, samples=options.samples,
            )  # fmt: skip
            log_p, spread = bound.log_p, jnp.mean(errors)  # samples > 1: the trace is exact
            nfe, result = jnp.sum(nfe), jnp.max(result)
        else:
            y = (x - units.offset) / units.scale
            y = y.astype(jnp.result_type(float))
            log_p, (spread, nfe, result) = value_of(key, y=y)
            log_p = log_p if integers else log_p + log_det(units, x.shape, y.dtype)
        log_p = jnp.where(result == SUCCESS, log_p, jnp.nan)  # no number of what failed
        return Row(log_p, bits_per_dim(log_p, size), spread, nfe, result)

    return one


def moved(sde: SDE, t_min: float | None) -> SDE:
    """The process with another end.

    Args:
        sde: the process.
        t_min: its new t_min, or None for its own.

    Returns:
        The process.

    Raises:
        ValueError: unless 0 < t_min < t_max.
    """
    if t_min is None:
        return sde
    if not 0.0 < t_min < float(sde.t_max):
        raise ValueError(f"t_min: got {t_min}; expected 0 < t_min < {float(sde.t_max)}")
    return dataclasses.replace(sde, t_min=t_min)


def _require(options: Options, noise: Noise | None, event_shape: tuple[int, ...]) -> None:
    """Refuses options that do not fit together."""
    look_up("method", dict.fromkeys(METHODS), options.method)
    look_up("trace", TRACES, options.trace)
    look_up("cutoff", CUTOFFS, options.cutoff)
    TRACES[options.trace](options.probes).draw(
        jax.random.key(0), jnp.zeros(event_shape)
    )  # refuses a number of probes
    for name, least in {"draws": 1, "levels": 3, "samples": 1}.items():
        if getattr(options, name) < least:
            raise ValueError(f"{name}: got {getattr(options, name)}; expected at least {least}")
    if not options.tolerance > 0:
        raise ValueError(f"tolerance: got {options.tolerance}; expected a positive number")
    if options.samples > 1 and (options.method, options.trace) != ("ode", "exact"):
        raise ValueError(
            f"samples: got {options.samples} with method {options.method!r} and trace "
            f"{options.trace!r}; the mean of exponentials of a noisy estimate is no bound: use "
            "method 'ode' with trace 'exact', or samples 1"
        )
    if options.method == "chain" and noise is not None:
        raise ValueError("dequantiser: the chain has a discretised decoder instead; leave it out")


def conditions(
    parts: Parts, data: Dataset, labels: int | Int[np.ndarray, " n"] | None = None
) -> Int[np.ndarray, " n"] | None:
    """What examples are conditioned on: given labels, those of the data, or "no label".

    Args:
        parts: the model.
        data: the examples.
        labels: one class for all, or [n].

    Returns:
        Labels [n] of a conditional model, None for another.

    Raises:
        ValueError: for labels that the model does not have.
    """
    n, classes = len(data), parts.num_classes
    if classes is None:
        if labels is not None:
            raise ValueError("labels: got some, but the model is not conditional; leave them out")
        return None
    if labels is None:
        labels = classes if data.labels is None else data.gather(np.arange(n))["label"]
    labels = np.broadcast_to(np.asarray(labels, np.int32), (n,))
    if labels.min() < 0 or labels.max() > classes:
        raise ValueError(
            f"labels: got {int(labels.min())} to {int(labels.max())}; expected 0 to {classes - 1}, "
            f"or {classes} for no label"
        )
    return labels
