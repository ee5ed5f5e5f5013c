"""What the tests of deterministic samplers share: exact histories, and grids that start gently.

The first steps of a method of k steps are of lower order, so on an ordinary grid its start
dominates. Its formula is judged by one step with an exact history, whose error is h^(k+1), and the
whole of it on a grid whose first steps are small, t = a + (b - a) u^2.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from oracles import plane

from sdejax import truth
from sdejax.samplers.base import sample
from sdejax.samplers.multistep import Memory

KEY = jax.random.key(0)
MEAN, COVARIANCE = [0.5, -1.0], [[1.0, 0.4], [0.4, 0.5]]
LENGTHS = 0.1 / 2.0 ** np.arange(5)
SPACING = np.asarray([4.3, 3.1, 2.2, 1.0, 0.0, -1.0])  # uneven, in units of h


def gaussian():
    return truth.gaussian(jnp.asarray(MEAN), jnp.asarray(COVARIANCE))


def one_step_errors(sampler, sde, pick, history, lengths=LENGTHS):
    """Errors of one step of length h in the half log-SNR, ``history`` evaluations exact before it.

    Of a Gaussian, whose trajectories are known in closed form.
    """
    dist, z = gaussian(), jnp.asarray([0.7, -1.3])
    denoiser = truth.denoiser(dist, sde)

    def error(h):
        levels = 2.0 * (0.4 - h * jnp.asarray(SPACING[-history - 1 :]))
        ts = jax.vmap(sde.time_of_log_snr)(levels)
        x = jax.vmap(lambda t: truth.gaussian_flow(dist, sde, z, t))(ts)
        m = jax.vmap(lambda x, t: pick(denoiser(x, t)))(x, ts)
        row = jax.tree.map(lambda leaf: leaf[-1], sampler.prepare(sde, ts))
        past = tuple(m[history - 2 - j] for j in range(history - 1))
        end = sampler.step(denoiser, KEY, Memory(x[-2], past), row).x
        return jnp.max(jnp.abs(end - x[-1]))

    return np.asarray(jax.jit(jax.vmap(error))(jnp.asarray(lengths)))


def gentle(n, start, end, total):
    """n steps from ``start`` to ``end``, the first of them small, then steps of length zero."""
    grid = start + (end - start) * (np.arange(n + 1) / n) ** 2
    return np.pad(grid, (0, total - n), mode="edge")


@functools.cache
def _states():
    return np.random.default_rng(0).normal(size=(8, 2))


def errors_on_gentle_grids(sampler, sde, ns, start=0.9, end=0.05):
    """RMS errors on the mixture of ``plane`` for n steps; one compilation serves all n.

    A step of length zero at the end changes nothing but that UniPC corrects its last state.
    """
    denoiser, x = truth.denoiser(plane(), sde), jnp.asarray(_states())
    exact = jax.jit(
        jax.vmap(lambda x: truth.reference(sde, denoiser, x, jnp.asarray([start, end]))[-1])
    )(x)

    @jax.jit
    def run(ts):
        def one(x):
            return sample(KEY, sampler, sde, denoiser, x, ts, denoise=False)[0]

        return jnp.sqrt(jnp.mean((jax.vmap(one)(x) - exact) ** 2))

    return np.asarray([run(jnp.asarray(gentle(n, start, end, ns[-1] + 2))) for n in ns])
