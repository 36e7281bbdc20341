"""Laws of steps and batch size: of N and steps, of N, steps and batch, and the critical batch size.

A run with batch size B takes more steps than one with a very large batch, and more compute than one
with a very small batch. The critical batch size lies between the two, and converts measured steps
and compute to their minimum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.laws.forms.form import Form
from scaling.laws.forms.losses import ResidualLoss
from scaling.laws.forms.powers import Power, PowerSum, Term
from scaling.laws.forms.variables import VARIABLES

Array = NDArray[np.float64]
Number = float | Array


def critical_batch(loss: Number, b_star: float, alpha_b: float) -> Any:
    """B_crit(L) = B* / L^(1/alpha_B) (Kaplan et al. 2020, eq. 5.3).

    Args:
        loss: loss of the run, in nats per token.
        b_star: B*, in tokens, the unit of the result.
        alpha_b: the exponent.
    """
    return b_star * loss ** (-1 / alpha_b)


def minimum_steps(s: Number, b: Number, b_crit: Number) -> Any:
    """S_min = S / (1 + B_crit/B): steps to the same loss with a very large batch (Kaplan et al.
    2020, eq. 5.4; McCandlish et al. 2018, eq. 2.11).

    Args:
        s: measured steps.
        b: batch size, in the unit of `b_crit`.
        b_crit: critical batch size at the loss of the run.
    """
    return s / (1 + b_crit / b)


def minimum_compute(c: Number, b: Number, b_crit: Number) -> Any:
    """C_min = C / (1 + B/B_crit): compute to the same loss with a very small batch, in the unit of
    `c` (Kaplan et al. 2020, eq. 5.5). The law `kaplan-c` fitted to this compute is Kaplan's
    L(C_min)."""
    return c / (1 + b / b_crit)


@dataclass(frozen=True, kw_only=True, repr=False)
class CriticalBatch(PowerSum):
    """B*/L^(1/alpha_B), the critical batch size as a function of the loss."""

    def to_params(self, theta_BP: Array, centre_V: Array) -> Array:
        params = super().to_params(theta_BP, centre_V)
        with np.errstate(divide="ignore"):
            params[:, 1] = 1 / params[:, 1]
        return params

    def from_params(self, params_BP: Array) -> Array:
        theta = super().from_params(params_BP)
        theta[:, 1] = 1 / theta[:, 1]
        return theta


FORMS: tuple[Form, ...] = (
    Power(
        name="kaplan-ns", formula="(N_c/N)^alpha_N + (S_c/S)^alpha_S",
        source="Kaplan et al. 2020, eq. 5.6; S is S_min, as minimum_steps computes it",
        variables=("n", "s"), parameters=("N_c", "S_c", "alpha_N", "alpha_S"),
        units={"N_c": VARIABLES["n"].unit, "S_c": VARIABLES["s"].unit},
        counting="non-embedding", distinct=3, robust=ResidualLoss("squared"),
        terms=(Term("N_c", (("n", "alpha_N"),)), Term("S_c", (("s", "alpha_S"),))),
    ),
    # The batch is M and S is K in the paper, whose beta is that of M and whose gamma is that of K.
    # The equation was read in a summary of the paper, and its constants were not checked.
    PowerSum(
        name="schaipp", formula="E + A/N^alpha + B/batch^gamma + C/S^beta",
        source="Schaipp 2026 (three-term law), arXiv:2607.01487",
        variables=("n", "batch", "s"),
        parameters=("E", "A", "B", "C", "alpha", "gamma", "beta"), distinct=3,
        terms=(Term("E"), Term("A", (("n", "alpha"),)), Term("B", (("batch", "gamma"),)),
               Term("C", (("s", "beta"),))),
        grid={"alpha": (0.15, 0.35, 0.6), "gamma": (0.15, 0.4, 0.8), "beta": (0.15, 0.35, 0.6)},
    ),
    # The outcome, measured critical batch sizes, is in the column that is given as the loss.
    CriticalBatch(
        name="critical-batch", formula="B_star/L^(1/alpha_B)",
        source="Kaplan et al. 2020, eq. 5.3; McCandlish et al. 2018", variables=("l",),
        parameters=("B_star", "alpha_B"), units={"B_star": VARIABLES["batch"].unit},
        outcome="critical batch, tokens", robust=ResidualLoss("squared"),
        terms=(Term("B_star", (("l", "alpha_B"),)),), grid={"alpha_B": (2.0, 5.0)},
    ),
)
"""Laws of steps and batch size."""
