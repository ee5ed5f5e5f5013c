"""Training objectives, each a function of one example or of a batch for the trainer."""

from sdejax.losses.denoising import LossFn, denoising_loss, make_loss

__all__ = ["LossFn", "denoising_loss", "make_loss"]
