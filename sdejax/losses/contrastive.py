"""Noise-contrastive estimation: an unnormalised density learns by telling data from noise.

With nu draws y of a known density q for each draw x of the data p, and G = log p_model - log q,

    NCE = softplus(-(G(x) - log nu)) + sum_j softplus(G(y_j) - log nu),

the logistic loss of the classifier "data or noise". Its minimiser is G = log p - log q: the model,
its normalising constant included, where that is a parameter like any other. There, for nu = 1, the
mean is 2 log 2 - 2 JSD(p, q); it approaches 0 as the two densities part, and then teaches nothing.
As nu grows the estimate approaches that of maximum likelihood.

Reference: Gutmann and Hyvarinen 2010, Noise-contrastive estimation, section 2 (nu = 1); 2012, JMLR
13, 307-361, section 2.2 (any nu).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sdejax.losses.score_matching import LogProbFn
from sdejax.types import Data, Scalar


def contrastive_loss(
    log_prob_fn: LogProbFn, noise_log_prob_fn: LogProbFn, x: Data, y: Float[Array, "nu *event"]
) -> Scalar:
    """The logistic loss of data against noise, for one example and its nu draws of noise.

    Args:
        log_prob_fn: the model, e.g. ``lambda x: -energy(params, x) - log_z`` with log_z learned.
        noise_log_prob_fn: log q, normalised; positive wherever the data are.
        x: a draw from the data [*event].
        y: draws from q [nu, *event].

    Returns:
        The loss [], at least 0.

    Raises:
        ValueError: for no draws of noise.

    Reference: Gutmann and Hyvarinen 2012, JMLR 13, 307-361, section 2.2.
    """
    if not y.shape[0]:
        raise ValueError("contrastive_loss: got 0 draws of noise; expected at least 1")
    bias = math.log(y.shape[0])

    def logit(z):
        return log_prob_fn(z) - noise_log_prob_fn(z) - bias

    return jax.nn.softplus(-logit(x)) + jnp.sum(jax.nn.softplus(jax.vmap(logit)(y)))
