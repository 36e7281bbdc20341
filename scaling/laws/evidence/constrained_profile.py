"""A form with a quadratic penalty that holds any quantity of a law near a value.

`constrain` fixes parameters that are coordinates of their own. A profile must also hold other
quantities: Kaplan's N_c, which mixes two coordinates, or the exponent a of the optimum, which is
not a parameter. Here one row is added to the runs, whose outcome is the target value and whose
prediction is the quantity; its weight is the strength of the penalty. A penalised fit ends at the
lowest objective among all laws with *its* value of the quantity, so the profile there is exact,
and only the value differs slightly from the target.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.laws.forms.form import Form

Array = NDArray[np.float64]
Quantity = Callable[[Array], Array]
"""A function from theta [B, P] to values [B]."""

_STEP = 1e-5          # of theta, in differences of the quantity
_HESSIAN_STEP = 3e-4  # of theta, in differences of its gradient, which has more rounding error


def quantity_gradient(quantity: Quantity, theta_BP: Array) -> Array:
    """The gradient of a quantity by theta, by central differences: [B, P]; zero where it is not
    finite."""
    count = theta_BP.shape[1]
    steps = _STEP * np.concatenate([np.eye(count), -np.eye(count)])
    points = theta_BP[:, None] + steps
    with np.errstate(all="ignore"):
        ends = quantity(points.reshape(-1, count)).reshape(len(theta_BP), 2, count)
        gradient = (ends[:, 0] - ends[:, 1]) / (2 * _STEP)
    return np.where(np.isfinite(gradient), gradient, 0.0)


def add_quantity_row(form: Form, quantity: Quantity) -> FormWithQuantityRow:
    """The form with one more row, whose prediction is the quantity."""
    common: dict[str, Any] = {name: getattr(form, name) for name in Form.__dataclass_fields__}
    return FormWithQuantityRow(**common, base=form, quantity=quantity)


@dataclass(frozen=True, kw_only=True, repr=False)
class FormWithQuantityRow(Form):
    """`base` with one more row of x, the last, whose prediction is the quantity."""

    base: Form
    quantity: Quantity

    @property
    def exponents(self) -> tuple[str, ...]:
        return self.base.exponents

    def predict(self, theta_BP: Array, x_RV: Array) -> Array:
        runs = self.base.predict(theta_BP, x_RV[:-1])
        return np.concatenate([runs, self.quantity(theta_BP)[:, None]], axis=1)

    def gradient(self, theta_BP: Array, x_RV: Array) -> tuple[Array, Array]:
        runs, j_BRP = self.base.gradient(theta_BP, x_RV[:-1])
        if not np.isfinite(j_BRP).all():
            # Far along a flat direction a parameter overflows, and no prediction depends on it.
            runs = self.base.predict(theta_BP, x_RV[:-1])
            j_BRP = np.where(np.isfinite(j_BRP), j_BRP, 0.0)
        value, gradient = self.quantity(theta_BP), quantity_gradient(self.quantity, theta_BP)
        return (np.concatenate([runs, value[:, None]], axis=1),
                np.concatenate([j_BRP, gradient[:, None]], axis=1))

    def hessian(self, theta_BP: Array, x_RV: Array, w_BR: Array, j_BRP: Array) -> Array:
        h_BPP = self.base.hessian(theta_BP, x_RV[:-1], w_BR[:, :-1], j_BRP[:, :-1])
        h_BPP = np.where(np.isfinite(h_BPP), h_BPP, 0.0)
        count = theta_BP.shape[1]
        steps = _HESSIAN_STEP * np.concatenate([np.eye(count), -np.eye(count)])
        gradients = quantity_gradient(
            self.quantity, (theta_BP[:, None] + steps).reshape(-1, count))
        ends = gradients.reshape(-1, 2, count, count)
        quantity_h_BPP = (ends[:, 0] - ends[:, 1]) / (2 * _HESSIAN_STEP)
        quantity_h_BPP = (quantity_h_BPP + quantity_h_BPP.swapaxes(-1, -2)) / 2
        return np.asarray(h_BPP + w_BR[:, -1, None, None] * quantity_h_BPP)

    def starts(self, x_RV: Array, outcome_R: Array) -> Array:
        return self.base.starts(x_RV[:-1], outcome_R[:-1])

    def to_params(self, theta_BP: Array, centre_V: Array) -> Array:
        return self.base.to_params(theta_BP, centre_V)

    def from_params(self, params_BP: Array) -> Array:
        return self.base.from_params(params_BP)
