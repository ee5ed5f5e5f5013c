"""Adams-Bashforth methods of the probability-flow ODE: LMS, DEIS and exponential Adams.

All integrate a polynomial through the last k evaluations (``sdejax.samplers.exponential``) and
differ in the half of the estimate and in the variable. The first steps, with fewer evaluations
behind them, are of order 1, 2, ..., k - 1, as in the papers.
"""

from __future__ import annotations

from sdejax.samplers.base import Sampler
from sdejax.samplers.exponential import (
    DATA,
    LOG_RATIO,
    NOISE,
    RATIO,
    TIME,
    Form,
    Variable,
    adams,
    first_order,
)
from sdejax.samplers.levels import require_level
from sdejax.samplers.multistep import HistoryRow, multistep, require_order, rising_orders
from sdejax.sde import SDE
from sdejax.types import Time, Times


def lms(order: int = 4) -> Sampler:
    """Linear multistep (Adams-Bashforth) in r = sigma/alpha: polynomials of r through eps.

    Keeps its order on the step to sigma = 0. Order 1 is DDIM.

    Args:
        order: 1 to 4.

    Returns:
        The sampler, one evaluation a step.

    Raises:
        ValueError: for another order.

    Reference: Liu et al. 2022, arXiv:2202.09778 (PNDM, on even steps); Zhang and Chen 2022,
    arXiv:2204.13902 (rhoAB-DEIS); Hairer, Norsett and Wanner 1993, section III.5.
    """
    return _adams("lms", NOISE, RATIO, order)


def deis(order: int = 3) -> Sampler:
    """DEIS: the exponential integrator with polynomials of log(sigma/alpha) through eps.

    The step to sigma = 0, where the logarithm is infinite, is of order 1.

    Args:
        order: 1 to 4.

    Returns:
        The sampler, one evaluation a step.

    Raises:
        ValueError: for another order.

    Reference: Zhang and Chen 2022, arXiv:2204.13902, with the polynomial in log rho
    where theirs is in t or rho.
    """
    return _adams("deis", NOISE, LOG_RATIO, order)


def t_deis(order: int = 3) -> Sampler:
    """tAB-DEIS: the exponential integrator with polynomials of t through eps.

    Args:
        order: 1 to 4.

    Returns:
        The sampler, one evaluation a step.

    Raises:
        ValueError: for another order.

    Reference: Zhang and Chen 2022, arXiv:2204.13902 (tAB-DEIS).
    """
    return _adams("t_deis", NOISE, TIME, order)


def exponential_adams(order: int = 3) -> Sampler:
    """The exponential integrator with polynomials of the log-SNR through x0.

    What DPM-Solver++ 2M and 3M approximate; order k needs no further terms.

    Args:
        order: 1 to 4.

    Returns:
        The sampler, one evaluation a step; that to sigma = 0 is of order 1.

    Raises:
        ValueError: for another order.

    Reference: Hochbruck and Ostermann 2010, Exponential integrators (the multistep ones); Lu et al.
    2022, arXiv:2211.01095, section 4.1.
    """
    return _adams("exponential_adams", DATA, LOG_RATIO, order)


def _adams(name: str, form: Form, variable: Variable, order: int) -> Sampler:
    require_order(name, order, 4)

    def prepare(sde: SDE, ts: Times) -> HistoryRow:
        orders = rising_orders(ts.shape[0] - 1, order)
        a, _ = first_order(form, sde, ts)
        return HistoryRow(ts[:-1], a, adams(form, variable, sde, ts, order, orders), None)

    def require(sde: SDE, t: Time) -> None:
        if form is NOISE:
            require_level(name, sde, t)

    return multistep(prepare, form.pick, order, require)
