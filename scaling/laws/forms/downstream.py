"""Errors and accuracies of downstream tasks as functions of the loss.

`scaling.laws.allocation.chain` composes one of these laws with a law of the loss.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.laws.forms.form import Form
from scaling.laws.forms.formula import Formula
from scaling.laws.forms.losses import ResidualLoss

Array = NDArray[np.float64]

_MIDPOINT_QUANTILES = (0.1, 0.35, 0.6, 0.85)  # of the losses: initial midpoints of a sigmoid


@dataclass(frozen=True, kw_only=True, repr=False)
class Error(Formula):
    """epsilon - k exp(-gamma L): chance level at high loss, with an exponential decrease."""

    @property
    def exponents(self) -> tuple[str, ...]:
        return ("gamma",)

    @property
    def scaling_params(self) -> frozenset[str]:
        return frozenset({"k", "gamma"})

    def outcome_of(self, p: Any, v: Any) -> Any:
        return p.epsilon - p.k * np.exp(-p.gamma * v.l)


@dataclass(frozen=True, kw_only=True, repr=False)
class Accuracy(Formula):
    """best - span / (1 + exp(-k (L - L_0))): from `best` at low loss down to best - span.

    The paper's a is minus `span`, and its b is `best`.
    """

    @property
    def exponents(self) -> tuple[str, ...]:
        return ("k",)

    @property
    def scaling_params(self) -> frozenset[str]:
        return frozenset(self.parameters)

    def outcome_of(self, p: Any, v: Any) -> Any:
        return p.best - p.span / (1 + np.exp(-p.k * (v.l - p.L_0)))

    def starts(self, x_RV: Array, outcome_R: Array) -> Array:
        midpoints = tuple(map(float, np.quantile(x_RV[:, 0], _MIDPOINT_QUANTILES)))
        return Formula.starts(replace(self, grid={**self.grid, "L_0": midpoints}), x_RV, outcome_R)


FORMS: tuple[Form, ...] = (
    Error(
        name="gadre-error", formula="epsilon - k exp(-gamma L)",
        source="Gadre et al. 2024, arXiv:2403.08540, eq. 5", variables=("l",),
        parameters=("epsilon", "k", "gamma"), units={"gamma": "tokens per nat"}, distinct=3,
        outcome="error", link="identity", robust=ResidualLoss("squared"),
        linear=("epsilon", "k"), signed=("k",), grid={"gamma": (0.2, 0.5, 1.0, 2.0)},
    ),
    Accuracy(
        name="olmo-accuracy", formula="best - span/(1 + exp(-k (L - L_0)))",
        source="Bhagia et al. 2024 (OLMo ladder), arXiv:2412.04403, eq. 3", variables=("l",),
        parameters=("best", "span", "k", "L_0"),
        units={"k": "tokens per nat", "L_0": "nats per token"}, distinct=4,
        outcome="accuracy", link="identity", robust=ResidualLoss("squared"),
        linear=("best", "span"), signed=("span", "L_0"), grid={"k": (1.0, 3.0, 10.0)},
    ),
)
"""Errors and accuracies, as fractions of one, from the loss on a validation text or on the task."""
