"""A fit that holds any quantity of a law near a value.

`constrain` fixes parameters that are coordinates of their own. A profile has to hold others as
well: Kaplan's N_c, which mixes two coordinates, or the exponent a of the optimum, which is no
parameter at all. Here a spring holds the quantity: one row is
added to the runs, whose outcome is the target and whose prediction is the quantity. Wherever such
a fit ends, it ends at the lowest objective among all laws with *that* value of the quantity, so
the profile there is exact, and only its place on the axis differs a little from the target.
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
"""From theta [B, P] to a number for each, [B]."""

_STEP = 1e-5       # of theta, in differences of the quantity,
_BEND_STEP = 3e-4  # and in differences of its slope, which have more rounding in them


def slope_of(quantity: Quantity, theta_BP: Array) -> Array:
    """The derivative of a quantity by theta, by central differences: [B, P]."""
    count = theta_BP.shape[1]
    steps = _STEP * np.concatenate([np.eye(count), -np.eye(count)])
    points = theta_BP[:, None] + steps
    with np.errstate(all="ignore"):
        ends = quantity(points.reshape(-1, count)).reshape(len(theta_BP), 2, count)
        slope = (ends[:, 0] - ends[:, 1]) / (2 * _STEP)
    return np.where(np.isfinite(slope), slope, 0.0)


def pin(form: Form, quantity: Quantity) -> Pinned:
    """The form, with a row that is predicted as the quantity."""
    common: dict[str, Any] = {name: getattr(form, name) for name in Form.__dataclass_fields__}
    return Pinned(**common, of=form, quantity=quantity)


@dataclass(frozen=True, kw_only=True)
class Pinned(Form):
    """`of`, with one more row of x, the last, that is predicted as the quantity."""

    of: Form
    quantity: Quantity

    @property
    def exponents(self) -> tuple[str, ...]:
        return self.of.exponents

    def predict(self, theta_BP: Array, x_RV: Array) -> Array:
        runs = self.of.predict(theta_BP, x_RV[:-1])
        return np.concatenate([runs, self.quantity(theta_BP)[:, None]], axis=1)

    def gradient(self, theta_BP: Array, x_RV: Array) -> tuple[Array, Array]:
        runs, j_BRP = self.of.gradient(theta_BP, x_RV[:-1])
        if not np.isfinite(j_BRP).all():
            # Far along a flat direction a parameter overflows, and nothing depends on it any more.
            runs = self.of.predict(theta_BP, x_RV[:-1])
            j_BRP = np.where(np.isfinite(j_BRP), j_BRP, 0.0)
        pin, slope = self.quantity(theta_BP), slope_of(self.quantity, theta_BP)
        return (np.concatenate([runs, pin[:, None]], axis=1),
                np.concatenate([j_BRP, slope[:, None]], axis=1))

    def curvature(self, theta_BP: Array, x_RV: Array, w_BR: Array, j_BRP: Array) -> Array:
        h_BPP = self.of.curvature(theta_BP, x_RV[:-1], w_BR[:, :-1], j_BRP[:, :-1])
        h_BPP = np.where(np.isfinite(h_BPP), h_BPP, 0.0)
        count = theta_BP.shape[1]
        steps = _BEND_STEP * np.concatenate([np.eye(count), -np.eye(count)])
        slopes = slope_of(self.quantity, (theta_BP[:, None] + steps).reshape(-1, count))
        ends = slopes.reshape(-1, 2, count, count)
        bend_BPP = (ends[:, 0] - ends[:, 1]) / (2 * _BEND_STEP)
        bend_BPP = (bend_BPP + bend_BPP.swapaxes(-1, -2)) / 2
        return np.asarray(h_BPP + w_BR[:, -1, None, None] * bend_BPP)

    def starts(self, x_RV: Array, outcome_R: Array) -> Array:
        return self.of.starts(x_RV[:-1], outcome_R[:-1])

    def report(self, theta_BP: Array, centre_V: Array) -> Array:
        return self.of.report(theta_BP, centre_V)

    def internal(self, params_BP: Array) -> Array:
        return self.of.internal(params_BP)
