"""Training objectives, each a function of one example or of a batch for the trainer."""

from sdejax.losses.contrastive import contrastive_loss
from sdejax.losses.denoising import LossFn, denoising_loss, make_loss
from sdejax.losses.dequantised import dequantised
from sdejax.losses.high_order import high_order_loss, second_order_loss
from sdejax.losses.matching import (
    MakeLoss,
    Objective,
    finite_difference,
    implicit,
    make_score_loss,
    second_order,
    sliced,
    sliced_vr,
)
from sdejax.losses.score_matching import (
    ScoreFn,
    denoising_score_loss,
    explicit_loss,
    implicit_loss,
    model_score,
)
from sdejax.losses.sliced import (
    finite_difference_energy_loss,
    finite_difference_loss,
    sliced_loss,
    sliced_vr_loss,
)

__all__ = [
    "LossFn",
    "MakeLoss",
    "Objective",
    "ScoreFn",
    "contrastive_loss",
    "denoising_loss",
    "denoising_score_loss",
    "dequantised",
    "explicit_loss",
    "finite_difference",
    "finite_difference_energy_loss",
    "finite_difference_loss",
    "high_order_loss",
    "implicit",
    "implicit_loss",
    "make_loss",
    "make_score_loss",
    "model_score",
    "second_order",
    "second_order_loss",
    "sliced",
    "sliced_loss",
    "sliced_vr",
    "sliced_vr_loss",
]
