"""Profile objectives: the lowest objective at each value of one parameter.

The curvature at the optimum, and to a degree a bootstrap, measure the uncertainty of a parameter
only if the objective is nearly quadratic. Profiles remain valid where it is not, such as along a
curved valley (Venzon and Moolgavkar 1988, Applied Statistics 37, p. 87).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.evidence.constrained_profile import Quantity, add_quantity_row, quantity_gradient
from scaling.laws.evidence.refit import PreparedFit, form_label, prepare
from scaling.laws.fitting.intervals import widths_differ
from scaling.laws.fitting.likelihood_ratio import LikelihoodScale, likelihood_scale
from scaling.laws.fitting.minimise import minimise
from scaling.laws.forms.form import Form
from scaling.laws.forms.losses import ResidualLoss
from scaling.laws.law import LEVEL, Law, check_level
from scaling.laws.show import PrintableResult, TextTable, text_table
from scaling.laws.table import RunsTable
from scaling.laws.values import broadcast

Array = NDArray[np.float64]

FLAT_RISE = 0.01
"""Relative rise of the objective that is considered negligible."""
FLAT_FACTOR = 10.0
"""A parameter that can change by this factor within `FLAT_RISE` is flat."""

POINTS = 21

_STIFFNESS = 1e3         # of the penalty, relative to the profile's own curvature
_MAX_FACTOR = 1e3        # largest factor to either side of the optimum
_INITIAL_REACH = 3.0     # standard errors
_RISE_RANGE = (1.5, 8.0)  # rise at the ends of a profile, in multiples of the critical rise
_MAX_SEARCHES = 8
_MAX_SWEEPS = 3
_MIN_IMPROVEMENT = 1e-6  # relative: a larger decrease is another optimum, not rounding
_ROUNDING = 1e-16        # of the objective, per run
_FEW_VALUES = 7          # of the user, below which the ends of an interval are uncertain


@dataclass(frozen=True, repr=False)
class Profile(PrintableResult):
    """The lowest objective at each value of one parameter, in increasing order of the value.

    `interval` contains the values whose objective is within `critical_rise` of the lowest; an end
    is None if the search did not reach it, so that the runs give no bound there. `flat` is whether
    `flat_range`, the values that raise the objective by less than `FLAT_RISE` of it, spans a
    factor of `FLAT_FACTOR` or more.
    """

    form: str
    name: str
    best: float
    objective: float
    values: tuple[float, ...]
    objectives: tuple[float, ...]
    converged: tuple[bool, ...]
    level: float
    critical_rise: float
    interval: tuple[float | None, float | None]
    flat: bool
    flat_range: tuple[float, float]
    warnings: tuple[str, ...]

    def beside(self, law: Law) -> Profile:
        """The profile, with a warning if its interval is another than that of the law's resamples:
        if their widths differ by more than a factor of 1.5, or only one has an end."""
        other = law.intervals.get(self.name) if self.level == LEVEL else None
        if other is None:
            return self
        low, high = self.interval
        if low is not None and high is not None and not widths_differ((low, high), other):
            return self
        assert law.bootstrap is not None
        method = "BCa" if law.bootstrap.method == "bca" else "percentiles"
        return replace(self, warnings=(
            *self.warnings, f"90% intervals of {self.name} depend on the method: "
            f"{self._ends()} by the profile, {other[0]:.3g} to {other[1]:.3g} by {method}"))

    def _ends(self) -> str:
        return " to ".join("open" if end is None else f"{end:.4g}" for end in self.interval)

    def to_frame(self) -> pd.DataFrame:
        """The profile as a data frame with the columns `value`, `objective` and `converged`."""
        return pd.DataFrame({"value": self.values, "objective": self.objectives,
                             "converged": self.converged})

    def parts(self) -> list[str | TextTable]:
        """The interval and the objective at each value."""
        rows = [(value, objective, objective / self.objective - 1 if self.objective else None)
                for value, objective in zip(self.values, self.objectives, strict=True)]
        return [f"{self.form}: profile of {self.name}, {self.level:.0%} interval {self._ends()}",
                text_table((self.name, "objective", "relative rise"), rows),
                *(f"warning: {warning}" for warning in self.warnings)]


@dataclass(frozen=True)
class _Trace:
    """Results of penalised fits, [T] each; `value` is the quantity (its logarithm if logged)."""

    value: Array
    objective: Array
    theta: Array
    converged: NDArray[np.bool_]


def profile(
    table: RunsTable,
    form: Form | str,
    name: str,
    values: Sequence[float] | Array | float | None = None,
    *,
    robust: ResidualLoss | None = None,
    level: float = LEVEL,
) -> Profile:
    """The profile objective of a printed parameter, or of an exponent a or b of the optimum.

    The interval is calibrated by the scale of the objective (`likelihood_ratio.py`), not by an
    assumption of normal residuals; for least squares of a law that is linear in its coordinates it
    equals Student's t interval.

    Args:
        table: the runs.
        form: a form or its name.
        name: a parameter that the form does not fix, or a or b.
        values: values of the profile; by default `POINTS` values that cover the interval, at most
            a factor of a thousand to either side.
        robust: loss of the residuals; the form's own by default.
        level: coverage of the interval.

    Raises:
        UserError: the form has no such quantity or fixes it, a value is impossible, or the runs
            cannot be fitted.
    """
    check_level(level)
    prepared = prepare(table, form, robust)
    quantity, logged = quantity_named(prepared, name)
    optimum = float(quantity(prepared.theta[None])[0])
    scale = _scale(prepared, quantity, name)
    rise = scale.threshold(level)
    flat_rise = FLAT_RISE * prepared.objective(prepared.theta[None])[0] \
        + _ROUNDING * len(prepared.y)
    if values is None:
        reach = _find_reach(prepared, quantity, optimum, scale, max(rise, flat_rise), logged)
        targets = np.linspace(optimum - reach[0], optimum + reach[1], POINTS)
    else:
        targets = _user_targets(name, values, logged)
    trace = _trace(prepared, quantity, optimum, targets, scale, more_starts=True)
    at = np.append(trace.value, optimum)
    objective = np.append(trace.objective, prepared.objective(prepared.theta[None]))
    converged = np.append(trace.converged, True)
    order = np.argsort(at, kind="stable")
    at, objective, converged = at[order], objective[order], converged[order]
    lowest = float(objective.min())
    low, high = _crossings(at, objective - lowest, rise)
    flat_low, flat_high = _crossings(at, objective - lowest, flat_rise)

    def printed(value: float) -> float:
        return float(np.exp(value)) if logged else float(value)

    flat_range = (printed(at[0] if flat_low is None else flat_low),
                  printed(at[-1] if flat_high is None else flat_high))
    flat = flat_range[0] > 0 and flat_range[1] >= FLAT_FACTOR * flat_range[0]
    return Profile(
        form=form_label(prepared.form), name=name, best=printed(at[np.argmin(objective)]),
        objective=lowest, values=tuple(map(printed, at)), objectives=tuple(map(float, objective)),
        converged=tuple(map(bool, converged)), level=level, critical_rise=rise,
        interval=(None if low is None else printed(low), None if high is None else printed(high)),
        flat=flat, flat_range=flat_range,
        warnings=(*_few_values(len(targets)),
                  *_warnings(prepared, name, lowest, flat, flat_range, converged, (low, high))),
    )


def quantity_named(prepared: PreparedFit, name: str) -> tuple[Quantity, bool]:
    """A parameter or exponent as a function of theta, and whether that is its logarithm."""
    form = prepared.form
    if name in ("a", "b") and name not in form.parameters:
        if form.allocation_exponent(np.ones((1, len(form.parameters)))) is None:
            raise UserError(f"{form.name}: has no exponent {name}, because it does not determine "
                            "how to divide compute between N and D; expected is one of "
                            f"{', '.join(form.parameters)}")

        def exponent(theta_BP: Array) -> Array:
            a = form.allocation_exponent(prepared.params(theta_BP))
            assert a is not None  # checked above
            return np.asarray(a if name == "a" else 1 - a)
        return exponent, False
    if name not in form.parameters:
        raise UserError(f"{form.name}: has no parameter {name}; expected is one of "
                        f"{', '.join(form.parameters)}, or a or b if the law has an optimum")
    index = form.parameters.index(name)
    logged = name not in (*form.exponents, *form.signed) and prepared.law.params[name] > 0

    def parameter(theta_BP: Array) -> Array:
        with np.errstate(all="ignore"):
            value = prepared.params(theta_BP)[:, index]
            return np.asarray(np.log(value) if logged else value)
    return parameter, logged


def _scale(prepared: PreparedFit, quantity: Quantity, name: str) -> LikelihoodScale:
    gradient = quantity_gradient(quantity, prepared.theta[None])[0]
    if not np.abs(gradient).max() > 0:
        raise UserError(f"{prepared.form.name}: fixes {name} at {prepared.law.params[name]:g}; "
                        "a profile needs a parameter that is fitted")
    j_RP = prepared.form.gradient(prepared.theta[None], prepared.x)[1][0]
    return likelihood_scale(prepared.residuals, j_RP, gradient, prepared.robust)


def _find_reach(
    prepared: PreparedFit, quantity: Quantity, optimum: float, scale: LikelihoodScale, rise: float,
    logged: bool,
) -> Array:
    """Half-widths of the profile below and above the optimum: the objective there exceeds the
    critical rise, but not by much."""
    largest = float(np.log(_MAX_FACTOR)) if logged else max(10 * abs(optimum), 1.0)
    smallest = 1e-9 * max(1.0, abs(optimum))
    reach = np.full(2, min(max(_INITIAL_REACH * scale.se, smallest), largest))
    best = float(prepared.objective(prepared.theta[None])[0])
    for _ in range(_MAX_SEARCHES):
        ends = optimum + reach * [-1, 1]
        ratio = (_trace(prepared, quantity, optimum, ends, scale).objective - best) / rise
        too_near, too_far = ratio < _RISE_RANGE[0], ratio > _RISE_RANGE[1]
        if not ((too_near & (reach < largest)) | too_far).any():
            break
        shrink = np.sqrt(np.mean(_RISE_RANGE) / np.maximum(ratio, 1.0))
        reach *= np.where(too_near, 2.0, np.where(too_far, np.maximum(shrink, 0.1), 1.0))
        reach = np.minimum(reach, largest)
    return reach


def _user_targets(name: str, values: Sequence[float] | Array | float, logged: bool) -> Array:
    """The user's values as sorted targets, as logarithms if `logged`."""
    targets = np.unique(broadcast({"values": np.asarray(values)})[0]["values"])
    if not targets.size or not np.isfinite(targets).all() or (logged and targets[0] <= 0):
        kind = "positive numbers" if logged else "numbers"
        raise UserError(f"profile of {name}: {kind} are expected as values, such as "
                        "numpy.geomspace(1, 100, 21)")
    return np.asarray(np.log(targets) if logged else targets)


