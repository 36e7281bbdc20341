"""Forms with some parameters fixed at values, or tied to others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.arguments import checked
from scaling.laws.forms.custom import CustomLaw
from scaling.laws.forms.form import Form
from scaling.laws.forms.wrapped import unwrapped

Array = NDArray[np.float64]

_MAX_EXPONENT = 10
_LARGEST = 1e6  # coordinate of theta


@dataclass(frozen=True, kw_only=True, repr=False)
class Constrained(Form):
    """The form `base` with theta an affine function of fewer free coordinates.

    The free coordinates are those of the parameters in `free`. All parameters of `base` are
    printed, including the fixed and tied ones.
    """

    base: Form
    offset: tuple[float, ...]
    matrix: tuple[tuple[float, ...], ...]
    """theta = offset + free coordinates [F] times this matrix [F, P]."""
    free: tuple[str, ...]
    fixed: Mapping[str, float]
    tied: tuple[tuple[str, str], ...]

    @property
    def constraints(self) -> dict[str, Any]:
        return {"fixed": dict(self.fixed), "tied": [list(pair) for pair in self.tied]}

    @property
    def exponents(self) -> tuple[str, ...]:
        return tuple(p for p in self.base.exponents if p in self.free)

    @property
    def scaling_params(self) -> frozenset[str]:
        return self.base.scaling_params

    @property
    def fitted_parameters(self) -> tuple[str, ...]:
        return self.free

    @property
    def constants(self) -> tuple[str, ...]:
        return tuple(p for p in self.base.constants if p in self.free)

    @property
    def bounded_exponents(self) -> Mapping[str, tuple[str, ...]]:
        return {name: own for name, own in self.base.bounded_exponents.items()
                if name in self.free}

    def undetermined(self, x_RV: Array) -> dict[str, tuple[str, ...]]:
        found = {v: tuple(name for name in names if name in self.free)
                 for v, names in self.base.undetermined(x_RV).items()}
        return {v: names for v, names in found.items() if names}

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        return self.base.labels

    def _base_theta(self, free_BF: Array) -> Array:
        return np.asarray(np.array(self.offset) + free_BF @ np.array(self.matrix))

    def coordinates(self, values: Mapping[str, Array]) -> Array:
        return self.base.coordinates(values)

    def predict(self, theta_BP: Array, x_RV: Array) -> Array:
        return self.base.predict(self._base_theta(theta_BP), x_RV)

    def gradient(self, theta_BP: Array, x_RV: Array) -> tuple[Array, Array]:
        prediction, j_BRP = self.base.gradient(self._base_theta(theta_BP), x_RV)
        return prediction, j_BRP @ np.array(self.matrix).T

    def hessian(self, theta_BP: Array, x_RV: Array, w_BR: Array, j_BRP: Array) -> Array:
        # Differences of the free coordinates are faster than those of all.
        if not self.base.has_hessian:
            return super().hessian(theta_BP, x_RV, w_BR, j_BRP)
        theta = self._base_theta(theta_BP)
        h_BPP = self.base.hessian(theta, x_RV, w_BR, self.base.gradient(theta, x_RV)[1])
        return np.asarray(np.array(self.matrix) @ h_BPP @ np.array(self.matrix).T)

    def starts(self, x_RV: Array, outcome_R: Array) -> Array:
        return self._free_of(self.base.starts(x_RV, outcome_R))

    def wide_starts(self, x_RV: Array, outcome_R: Array) -> Array:
        return self._free_of(self.base.wide_starts(x_RV, outcome_R))

    def _free_of(self, theta_SP: Array) -> Array:
        """The free coordinates of the distinct ones among starting points."""
        indices = [self.base.parameters.index(name) for name in self.free]
        return np.unique(theta_SP[:, indices], axis=0)

    def to_params(self, theta_BP: Array, centre_V: Array) -> Array:
        return self.base.to_params(self._base_theta(theta_BP), centre_V)

    def from_params(self, params_BP: Array) -> Array:
        indices = [self.base.parameters.index(name) for name in self.free]
        return np.asarray(self.base.from_params(params_BP)[:, indices])

    def optimum(self, params_BP: Array, c: Array | float) -> Array | None:
        return self.base.optimum(params_BP, c)

    def allocation_exponent(self, params_BP: Array) -> Array | None:
        return self.base.allocation_exponent(params_BP)


@checked
def constrain(
    form: Form, fixed: Mapping[str, float] | None = None, tied: Sequence[tuple[str, str]] = ()
) -> Form:
    """A form with some parameters fixed at values, and pairs of parameters tied to be equal.

    Typical uses are E fixed at a published or measured entropy, and alpha = beta as in Muennighoff
    et al. 2023.

    Args:
        form: a form in which every coordinate of theta depends on one parameter, such as sums of
            powers and formulas.
        fixed: values by parameter, in the parameters' own units.
        tied: pairs of parameters; the second takes the value of the first.

    Raises:
        UserError: a parameter is unknown, cannot have its value or be tied to the other one, or
            a coordinate of the form's theta depends on several parameters.
    """
    fixed = dict(fixed or {})
    if not fixed and not tied:
        return form
    for name in (*fixed, *(name for pair in tied for name in pair)):
        if name not in form.parameters:
            raise UserError(f"{form.name}: has no parameter {name}; it has "
                            f"{', '.join(form.parameters)}")
    _check_separate(form)
    for first, second in tied:
        _check_same_kind(form, first, second)
    tied_to = {second: first for first, second in tied}
    free = tuple(p for p in form.parameters if p not in fixed and p not in tied_to)
    if not free or {*tied_to} & {*fixed} or any(
            first in tied_to or first in fixed for first, _ in tied):
        raise UserError(f"{form.name}: no parameter is left to fit, or a parameter is tied to one "
                        "that is itself fixed or tied; remove a constraint")
    offset = _offset(form, fixed)
    matrix = np.zeros((len(free), len(form.parameters)))
    for i, name in enumerate(form.parameters):
        if name not in fixed:
            matrix[free.index(tied_to.get(name, name)), i] = 1.0
    equations = [f"{name} = {value:g}" for name, value in fixed.items()]
    equations += [f"{second} = {first}" for first, second in tied]
    common: dict[str, Any] = {
        name: getattr(form, name) for name in Form.__dataclass_fields__
    }
    return Constrained(**common | {"centred": False, "formula":
                       f"{form.formula} with {', '.join(equations)}"},
                       base=replace(form, centred=False), offset=tuple(offset),
                       matrix=tuple(map(tuple, matrix)), free=free,
                       fixed=fixed, tied=tuple(tied))


def _offset(form: Form, fixed: Mapping[str, float]) -> list[float]:
    """theta of the fixed parameters, zero for the rest.

    Raises:
        UserError: a parameter cannot have its value.
    """
    values = np.ones((1, len(form.parameters)))
    for name, value in fixed.items():
        values[0, form.parameters.index(name)] = value
        if name in form.exponents and form.outcome.startswith("loss") and not (
                0 < value <= _MAX_EXPONENT):
            raise UserError(f"{form.name}: {name} = {value:g}: an exponent above 0 and at most "
                            f"{_MAX_EXPONENT} is expected, such as 0.35")
    with np.errstate(all="ignore"):
        theta = form.from_params(values)[0]
    for i, name in enumerate(form.parameters):
        if name in fixed and not abs(theta[i]) < _LARGEST:  # of a coefficient of zero
            raise UserError(f"{form.name}: {name} = {fixed[name]:g}: a positive number is expected")
    return [float(theta[i]) if p in fixed else 0.0 for i, p in enumerate(form.parameters)]


def _check_same_kind(form: Form, first: str, second: str) -> None:
    """Raise if two parameters to be tied are of different kinds."""
    kinds = {p: _kind(form, p) for p in form.parameters}
    if kinds[first] == kinds[second] or (None in (kinds[first], kinds[second])
                                         and not {first, second} & {*form.units}):
        return
    by_kind: dict[str, list[str]] = {}
    for name, kind in kinds.items():
        by_kind.setdefault(kind or "", []).append(name)
    groups = [" and ".join(names) for kind, names in by_kind.items() if kind and len(names) > 1]
    hint = f"; parameters that can be tied are {', or '.join(groups)}" if groups else ""
    raise UserError(f"{form.name}: {first} is {kinds[first] or 'of another kind'}, and {second} is "
                    f"{kinds[second] or 'of another kind'}: parameters of the same kind are "
                    f"expected{hint}")


def _kind(form: Form, name: str) -> str | None:
    """What kind of parameter this is, with its unit; None if unknown."""
    unit = f" in {form.units[name]}" if name in form.units else ""
    if name in form.exponents:
        return f"an exponent{unit}"
    if name not in form.scaling_params:
        return "the limit at infinite size"
    return f"a coefficient{unit}" if name in form.coefficients else None


def _check_separate(form: Form) -> None:
    """Raise if a coordinate of the form's theta depends on several parameters."""
    point = np.full((1, len(form.parameters)), 1.5)
    theta = form.from_params(point)
    for i in range(point.shape[1]):
        shifted = point.copy()
        shifted[0, i] *= 1.1
        changed = np.flatnonzero(form.from_params(shifted) != theta)
        if changed.tolist() != [i]:
            raise UserError(f"{form.name}: its parameters cannot be fixed or tied separately")


def formula_json(form: Form) -> dict[str, Any] | None:
    """The formula of a user's own law, as arguments of `law`; None for a law of the catalogue."""
    base = unwrapped(form)
    return base.to_json() if isinstance(base, CustomLaw) else None
