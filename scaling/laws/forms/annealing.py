"""The law of the whole loss curve of a run under any learning rate schedule."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling.errors import UserError
from scaling.laws.forms.form import Form
from scaling.laws.forms.formula import Formula

Array = NDArray[np.float64]

DECAY = 0.999
"""lambda: the factor per step by which the effect of a drop of the learning rate decays."""


def annealing_areas(
    rates: ArrayLike, decay: float = DECAY, warmup: int = 0
) -> tuple[Array, Array]:
    """S1 and S2 after every step of a schedule, [steps] each: the variables of `tissue`.

    S1(s) = sum_{i<=s} eta_i. S2(s) = sum_{i<=s} sum_{k<=i} (eta_{k-1} - eta_k) decay^(i-k): every
    drop of the learning rate contributes to all later steps, with decaying weight (Tissue et al.
    2024, section 3).

    A rise counts as a negative drop. Warm-up steps count as steps at the rate that follows the
    warm-up, as in the authors' fits.

    Args:
        rates: learning rate of every step, [steps].
        decay: lambda, from 0 to 1.
        warmup: number of warm-up steps.

    Raises:
        UserError: a rate is negative, infinite or NaN, or lambda or the warm-up is out of range.
    """
    eta = np.array(rates, dtype=float)
    if eta.ndim != 1 or not (np.isfinite(eta) & (eta >= 0)).all():
        raise UserError("learning rates: one non-negative number is expected for every step")
    if not 0 <= decay <= 1:
        raise UserError(f"decay {decay:g}: a number from 0 to 1 is expected, such as {DECAY:g}")
    if not 0 <= warmup < max(1, len(eta)):
        raise UserError(f"warmup {warmup}: a non-negative number of steps is expected, less than "
                        f"the {len(eta)} of the schedule")
    eta[:warmup] = eta[warmup:warmup + 1]
    drops = -np.diff(eta, prepend=eta[:1])
    decayed = itertools.accumulate(drops, lambda sum_before, drop: decay * sum_before + drop)
    return np.cumsum(eta), np.cumsum(np.fromiter(decayed, dtype=float, count=len(drops)))


@dataclass(frozen=True, kw_only=True, repr=False)
class Annealing(Formula):
    """L_0 + A S1^-alpha - C S2: the loss at any step of any schedule, for one model size."""

    @property
    def scaling_params(self) -> frozenset[str]:
        return frozenset(self.parameters) - {"L_0"}

    def outcome_of(self, p: Any, v: Any) -> Any:
        return p.L_0 + p.A * v.lr_area**-p.alpha - p.C * v.drop_area


FORMS: tuple[Form, ...] = (
    Annealing(
        name="tissue", formula="L_0 + A S1^-alpha - C S2",
        source="Tissue et al. 2024, eq. 1; annealing_areas gives S1 and S2",
        variables=("lr_area", "drop_area"), parameters=("L_0", "A", "C", "alpha"),
        signed=("C",), linear=("L_0", "A", "C"),
        grid={"alpha": (0.15, 0.3, 0.5, 0.8, 1.2)},
    ),
)
"""Laws of the learning rate schedule."""
