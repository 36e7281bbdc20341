"""The law of training in few bits: fewer bits are worth fewer parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from scaling.laws.forms.form import Form
from scaling.laws.forms.formula import Formula


@dataclass(frozen=True, kw_only=True)
class Precision(Formula):
    """A/N_eff^alpha + B/D^beta + E with N_eff = N (1 - exp(-P/gamma))^parts.

    `parts` is how many of weights, activations and cache have P bits; the others have enough to
    count in full. With all three at P bits their gammas cannot be told apart, and gamma is what
    the paper calls their average (Kumar et al. 2024, eqs. 4 and 6).
    """

    parts: int

    def outcome_of(self, p: Any, v: Any) -> Any:
        worth = -np.expm1(-v.bits / p.gamma)
        return p.E + p.A * (v.n * worth**self.parts) ** -p.alpha + p.B * v.d**-p.beta


def _precision(name: str, parts: int, power: str) -> Precision:
    return Precision(
        name=name, formula=f"E + A/(N (1 - exp(-P/gamma)){power})^alpha + B/D^beta",
        source="Kumar et al. 2024, eqs. 3 and 4", variables=("n", "d", "bits"),
        parameters=("E", "A", "B", "alpha", "beta", "gamma"), units={"gamma": "bits"},
        linear=("E", "A", "B"), distinct=3, parts=parts,
        grid={"alpha": (0.15, 0.35, 0.6), "beta": (0.15, 0.35, 0.6), "gamma": (0.7, 2.5)},
    )


FORMS: tuple[Form, ...] = (
    _precision("kumar", 3, "^3"),
    _precision("kumar-weights", 1, ""),
)
"""Laws of precision: of weights, activations and cache together, and of weights alone."""
