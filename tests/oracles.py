"""Published formulas of the six processes, written apart from the library.

alpha, sigma, drift f and diffusion g as the papers state them, in NumPy's longdouble, so that
they judge both the float32 values and the derivatives that the library takes by ``jax.jvp``.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from sdejax import prediction, processes, truth

PI = 4 * np.arctan(np.longdouble(1))


class Published(NamedTuple):
    alpha: object
    sigma: object
    f: object
    g: object
    t_min: float
    t_max: float
    prior_std: float


def _vp(beta_min=0.1, beta_max=20.0):
    low, high = np.longdouble(str(beta_min)), np.longdouble(str(beta_max))

    def beta(t):
        return low + (high - low) * t

    def integral(t):
        return low * t + (high - low) * t * t / 2

    return beta, integral


def vp(beta_min=0.1, beta_max=20.0):
    """Song et al. 2021 (arXiv:2011.13456), eq. 11 and appendix C; eps = 1e-3 for sampling."""
    beta, integral = _vp(beta_min, beta_max)
    return Published(
        lambda t: np.exp(-integral(t) / 2),
        lambda t: np.sqrt(-np.expm1(-integral(t))),
        lambda t: -beta(t) / 2,
        lambda t: np.sqrt(beta(t)),
        1e-3,
        1.0,
        1.0,
    )


def sub_vp():
    """Song et al. 2021, eq. 28 and 29."""
    beta, integral = _vp()
    return Published(
        lambda t: np.exp(-integral(t) / 2),
        lambda t: -np.expm1(-integral(t)),
        lambda t: -beta(t) / 2,
        lambda t: np.sqrt(beta(t) * -np.expm1(-2 * integral(t))),
        1e-3,
        1.0,
        1.0,
    )


def ve():
    """Song et al. 2021, eq. 30; sigma_max = 50 for CIFAR-10 and eps = 1e-5."""
    low, ratio = np.longdouble("0.01"), np.longdouble(5000)

    def sigma(t):
        return low * np.exp(t * np.log(ratio))

    return Published(
        lambda t: np.ones_like(t),
        sigma,
        lambda t: np.zeros_like(t),
        lambda t: sigma(t) * np.sqrt(2 * np.log(ratio)),
        1e-5,
        1.0,
        50.0,
    )


def cosine():
    """Nichol and Dhariwal 2021 (arXiv:2102.09672), eq. 17; f and g from d log(alpha_bar)/dt."""
    s = np.longdouble("0.008")
    rate = PI / 2 / (1 + s)

    def angle(t):
        return (t + s) * rate

    def alpha(t):
        return np.cos(angle(t)) / np.cos(s * rate)

    return Published(
        alpha,
        lambda t: np.sqrt(1 - alpha(t) ** 2),
        lambda t: -rate * np.tan(angle(t)),
        lambda t: np.sqrt(2 * rate * np.tan(angle(t))),
        1e-3,
        0.999,
        1.0,
    )


def edm():
    """Karras et al. 2022 (arXiv:2206.00364), table 1."""
    return Published(
        lambda t: np.ones_like(t),
        lambda t: t,
        lambda t: np.zeros_like(t),
        lambda t: np.sqrt(2 * t),
        0.002,
        80.0,
        80.0,
    )


def rectified_flow():
    """x_t = (1 - t) x_0 + t eps (Esser et al. 2024, arXiv:2403.03206, eq. 13)."""
    return Published(
        lambda t: 1 - t,
        lambda t: t,
        lambda t: -1 / (1 - t),
        lambda t: np.sqrt(2 * t / (1 - t)),
        1e-3,
        1.0,
        1.0,
    )


PUBLISHED = {
    "vp": vp(),
    "sub_vp": sub_vp(),
    "ve": ve(),
    "cosine": cosine(),
    "edm": edm(),
    "rectified_flow": rectified_flow(),
}
PROCESSES = {
    "vp": processes.vp,
    "sub_vp": processes.sub_vp,
    "ve": processes.ve,
    "cosine": processes.cosine,
    "edm": processes.edm,
    "rectified_flow": processes.rectified_flow,
}
PREDICTIONS = {
    "x0": prediction.x0,
    "eps": prediction.eps,
    "score": prediction.score,
    "v": prediction.v,
    "velocity": prediction.velocity,
    "edm": prediction.edm(0.7),
}


def interior(name, n=41, dtype=np.float64):
    """Times over [t_min, t_max], dense at both ends; the singular end of the linear path is out."""
    p = PUBLISHED[name]
    width = p.t_max - p.t_min
    near = width * np.geomspace(1e-6, 0.5, n)
    ends = [p.t_min] if name == "rectified_flow" else [p.t_min, p.t_max]
    t = np.concatenate([p.t_min + near, p.t_max - near, ends])
    return np.unique(np.clip(t, p.t_min, p.t_max)).astype(dtype)


def skewed(dtype=np.float32):
    """A skewed mixture of two Gaussians on the line: weights, means, covariances."""
    parts = [0.3, 0.7], [[2.0], [-1.0]], [[[0.2]], [[0.5]]]
    return tuple(np.asarray(part, dtype) for part in parts)


def plane():
    """A skewed mixture of two anisotropic Gaussians in the plane."""
    parts = (
        [0.3, 0.7],
        [[1.5, -0.5], [-0.5, 0.8]],
        [[[0.3, 0.2], [0.2, 0.5]], [[0.6, 0.0], [0.0, 0.2]]],
    )
    return truth.mixture(*(jnp.asarray(part) for part in parts))


def smooth_grid(n, start=0.9, end=0.05):
    """Times whose square roots are equally far apart: one smooth family for orders."""
    return np.linspace(np.sqrt(start), np.sqrt(end), n + 1) ** 2


def skewed_moments(alpha, sigma):
    """Mean and central second and third moments of the noised skewed mixture, by component."""
    weights, means, covs = (part.astype(float).reshape(2) for part in skewed())
    alpha, sigma = float(alpha), float(sigma)
    m, v = alpha * means, alpha**2 * covs + sigma**2
    mean = weights @ m
    d = m - mean
    return mean, weights @ (v + d**2), weights @ (d**3 + 3 * d * v)
