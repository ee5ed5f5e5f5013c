"""Shared set-up of the tests of bounds: nodes, denoisers of every prediction, closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
from oracles import PREDICTIONS, PROCESSES, PUBLISHED

from sdejax import truth
from sdejax.prediction import decode, encode
from sdejax.sde import coefficients

# Each process with another prediction type.
PAIRS = list(zip(PROCESSES, ["eps", "score", "x0", "v", "edm", "velocity"], strict=True))
MEAN, STD = 0.7, 0.4  # of one-dimensional Gaussian data


def process(name, t_max=None):
    """The process; the linear path may stop short of its singular end."""
    sde = PROCESSES[name]()
    return PROCESSES[name](t_max=t_max) if name == "rectified_flow" and t_max else sde


def normal_nodes(n):
    """Nodes and weights of a mean over a standard normal."""
    z, w = np.polynomial.hermite_e.hermegauss(n)
    return jnp.asarray(z), jnp.asarray(w / w.sum())


def unit_nodes(n, panels=1):
    """Nodes and weights of an integral over [0, 1], Gauss-Legendre on equal panels."""
    z, w = np.polynomial.legendre.leggauss(n)
    start = np.arange(panels)[:, None]
    nodes = (start + 0.5 * (z + 1)) / panels
    return jnp.asarray(nodes.ravel()), jnp.asarray(np.tile(0.5 * w / panels, panels))


def over_times(density, rate, n=40, panels=8):
    """The integral of rate(t) over the times of a density, by nodes of its quantile function."""
    u, w = unit_nodes(n, panels)
    t = jax.jit(jax.vmap(density.quantile))(u)
    log_p = jax.jit(jax.vmap(density.log_density))(t)
    return np.sum(np.asarray(w) * np.asarray(rate(t)) / np.exp(np.asarray(log_p)))


def through(dist, sde, name):
    """The exact denoiser as a network of one prediction type would give it."""
    exact, prediction = truth.denoiser(dist, sde), PREDICTIONS[name]

    def denoiser(x, t):
        c = jax.tree.map(lambda k: k.astype(x.dtype), coefficients(sde, t))
        return decode(prediction, c, x, encode(prediction, c, exact(x, t)))

    return denoiser


def line():
    """N(MEAN, STD^2) over [1]."""
    return truth.gaussian(jnp.asarray([MEAN]), jnp.asarray([[STD**2]]))


def ideal_rate(name, t, x, mean=MEAN, std=STD):
    """-lambda'/2 E|eps* - eps|^2 given x, for Gaussian data, from the published formulas.

    eps* - eps = (sigma alpha (x - m) - alpha^2 S^2 eps) / v with v = alpha^2 S^2 + sigma^2; the
    linear path's limit at t = 1 is 0.
    """
    p, t = PUBLISHED[name], np.asarray(t, np.longdouble)
    alpha, sigma = p.alpha(t), p.sigma(t)
    v = alpha**2 * std**2 + sigma**2
    square = ((sigma * alpha * (x - mean)) ** 2 + (alpha * std) ** 4) / v**2
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = p.g(t) ** 2 / (2 * sigma**2) * square
    return np.where(alpha == 0, 0, rate).astype(float)


def prior_kl(name, x, t=None):
    """KL(N(alpha x, sigma^2) || prior) at t_max, from the published formulas."""
    p = PUBLISHED[name]
    t = np.longdouble(p.t_max if t is None else t)
    alpha, sigma, std = p.alpha(t), p.sigma(t), p.prior_std
    return float(0.5 * ((alpha * x / std) ** 2 + (sigma / std) ** 2 - 1) - np.log(sigma / std))
