"""The law of low-precision training, in which fewer bits reduce the effective parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from scaling.laws.forms.form import Form
from scaling.laws.forms.formula import Formula


@dataclass(frozen=True, kw_only=True, repr=False)
class Precision(Formula):
    """A/N_eff^alpha + B/D^beta + E with N_eff = N (1 - exp(-P/gamma))^parts.

    `parts` is the number of weights, activations and cache that have P bits; the rest have enough
    bits to count in full. If all three have P bits, their gammas cannot be distinguished, and gamma
    is what the paper calls their average (Kumar et al. 2024, eqs. 4 and 6).
    """

    parts: int

    def outcome_of(self, p: Any, v: Any) -> Any:
        effective_share = -np.expm1(-v.bits / p.gamma)
        n_eff = v.n * effective_share**self.parts
        return p.E + p.A * n_eff**-p.alpha + p.B * v.d**-p.beta


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
"""Laws of precision: of weights, activations and cache together, and of weights only."""
