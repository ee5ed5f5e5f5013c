"""Normalising flows: invertible maps with a log-determinant, and what they are made of."""

from sdejax.flows.bijector import Bijector, chain, sigmoid
from sdejax.flows.coupling import affine_coupling, checkerboard

__all__ = ["Bijector", "affine_coupling", "chain", "checkerboard", "sigmoid"]
