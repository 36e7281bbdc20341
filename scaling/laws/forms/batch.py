"""Steps and batches: Kaplan's law of parameters and steps, and what a batch of finite size costs.

A run at a batch size B takes more steps than one at a very large batch, and more compute than one
at a very small batch. The critical batch size lies between; it turns measured steps and compute
into the least that would have done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.laws.fitting.robust import Robust
from scaling.laws.forms.form import Form
from scaling.laws.forms.powers import Power, PowerSum, Term
from scaling.laws.variables import VARIABLES

Array = NDArray[np.float64]
Number = float | Array


def critical_batch(loss: Number, b_star: float, alpha_b: float) -> Any:
    """B_crit(L) = B* / L^(1/alpha_B) (Kaplan et al. 2020, eq. 5.3).

    Args:
        loss: nats per token that the run has reached.
        b_star: B*, in tokens; the critical batch size has its unit.
        alpha_b: the exponent.
    """
    return b_star * loss ** (-1 / alpha_b)


def minimum_steps(s: Number, b: Number, b_crit: Number) -> Any:
    """S_min = S / (1 + B_crit/B): steps that a very large batch would have taken to the same loss
    (Kaplan et al. 2020, eq. 5.4; McCandlish et al. 2018, eq. 2.11).

    Args:
        s: steps that were taken.
        b: batch size, in the unit of `b_crit`.
        b_crit: the critical batch size at the loss that was reached.
    """
    return s / (1 + b_crit / b)


def minimum_compute(c: Number, b: Number, b_crit: Number) -> Any:
    """C_min = C / (1 + B/B_crit): compute that a very small batch would have taken to the same
    loss, in the unit of `c` (Kaplan et al. 2020, eq. 5.5). The law `kaplan-c` of this compute is
    Kaplan's L(C_min)."""
    return c / (1 + b / b_crit)


@dataclass(frozen=True, kw_only=True)
class CriticalBatch(PowerSum):
    """B*/L^(1/alpha_B), which the functions above need."""

    def report(self, theta_BP: Array, centre_V: Array) -> Array:
        params = super().report(theta_BP, centre_V)
        with np.errstate(divide="ignore"):
            params[:, 1] = 1 / params[:, 1]
        return params

    def internal(self, params_BP: Array) -> Array:
        theta = super().internal(params_BP)
        theta[:, 1] = 1 / theta[:, 1]
        return theta


FORMS: tuple[Form, ...] = (
    Power(
        name="kaplan-ns", formula="(N_c/N)^alpha_N + (S_c/S)^alpha_S",
        source="Kaplan et al. 2020, eq. 5.6; S is S_min, as minimum_steps gives it",
        variables=("n", "s"), parameters=("N_c", "S_c", "alpha_N", "alpha_S"),
        units={"N_c": VARIABLES["n"].unit, "S_c": VARIABLES["s"].unit},
        counting="non-embedding", distinct=3, robust=Robust("squared"),
        terms=(Term("N_c", (("n", "alpha_N"),)), Term("S_c", (("s", "alpha_S"),))),
    ),
    # Measured critical batch sizes stand in the column that is named as the loss.
    CriticalBatch(
        name="critical-batch", formula="B_star/L^(1/alpha_B)",
        source="Kaplan et al. 2020, eq. 5.3; McCandlish et al. 2018", variables=("l",),
        parameters=("B_star", "alpha_B"), units={"B_star": VARIABLES["batch"].unit},
        outcome="critical batch, tokens", robust=Robust("squared"),
        terms=(Term("B_star", (("l", "alpha_B"),)),), grid={"alpha_B": (2.0, 5.0)},
    ),
)
"""Laws of steps and batches."""
