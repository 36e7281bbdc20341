"""A form with some parameters held fast, or equal to others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.forms.form import Form
from scaling.laws.forms.powers import PowerSum

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Constrained(Form):
    """`of`, whose theta is an affine function of fewer coordinates.

    The free coordinates are those of the parameters in `free`; the printed parameters are all of
    them, so that a law says what it held.
    """

    of: Form
    offset: tuple[float, ...]
    spread: tuple[tuple[float, ...], ...]
    """theta = offset + free coordinates times this matrix [free, P]."""
    free: tuple[str, ...]
    fixed: Mapping[str, float]
    tied: tuple[tuple[str, str], ...]

    @property
    def constraints(self) -> dict[str, Any]:
        return {"fixed": dict(self.fixed), "tied": [list(pair) for pair in self.tied]}

    @property
    def exponents(self) -> tuple[str, ...]:
        return tuple(p for p in self.of.exponents if p in self.free)

    @property
    def of_variables(self) -> frozenset[str]:
        return self.of.of_variables

    def _whole(self, free_BF: Array) -> Array:
        return np.asarray(np.array(self.offset) + free_BF @ np.array(self.spread))

    def coordinates(self, values: Mapping[str, Array]) -> Array:
        return self.of.coordinates(values)

    def predict(self, theta_BP: Array, x_RV: Array) -> Array:
        return self.of.predict(self._whole(theta_BP), x_RV)

    def gradient(self, theta_BP: Array, x_RV: Array) -> tuple[Array, Array]:
        prediction, j_BRP = self.of.gradient(self._whole(theta_BP), x_RV)
        return prediction, j_BRP @ np.array(self.spread).T

    def curvature(self, theta_BP: Array, x_RV: Array, w_BR: Array, j_BRP: Array) -> Array:
        if not isinstance(self.of, PowerSum):  # differences of the free ones alone are quicker
            return super().curvature(theta_BP, x_RV, w_BR, j_BRP)
        whole = self._whole(theta_BP)
        h_BPP = self.of.curvature(whole, x_RV, w_BR, self.of.gradient(whole, x_RV)[1])
        return np.asarray(np.array(self.spread) @ h_BPP @ np.array(self.spread).T)

    def starts(self, x_RV: Array, outcome_R: Array) -> Array:
        whole = self.of.starts(x_RV, outcome_R)
        places = [self.of.parameters.index(name) for name in self.free]
        return np.unique(whole[:, places], axis=0)

    def report(self, theta_BP: Array, centre_V: Array) -> Array:
        return self.of.report(self._whole(theta_BP), centre_V)

    def internal(self, params_BP: Array) -> Array:
        places = [self.of.parameters.index(name) for name in self.free]
        return np.asarray(self.of.internal(params_BP)[:, places])

    def optimum(self, params_BP: Array, c: Array | float) -> Array | None:
        return self.of.optimum(params_BP, c)

    def allocation_exponent(self, params_BP: Array) -> Array | None:
        return self.of.allocation_exponent(params_BP)


def constrain(
    form: Form, fixed: Mapping[str, float] | None = None, tied: Sequence[tuple[str, str]] = ()
) -> Form:
    """The form with parameters fixed at values, and with pairs of parameters equal.

    Fixing E at a published or measured entropy, or alpha = beta as Muennighoff et al. 2023 do,
    are the usual cases.

    Args:
        form: any form whose coordinates are its parameters one by one, as those of sums of
            powers and of formulas are.
        fixed: values in the parameters' own units.
        tied: pairs of names; the second takes the value of the first.

    Raises:
        UserError: there is no such parameter, or the form mixes its parameters.
    """
    fixed = dict(fixed or {})
    if not fixed and not tied:
        return form
    for name in (*fixed, *(name for pair in tied for name in pair)):
        if name not in form.parameters:
            raise UserError(f"{form.name}: has no parameter {name}; it has "
                            f"{', '.join(form.parameters)}")
    _check_separate(form)
    kept = {second: first for first, second in tied}
    free = tuple(p for p in form.parameters if p not in fixed and p not in kept)
    if not free or any(first in kept or first in fixed for first, _ in tied):
        raise UserError(f"{form.name}: nothing is left to fit, or a parameter is tied to one that "
                        "is itself fixed or tied")
    values = np.ones((1, len(form.parameters)))
    for name, value in fixed.items():
        values[0, form.parameters.index(name)] = value
    with np.errstate(divide="ignore", invalid="ignore"):
        inner = form.internal(values)[0]
    offset = [inner[i] if p in fixed else 0.0 for i, p in enumerate(form.parameters)]
    if not np.isfinite(offset).all():
        raise UserError(f"{form.name}: {fixed}: positive values are expected")
    spread = np.zeros((len(free), len(form.parameters)))
    for place, name in enumerate(form.parameters):
        if name not in fixed:
            spread[free.index(kept.get(name, name)), place] = 1.0
    held = [f"{name} = {value:g}" for name, value in fixed.items()]
    held += [f"{second} = {first}" for first, second in tied]
    common: dict[str, Any] = {
        name: getattr(form, name) for name in Form.__dataclass_fields__
    }
    return Constrained(**common | {"centred": False, "formula":
                       f"{form.formula} with {', '.join(held)}"},
                       of=replace(form, centred=False), offset=tuple(offset),
                       spread=tuple(map(tuple, spread)), free=free,
                       fixed=fixed, tied=tuple(tied))


def _check_separate(form: Form) -> None:
    """Refuse a form in which a coordinate of theta depends on several parameters."""
    point = np.full((1, len(form.parameters)), 1.5)
    here = form.internal(point)
    for place in range(point.shape[1]):
        aside = point.copy()
        aside[0, place] *= 1.1
        moved = np.flatnonzero(form.internal(aside) != here)
        if moved.tolist() != [place]:
            raise UserError(f"{form.name}: its parameters cannot be fixed or tied one by one")
