"""The grids of times that sampling steps through.

A grid runs from t_max down to t_min, [n + 1] times for n steps; samplers take one more denoising
step from t_min to the data. Grids are differentiable in the fields of the process.

``discrete`` and its relatives are factories: their times are some of the levels of a process that
was trained on levels, 1 (t_min) to T (t_max). They differ in which: with the denoising step n steps
visit n + 1 levels, S = n + 1 in the table of Lin et al. 2023 (arXiv:2305.08891, table 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sdejax.sde import SDE, log_snr
from sdejax.types import Scalar, Times

Grid = Callable[[SDE, int], Times]


def uniform(sde: SDE, n: int) -> Times:
    """n steps of equal length in t.

    Args:
        sde: the process.
        n: number of steps.

    Returns:
        [n + 1] times from t_max to t_min.
    """
    return jnp.linspace(sde.t_max, sde.t_min, n + 1)


def quadratic(sde: SDE, n: int) -> Times:
    """Equal steps in sqrt(t): more of them near the data.

    Args:
        sde: the process.
        n: number of steps.

    Returns:
        [n + 1] times from t_max to t_min.

    Reference: Song et al. 2020, arXiv:2010.02502, appendix D.2.
    """
    roots = jnp.linspace(jnp.sqrt(sde.t_max), jnp.sqrt(sde.t_min), n + 1)
    return _with_ends(sde, roots**2)


def uniform_log_snr(sde: SDE, n: int) -> Times:
    """Equal steps in log-SNR.

    Args:
        sde: the process, with finite log-SNR at t_max.
        n: number of steps.

    Returns:
        [n + 1] times from t_max to t_min.

    Raises:
        ValueError: where the log-SNR at t_max is infinite.

    Reference: Lu et al. 2022, arXiv:2206.00927, section 3.3.
    """
    low, high = _finite_log_snrs("uniform_log_snr", sde)
    return _with_ends(sde, jax.vmap(sde.time_of_log_snr)(jnp.linspace(low, high, n + 1)))


def karras(sde: SDE, n: int, rho: float = 7.0) -> Times:
    """Equal steps in (sigma/alpha)^(1/rho), for any process.

    Args:
        sde: the process, with finite log-SNR at t_max.
        n: number of steps.
        rho: how much shorter the steps near the data are.

    Returns:
        [n + 1] times from t_max to t_min.

    Raises:
        ValueError: where sigma/alpha at t_max is infinite.

    Reference: Karras et al. 2022, arXiv:2206.00364, eq. 5.
    """
    low, high = _finite_log_snrs("karras", sde)
    roots = jnp.linspace(jnp.exp(-0.5 * low / rho), jnp.exp(-0.5 * high / rho), n + 1)
    return _with_ends(sde, jax.vmap(sde.time_of_log_snr)(-2.0 * rho * jnp.log(roots)))


def discrete(levels: int = 1000) -> Grid:
    """The levels of a DDPM, evenly from the last to the first ("linspace").

    Args:
        levels: T, how many levels the process has, evenly in t from t_min to t_max; with VP's 1e-3
            to 1 and T = 1000 level j is at t = j/1000.

    Returns:
        A grid whose times are the levels round(linspace(T, 1, n + 1)).

    Raises:
        ValueError: by the grid, for more steps than there are levels to go.

    Reference: Ho et al. 2020, arXiv:2006.11239, section 4; Nichol and Dhariwal 2021,
    arXiv:2102.09672, section 4.
    """
    return lambda sde, n: _at_levels(sde, levels, n, np.round(np.linspace(levels, 1, n + 1)))


def discrete_trailing(levels: int = 1000) -> Grid:
    """The levels of a DDPM by equal strides down from the last, which end one stride above 0.

    The denoising step is the last stride, from level T/(n + 1) to the data: the spacing to choose
    for few steps with a network that was trained on levels.

    Args:
        levels: T, how many levels the process has, evenly in t from t_min to t_max.

    Returns:
        A grid whose times are the levels round(T - i T/(n + 1)), i = 0..n; it ends above t_min.

    Raises:
        ValueError: by the grid, for more steps than there are levels to go.

    Reference: Lin et al. 2023, arXiv:2305.08891, table 2.
    """
    return lambda sde, n: _at_levels(
        sde, levels, n, np.round(levels - np.arange(n + 1) * levels / (n + 1))
    )


def discrete_leading(levels: int = 1000) -> Grid:
    """The levels of a DDPM by equal whole strides up from the first: DDIM's own.

    It starts below t_max, so a state of the prior is taken for one with less noise: a bias that
    published figures of few steps contain. Use it to reproduce them, on VP.

    Args:
        levels: T, how many levels the process has, evenly in t from t_min to t_max.

    Returns:
        A grid whose times are the levels 1 + i floor(T/(n + 1)), i = n..0.

    Raises:
        ValueError: by the grid, for more steps than there are levels to go.

    Reference: Song et al. 2020, arXiv:2010.02502, appendix D.2 (linear); Lin et al. 2023,
    arXiv:2305.08891, table 2 and section 3.3.
    """
    return lambda sde, n: _at_levels(
        sde, levels, n, 1.0 + np.arange(n, -1, -1) * (levels // (n + 1))
    )


def shifted(grid: Grid, shift: float) -> Grid:
    """A grid moved towards noise, as larger images need: (sigma/alpha) times ``shift``.

    On the linear path t -> shift t / (1 + (shift - 1) t), which lowers the log-SNR of every time by
    2 log(shift). Any process is read as the linear path by its share of noise
    u = sigma / (alpha + sigma), and where its ends are not noise alone and data alone, it is its
    place w between them, u = u_min + w (u_max - u_min), that is moved: the ends stay, the grid
    stays decreasing, and times away from the ends move by 2 log(shift) still.

    Args:
        grid: the grid to be moved.
        shift: sqrt(m/n) for images of m pixels where the grid was made for n; SD3 uses 3.

    Returns:
        The moved grid.

    Raises:
        ValueError: unless shift > 0.

    Reference: Esser et al. 2024, arXiv:2403.03206, eq. 23; Hoogeboom et al. 2023, arXiv:2301.11093,
    section 3.1.
    """
    if not 0.0 < shift < math.inf:
        raise ValueError(f"shifted: got shift={shift}; expected a finite number > 0")

    def noise_share(sde, t):
        alpha, sigma = jnp.asarray(sde.alpha(t)), jnp.asarray(sde.sigma(t))
        return sigma / (alpha + sigma)

    def moved(sde: SDE, n: int) -> Times:
        low, high = noise_share(sde, sde.t_min), noise_share(sde, sde.t_max)

        def move(t):
            inside = (t > sde.t_min) & (t < sde.t_max)  # the log-SNR of an end may be infinite
            w = (noise_share(sde, t) - low) / (high - low)
            w = jnp.where(inside, shift * w / (1.0 + (shift - 1.0) * w), 0.5)
            u = low + (high - low) * w
            return jnp.where(inside, sde.time_of_log_snr(2.0 * (jnp.log1p(-u) - jnp.log(u))), t)

        return jax.vmap(move)(grid(sde, n))

    return moved


def from_times(ts: Float[Array, " n"] | np.ndarray) -> Grid:
    """A grid of one's own, e.g. of ``optimize_grid``.

    Args:
        ts: [n + 1] decreasing times.

    Returns:
        A grid for n steps; its ends need not be t_max and t_min.

    Raises:
        ValueError: for times that are not decreasing; by the grid, for another number of steps and
            for times outside [t_min, t_max]. Traced values are let through.
    """
    if ts.ndim != 1 or ts.shape[0] < 2:
        raise ValueError(f"from_times: got an array of shape {ts.shape}; expected [n + 1], n >= 1")
    traced = isinstance(ts, jax.core.Tracer)
    require_decreasing(ts)
    if not traced:
        ts = np.asarray(ts)  # keeps float64 where the session is in float32

    def given(sde: SDE, n: int) -> Times:
        if n != ts.shape[0] - 1:
            raise ValueError(
                f"from_times: got steps={n} for {ts.shape[0]} times; expected {ts.shape[0] - 1}"
            )
        ends = (sde.t_min, sde.t_max)
        if not traced and not any(isinstance(end, jax.core.Tracer) for end in ends):
            low, high = (np.asarray(end, ts.dtype) for end in ends)  # rounded as the times are
            if ts[-1] < low or ts[0] > high:
                raise ValueError(
                    f"from_times: got times from {ts[0]} to {ts[-1]}; expected them in "
                    f"[t_min, t_max] = [{low}, {high}] of {type(sde).__name__}"
                )
        return jnp.asarray(ts, jnp.result_type(float))

    return given


def require_decreasing(ts: Float[Array, " n"] | np.ndarray) -> None:
    """Refuses times that do not run from noise down to data; traced values are let through.

    Args:
        ts: [n + 1] times.

    Raises:
        ValueError: naming the first pair that is out of order.
    """
    if isinstance(ts, jax.core.Tracer):
        return
    falling = np.diff(np.asarray(ts)) < 0
    if not np.all(falling):
        at = int(np.argmin(falling))
        raise ValueError(
            f"grid: got {ts[at]} before {ts[at + 1]} at index {at}; expected decreasing "
            "times, from noise (t_max) to data (t_min)"
        )


def _at_levels(sde: SDE, levels: int, n: int, index: np.ndarray) -> Times:
    """The times of decreasing levels, 1 at t_min and ``levels`` at t_max."""
    if n + 1 > levels:
        raise ValueError(
            f"discrete: got steps={n} for {levels} levels; expected at most {levels - 1}"
        )
    place = jnp.asarray((index - 1.0) / (levels - 1.0), jnp.result_type(float))
    ts = sde.t_min + place * (sde.t_max - sde.t_min)
    return jnp.where(place == 1.0, sde.t_max, jnp.where(place == 0.0, sde.t_min, ts))


def _with_ends(sde: SDE, ts: Float[Array, " n"]) -> Times:
    """``ts`` with its ends set to t_max and t_min, which an inverse meets only to rounding."""
    return ts.at[0].set(sde.t_max).at[-1].set(sde.t_min)


def _finite_log_snrs(name: str, sde: SDE) -> tuple[Scalar, Scalar]:
    """log-SNR at t_max and t_min, refused by name where it is infinite."""
    low, high = log_snr(sde, sde.t_max), log_snr(sde, sde.t_min)
    if not isinstance(low, jax.core.Tracer) and not math.isfinite(float(low)):
        raise ValueError(
            f"{name}: got t_max={float(sde.t_max)}, where alpha = 0 and the log-SNR is infinite; "
            "use grids.uniform or grids.quadratic, or a process with a smaller t_max"
        )
    return low, high