def _trace(
    prepared: PreparedFit, quantity: Quantity, optimum: float, targets: Array,
    scale: LikelihoodScale, more_starts: bool = False,
) -> _Trace:
    """Penalised fits at each target, started from the optimum along the direction of least
    objective; with `more_starts` also from other starts, and then from the results at neighbouring
    targets while that improves any."""
    n_targets = len(targets)
    reach = float(np.abs(targets - optimum).max()) or 1.0
    smooth = prepared.robust.stages()[-1]
    # The penalty rows are scaled to stay in the quadratic part of the loss.
    unit = smooth.delta / (4 * reach) if np.isfinite(smooth.delta) else 1.0
    best = float(prepared.objective(prepared.theta[None])[0])
    stiffness = _STIFFNESS * max(best / reach**2, scale.c / scale.se**2, np.finfo(float).tiny)
    # The absolute loss is approached in stages, in which the same weight is a weaker penalty.
    stiffness *= (prepared.robust.stages()[0].delta / smooth.delta
                  if np.isfinite(smooth.delta) else 1.0)
    form = add_quantity_row(prepared.form, lambda theta: unit * (quantity(theta) - optimum))
    x = np.concatenate([prepared.x, prepared.x[:1]])
    y = np.column_stack([np.tile(prepared.y, (n_targets, 1)), unit * (targets - optimum)])
    w = np.ones_like(y)
    w[:, -1] = stiffness / (unit**2 * smooth.scale)

    def penalised(theta: Array) -> Array:
        with np.errstate(all="ignore"):
            distance = quantity(theta) - np.tile(targets, len(theta) // n_targets)
            total = prepared.objective(theta) + stiffness / 2 * distance**2
        return np.where(np.isfinite(total), total, np.inf)

    def run(begin_STP: Array) -> tuple[Array, NDArray[np.bool_]]:
        n_starts = len(begin_STP)
        ends = minimise(form, x, np.tile(y, (n_starts, 1)), np.tile(w, (n_starts, 1)),
                        begin_STP.reshape(n_starts * n_targets, -1), prepared.robust)
        index = np.argmin(penalised(ends.theta).reshape(n_starts, n_targets), axis=0)
        index = index * n_targets + np.arange(n_targets)
        return ends.theta[index], ends.converged[index]

    begin = [prepared.theta + (targets - optimum)[:, None] * scale.direction]
    begin += [np.repeat(start[None], n_targets, axis=0)
              for start in prepared.starts[[0, -1]] if more_starts and np.isfinite(
                  quantity(start[None])[0])]
    theta, converged = run(np.stack(begin))
    for _ in range(_MAX_SWEEPS if more_starts else 0):
        left = theta[[0, *range(n_targets - 1)]]
        right = theta[[*range(1, n_targets), n_targets - 1]]
        new_theta, new_converged = run(np.stack([left, right]))
        improved = penalised(new_theta) < penalised(theta) * (1 - _MIN_IMPROVEMENT)
        theta[improved], converged[improved] = new_theta[improved], new_converged[improved]
        if not improved.any():
            break
    return _Trace(quantity(theta), prepared.objective(theta), theta, converged)


def _crossings(at: Array, rises: Array, limit: float) -> tuple[float | None, float | None]:
    """The outermost values whose rise is below a limit; None if the values end below it.

    Interpolated linearly in the square root of the rise, which is nearly linear in the value.
    """
    inside = np.flatnonzero(rises <= limit)
    root, root_limit = np.sqrt(np.maximum(rises, 0)), np.sqrt(limit)

    def crossing(inner: int, outer: int) -> float:
        fraction = (root_limit - root[inner]) / (root[outer] - root[inner])
        return float(at[inner] + fraction * (at[outer] - at[inner]))

    first, last = int(inside[0]), int(inside[-1])
    return (crossing(first, first - 1) if first > 0 else None,
            crossing(last, last + 1) if last < len(at) - 1 else None)


def _few_values(count: int) -> tuple[str, ...]:
    if count >= _FEW_VALUES:
        return ()
    return (f"{count} value{'s' * (count != 1)}: the ends of the interval are interpolated between "
            f"so few that they may be far off; give {_FEW_VALUES} or more, or none for {POINTS} "
            "that cover the interval",)


def _warnings(
    prepared: PreparedFit, name: str, lowest: float, flat: bool, flat_range: tuple[float, float],
    converged: NDArray[np.bool_], ends: tuple[float | None, float | None],
) -> list[str]:
    warnings = []
    fitted = float(prepared.objective(prepared.theta[None])[0])
    if lowest < fitted * (1 - _MIN_IMPROVEMENT) - _ROUNDING * len(prepared.y):
        warnings.append(f"the profile of {name} finds an objective of {lowest:.6g}, below the "
                        f"fit's {fitted:.6g}: the fit is a local optimum")
    if flat:
        warnings.append(f"{name} is weakly identified: from {flat_range[0]:.3g} to "
                        f"{flat_range[1]:.3g} the objective rises by less than {FLAT_RISE:.0%}")
    open_ends = [side for side, end in zip(("below", "above"), ends, strict=True) if end is None]
    if open_ends:
        warnings.append(f"{name} has no bound {' or '.join(open_ends)} within the profiled values")
    if not converged.all():
        warnings.append(f"{int((~converged).sum())} of {len(converged)} points of the profile did "
                        "not converge; the objective there may be too high")
    return warnings
