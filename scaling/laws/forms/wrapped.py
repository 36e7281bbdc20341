"""Forms with other residuals than their own: of the outcome itself instead of its logarithm, or in
units of each run's noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from scaling.laws.forms.form import Form

Array = NDArray[np.float64]
Residuals = Literal["log", "raw"]
"""Whether residuals are of the logarithm of the outcome, as in most laws, or of the outcome."""
RESIDUALS: dict[str, Residuals] = {name: name for name in get_args(Residuals)}


@dataclass(frozen=True, kw_only=True, repr=False)
class Wrapped(Form):
    """The form `base` with another scale of its predictions; all else is that of `base`."""

    base: Form

    @property
    def exponents(self) -> tuple[str, ...]:
        return self.base.exponents

    @property
    def coefficients(self) -> tuple[str, ...]:
        return self.base.coefficients

    @property
    def constraints(self) -> dict[str, Any]:
        return self.base.constraints

    @property
    def fitted_parameters(self) -> tuple[str, ...]:
        return self.base.fitted_parameters

    @property
    def scaling_params(self) -> frozenset[str]:
        return self.base.scaling_params

    @property
    def constants(self) -> tuple[str, ...]:
        return self.base.constants

    @property
    def bounded_exponents(self) -> Mapping[str, tuple[str, ...]]:
        return self.base.bounded_exponents

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        return self.base.labels

    @property
    def has_hessian(self) -> bool:
        return self.base.has_hessian

    def undetermined(self, x_RV: Array) -> dict[str, tuple[str, ...]]:
        return self.base.undetermined(x_RV)

    def coordinates(self, values: Mapping[str, Array]) -> Array:
        return self.base.coordinates(values)

    def starts(self, x_RV: Array, outcome_R: Array) -> Array:
        return self.base.starts(x_RV, outcome_R)

    def wide_starts(self, x_RV: Array, outcome_R: Array) -> Array:
        return self.base.wide_starts(x_RV, outcome_R)

    def scaled_to(self, x_RV: Array) -> Wrapped:
        return replace(self, base=self.base.scaled_to(x_RV))

    def loss(self, params: Array, values: Mapping[str, Array]) -> Array:
        return self.base.loss(params, values)

    def to_params(self, theta_BP: Array, centre_V: Array) -> Array:
        return self.base.to_params(theta_BP, centre_V)

    def from_params(self, params_BP: Array) -> Array:
        return self.base.from_params(params_BP)

    def optimum(self, params_BP: Array, c: Array | float) -> Array | None:
        return self.base.optimum(params_BP, c)

    def allocation_exponent(self, params_BP: Array) -> Array | None:
        return self.base.allocation_exponent(params_BP)


class RawOutcome(Wrapped):
    """The form `base`, whose predictions are logarithms, as one that predicts the outcome itself.
    """

    def predict(self, theta_BP: Array, x_RV: Array) -> Array:
        return np.asarray(np.exp(self.base.predict(theta_BP, x_RV)))

    def gradient(self, theta_BP: Array, x_RV: Array) -> tuple[Array, Array]:
        log_BR, j_BRP = self.base.gradient(theta_BP, x_RV)
        outcome_BR = np.exp(log_BR)
        return outcome_BR, outcome_BR[..., None] * j_BRP

    def hessian(self, theta_BP: Array, x_RV: Array, w_BR: Array, j_BRP: Array) -> Array:
        log_BR, base_j_BRP = self.base.gradient(theta_BP, x_RV)
        w_BR = w_BR * np.exp(log_BR)
        outer_BPP = np.einsum("br,brp,brq->bpq", w_BR, base_j_BRP, base_j_BRP)
        return np.asarray(outer_BPP + self.base.hessian(theta_BP, x_RV, w_BR, base_j_BRP))


class Standardised(Wrapped):
    """The form `base` with predictions times a factor for each run, at most one, which is the last
    column of x: residuals of runs with more noise than the others are then of the same size."""

    def predict(self, theta_BP: Array, x_RV: Array) -> Array:
        return np.asarray(x_RV[:, -1] * self.base.predict(theta_BP, x_RV[:, :-1]))

    def gradient(self, theta_BP: Array, x_RV: Array) -> tuple[Array, Array]:
        prediction_BR, j_BRP = self.base.gradient(theta_BP, x_RV[:, :-1])
        return x_RV[:, -1] * prediction_BR, x_RV[:, -1:] * j_BRP

    def hessian(self, theta_BP: Array, x_RV: Array, w_BR: Array, j_BRP: Array) -> Array:
        return self.base.hessian(theta_BP, x_RV[:, :-1], w_BR * x_RV[:, -1], j_BRP / x_RV[:, -1:])

    def starts(self, x_RV: Array, outcome_R: Array) -> Array:
        return self.base.starts(x_RV[:, :-1], outcome_R)

    def wide_starts(self, x_RV: Array, outcome_R: Array) -> Array:
        return self.base.wide_starts(x_RV[:, :-1], outcome_R)


def of_raw_outcome(form: Form) -> Form:
    """The form with residuals of the outcome itself; unchanged if it has them already."""
    if form.link == "identity":
        return form
    return RawOutcome(**_fields(form) | {"link": "identity"}, base=form)


def standardised(
    form: Form, x_RV: Array, y_R: Array, factor_R: Array
) -> tuple[Form, Array, Array]:
    """The form, its variables and the outcomes with residuals times a factor for each run;
    unchanged if all factors are one."""
    if (factor_R == 1).all():
        return form, x_RV, y_R
    return (Standardised(**_fields(form), base=form), np.column_stack([x_RV, factor_R]),
            factor_R * y_R)


def _fields(form: Form) -> dict[str, Any]:
    return {name: getattr(form, name) for name in Form.__dataclass_fields__}


def is_raw(form: Form) -> bool:
    """Whether a form has residuals of the outcome that is not its own choice."""
    return form.link != unwrapped(form).link


def unwrapped(form: Form) -> Form:
    """The form of the catalogue, or the user's own, below constraints and other residuals."""
    while isinstance(base := getattr(form, "base", None), Form):
        form = base
    return form
