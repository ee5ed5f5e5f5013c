"""Training by maximum likelihood: the negative log-density of the ODE as a loss of a batch.

The loss of an example is -log p(x)/d, the density being that of the model's own flow, so its mean
over data is the entropy of the data plus KL(data || model), per dimension. No weighting of times
enters and no bound is taken: what is minimised is what ``log_likelihood`` reports. A step costs a
solve with tangents and its derivative, some hundred times a step of denoising, so it pays for few
dimensions, for tuning a trained network, and for models whose density is the point.

The gradient is the adjoint's (``likelihood.Flow``), of the discrete solve for recursive checkpoints
and ``Reversible``. At a solve with coarse steps the network learns to make the solver's error look
like density: judge it by a solve with other steps.

Reference: Chen et al. 2018, arXiv:1806.07366; Grathwohl et al. 2018, arXiv:1810.01367.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import diffrax as dfx
import jax
import jax.numpy as jnp

from sdejax.coordinates import angle
from sdejax.denoiser import Model, make_denoiser
from sdejax.divergence import exact, hutchinson
from sdejax.likelihood.ode import log_likelihood
from sdejax.likelihood.reversible import Reversible
from sdejax.losses import LossFn, MakeLoss
from sdejax.losses.draws import make_draw
from sdejax.prediction import require_decodable
from sdejax.samplers.base import in_float64
from sdejax.samplers.make import once_per_value
from sdejax.sde import SDE
from sdejax.times import objective, uniform
from sdejax.types import Times

ADJOINTS: dict[str, Callable[[], Any]] = {
    "checkpoints": dfx.RecursiveCheckpointAdjoint,
    "backsolve": dfx.BacksolveAdjoint,
    "reversible": Reversible,
}


def make_likelihood_loss(
    model: Model,
    sde: SDE,
    *,
    label_drop: float = 0.0,
    null_label: int | None = None,
    **options: Any,
) -> LossFn:
    """The negative log-likelihood of a batch for the trainer, in nats per dimension.

    Each example draws its probes, and one mask of dropout for its whole solve, from
    ``fold_in(key, position)``, so losses do not depend on how a batch is split.

    Args:
        model: network and prediction type.
        sde: the process.
        label_drop: probability of replacing a label by ``null_label``.
        null_label: the label that stands for "no label".
        **options: of ``log_likelihood``: cutoff, prior, divergence, tolerance, solver, ts,
            coordinates, sigma_data, max_steps, adjoint.

    Returns:
        ``loss_fn(params, key, batch)`` with batch {"x": [n, *event], "position": [n], and
        "label": [n] for a conditional network}, giving losses [n], NaN where a solve failed, and
        {"nfe": [n]}.

    Raises:
        ValueError: for a label_drop outside [0, 1], or above 0 without a null_label, or a
            prediction type that is singular at an end of the process.

    Reference: Grathwohl et al. 2018, arXiv:1810.01367, section 3.
    """
    draw = make_draw(1, objective(uniform(sde)), label_drop, null_label)

    for t in (sde.t_min, sde.t_max):
        once_per_value(lambda sde, t=t: require_decodable(model.prediction, sde, t))(sde)

    def one(params, key, x, position, label):
        drawn = draw(key, x, position, label)
        own_key, dropout_key = jax.random.split(drawn.key)
        trained = model._replace(
            apply=lambda params, x, t, cond: model.train_apply(params, x, t, cond, dropout_key)
        )
        denoiser = make_denoiser(trained, params, sde, drawn.label)
        report = log_likelihood(own_key, sde, denoiser, x, **options)
        return -report.log_p / x.size, {"nfe": report.nfe.astype(x.dtype)}

    def loss_fn(params, key, batch):
        batched = jax.vmap(one, in_axes=(None, None, 0, 0, 0))
        return batched(params, key, batch["x"], batch["position"], batch.get("label"))

    return loss_fn


def maximum_likelihood(
    probes: int = 0,
    steps: int = 0,
    tolerance: float = 1e-4,
    adjoint: str = "checkpoints",
    sigma_data: float = 0.5,
) -> MakeLoss:
    """Maximum likelihood as a row of the trainer's objectives.

    Args:
        probes: of Hutchinson's trace; 0 for the exact trace, d tangents.
        steps: of Tsit5 on a grid of equal steps of the angle; 0 for adaptive ones.
        tolerance: of adaptive steps.
        adjoint: "checkpoints", "backsolve" or, on a grid, "reversible".
        sigma_data: standard deviation of the data.

    Returns:
        What makes the loss of a batch, with the arguments of ``make_loss``; times, their role and
        the weighting play no part in it.

    Raises:
        ValueError: for an unknown adjoint, a reversible one without steps, or negative numbers.
    """
    if adjoint not in ADJOINTS:
        raise ValueError(f"likelihood: got adjoint={adjoint!r}; expected one of {list(ADJOINTS)}")
    if steps < 0 or (adjoint == "reversible" and not steps):
        raise ValueError(
            f"likelihood: got steps={steps} with adjoint={adjoint!r}; expected at least 1 for a "
            "reversible one, 0 for adaptive steps otherwise"
        )
    options = {
        "divergence": hutchinson(probes) if probes else exact(),
        "tolerance": tolerance,
        "adjoint": ADJOINTS[adjoint](),
        "sigma_data": sigma_data,
    }

    def make_loss(
        model: Model,
        sde: SDE,
        batch_size: int,
        *,
        times: Any = None,
        weight: Any = None,
        label_drop: float = 0.0,
        null_label: int | None = None,
    ) -> LossFn:
        ts = angles(sde, steps, sigma_data) if steps else None
        make = partial(make_likelihood_loss, model, sde, ts=ts, **options)
        return make(label_drop=label_drop, null_label=null_label)

    return make_loss


def angles(sde: SDE, n: int, sigma_data: float = 0.5) -> Times:
    """n equal steps of the angle between data and noise, ``arctan(sigma/(alpha sigma_data))``.

    Args:
        sde: the process.
        n: number of steps.
        sigma_data: standard deviation of the data.

    Returns:
        [n + 1] times from t_max to t_min.
    """
    frame = angle(sigma_data).flow

    def inside(sde):
        last, first = (frame.variable(sde, t) for t in (sde.t_min, sde.t_max))
        return jax.vmap(lambda u: frame.time(sde, u))(jnp.linspace(first, last, n + 1)[1:-1])

    between = in_float64(inside, jnp.result_type(float), sde)
    first, last = (jnp.asarray(t, between.dtype)[None] for t in (sde.t_max, sde.t_min))
    return jnp.concatenate([first, between, last])
