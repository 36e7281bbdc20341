"""Profiles: how well runs can do with any other value of one parameter.

A curvature at the optimum, and to a degree a bootstrap from it, says how well a parameter is known
if the objective is a parabola. Where it is not, as along a valley, a profile still tells the truth
(Venzon and Moolgavkar 1988, Applied Statistics 37, p. 87).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.evidence.pinned import Quantity, pin, slope_of
from scaling.laws.evidence.problem import Problem, label, prepare
from scaling.laws.evidence.rows import Plain, aligned
from scaling.laws.fitting.minimise import minimise
from scaling.laws.fitting.robust import Robust
from scaling.laws.fitting.scale import Scale, scale_of
from scaling.laws.forms.form import Form
from scaling.laws.law import LEVEL
from scaling.laws.runs.table import RunsTable

Array = NDArray[np.float64]

FLAT_RISE = 0.01
"""A part of the objective: where it rises by less than this, runs hardly mind."""
FLAT_FACTOR = 10.0
"""A parameter that can change by this factor within `FLAT_RISE` is flat."""

POINTS = 21

_STIFF = 1e3         # spring against the profile's own curvature
_FARTHEST = 1e3      # factor to either side of the optimum that is looked at
_FIRST_REACH = 3.0   # standard errors
_ENOUGH = (1.5, 8.0)  # times the critical rise, where the ends of a profile should lie
_SEARCHES = 8
_SWEEPS = 3
_BETTER = 1e-6       # of the objective: a lower one is another optimum, not rounding
_ROUNDING = 1e-16    # of the objective, for each run


@dataclass(frozen=True)
class Profile(Plain):
    """The lowest objective at each value of one parameter, smallest value first.

    `interval` holds the values whose objective lies within `critical_rise` of the lowest; an end
    of None was not reached, which says that the runs put no bound there. `flat` says that the
    values of `flat_range`, a factor of `FLAT_FACTOR` or more, raise the objective by less than
    `FLAT_RISE` of it.
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

    def text(self) -> str:
        """For the terminal."""
        rows = [(value, objective, objective / self.objective - 1 if self.objective else None)
                for value, objective in zip(self.values, self.objectives, strict=True)]
        low, high = ("open" if end is None else f"{end:.4g}" for end in self.interval)
        lines = [f"{self.form}: profile of {self.name}, {self.level:.0%} interval {low} to {high}",
                 aligned((self.name, "objective", "relative rise"), rows),
                 *(f"warning: {warning}" for warning in self.warnings)]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Trace:
    """Ends of fits with a spring, in the coordinate of the quantity."""

    at: Array
    objective: Array
    theta: Array
    converged: NDArray[np.bool_]


def profile(
    table: RunsTable,
    form: Form | str,
    name: str,
    values: Sequence[float] | None = None,
    *,
    robust: Robust | None = None,
    level: float = LEVEL,
) -> Profile:
    """The objective along a printed parameter, or along an exponent a or b of the optimum, with
    everything else refitted.

    The interval is calibrated by the scale of the objective (`scale.py`), not by an assumption of
    normal residuals; for least squares of a law that is linear in its coordinates it is the
    interval of Student's t.

    Args:
        table: the runs.
        form: a form or its name.
        name: a parameter that the form does not hold, or a or b.
        values: where to look; by default as far as the interval goes, or a factor of a thousand.
        robust: what residuals cost; the form's own by default.
        level: coverage of the interval.

    Raises:
        UserError: the form has no such quantity or holds it, a value is not possible, or the runs
            cannot be fitted.
    """
    problem = prepare(table, form, robust)
    quantity, logged = quantity_named(problem, name)
    here = float(quantity(problem.theta[None])[0])
    scale = _scale(problem, quantity, name)
    rise = scale.rise(level)
    flat_rise = FLAT_RISE * problem.objective(problem.theta[None])[0] \
        + _ROUNDING * len(problem.y)
    if values is None:
        reach = _reach(problem, quantity, here, scale, max(rise, flat_rise), logged)
        targets = np.linspace(here - reach[0], here + reach[1], POINTS)
    else:
        targets = _asked(name, values, logged)
    trace = _trace(problem, quantity, here, targets, scale, others=True)
    at = np.append(trace.at, here)
    objective = np.append(trace.objective, problem.objective(problem.theta[None]))
    converged = np.append(trace.converged, True)
    order = np.argsort(at, kind="stable")
    at, objective, converged = at[order], objective[order], converged[order]
    least = float(objective.min())
    low, high = _within(at, objective - least, rise)
    flat_low, flat_high = _within(at, objective - least, flat_rise)

    def printed(value: float) -> float:
        return float(np.exp(value)) if logged else float(value)

    flat_range = (printed(at[0] if flat_low is None else flat_low),
                  printed(at[-1] if flat_high is None else flat_high))
    flat = flat_range[0] > 0 and flat_range[1] >= FLAT_FACTOR * flat_range[0]
    return Profile(
        form=label(problem.form), name=name, best=printed(at[np.argmin(objective)]),
        objective=least, values=tuple(map(printed, at)), objectives=tuple(map(float, objective)),
        converged=tuple(map(bool, converged)), level=level, critical_rise=rise,
        interval=(None if low is None else printed(low), None if high is None else printed(high)),
        flat=flat, flat_range=flat_range,
        warnings=tuple(_warnings(problem, name, least, flat, flat_range, converged, (low, high))),
    )


def quantity_named(problem: Problem, name: str) -> tuple[Quantity, bool]:
    """A parameter or an exponent as a function of theta, and whether it is the logarithm."""
    form = problem.form
    if name in ("a", "b") and name not in form.parameters:
        if form.allocation_exponent(np.ones((1, len(form.parameters)))) is None:
            raise UserError(f"{form.name}: has no exponent {name}, since it says nothing of how to "
                            f"divide compute; it has {', '.join(form.parameters)}")

        def exponent(theta_BP: Array) -> Array:
            a = form.allocation_exponent(problem.params(theta_BP))
            assert a is not None  # as for the ones above
            return np.asarray(a if name == "a" else 1 - a)
        return exponent, False
    if name not in form.parameters:
        raise UserError(f"{form.name}: has no parameter {name}; a profile can be of "
                        f"{', '.join(form.parameters)}, or of a or b where the law has an optimum")
    place = form.parameters.index(name)
    logged = name not in (*form.exponents, *form.signed) and problem.law.params[name] > 0

    def parameter(theta_BP: Array) -> Array:
        with np.errstate(all="ignore"):
            value = problem.params(theta_BP)[:, place]
            return np.asarray(np.log(value) if logged else value)
    return parameter, logged


def _scale(problem: Problem, quantity: Quantity, name: str) -> Scale:
    slope = slope_of(quantity, problem.theta[None])[0]
    if not np.abs(slope).max() > 0:
        raise UserError(f"{problem.form.name}: holds {name} at {problem.law.params[name]:g}; "
                        "a profile needs a parameter that is fitted")
    j_RP = problem.form.gradient(problem.theta[None], problem.x)[1][0]
    return scale_of(problem.residuals, j_RP, slope, problem.robust)


def _reach(
    problem: Problem, quantity: Quantity, here: float, scale: Scale, rise: float, logged: bool,
) -> Array:
    """How far to look on either side: past the critical rise, but not far past it."""
    farthest = float(np.log(_FARTHEST)) if logged else max(10 * abs(here), 1.0)
    reach = np.full(2, min(max(_FIRST_REACH * scale.se, 1e-9 * max(1.0, abs(here))), farthest))
    best = float(problem.objective(problem.theta[None])[0])
    for _ in range(_SEARCHES):
        ends = here + reach * [-1, 1]
        times = (_trace(problem, quantity, here, ends, scale).objective - best) / rise
        near, far = times < _ENOUGH[0], times > _ENOUGH[1]
        if not ((near & (reach < farthest)) | far).any():
            break
        shrink = np.sqrt(np.mean(_ENOUGH) / np.maximum(times, 1.0))
        reach *= np.where(near, 2.0, np.where(far, np.maximum(shrink, 0.1), 1.0))
        reach = np.minimum(reach, farthest)
    return reach


def _asked(name: str, values: Sequence[float], logged: bool) -> Array:
    """Values of the user as targets."""
    targets = np.unique(np.asarray(values, dtype=float))
    if not targets.size or not np.isfinite(targets).all() or (logged and targets[0] <= 0):
        kind = "positive numbers" if logged else "numbers"
        raise UserError(f"profile of {name}: {kind} are expected as values, such as "
                        "numpy.geomspace(1, 100, 21)")
    return np.asarray(np.log(targets) if logged else targets)


def _trace(
    problem: Problem, quantity: Quantity, here: float, targets: Array, scale: Scale,
    others: bool = False,
) -> _Trace:
    """Fits with a spring to each target: along the cheapest direction from the optimum; with
    `others` also from other starts, and then from their neighbours' ends while that gains."""
    count = len(targets)
    reach = float(np.abs(targets - here).max()) or 1.0
    smooth = problem.robust.stages()[-1]
    # Rows of the spring stay where the loss is a parabola.
    unit = smooth.delta / (4 * reach) if np.isfinite(smooth.delta) else 1.0
    best = float(problem.objective(problem.theta[None])[0])
    stiff = _STIFF * max(best / reach**2, scale.c / scale.se**2, np.finfo(float).tiny)
    # The absolute loss is reached through others, in which the same weight is a softer spring.
    stiff *= problem.robust.stages()[0].delta / smooth.delta if np.isfinite(smooth.delta) else 1.0
    form = pin(problem.form, lambda theta: unit * (quantity(theta) - here))
    x = np.concatenate([problem.x, problem.x[:1]])
    y = np.column_stack([np.tile(problem.y, (count, 1)), unit * (targets - here)])
    w = np.ones_like(y)
    w[:, -1] = stiff / (unit**2 * smooth.scale)

    def cost(theta: Array) -> Array:
        with np.errstate(all="ignore"):
            stretch = quantity(theta) - np.tile(targets, len(theta) // count)
            total = problem.objective(theta) + stiff / 2 * stretch**2
        return np.where(np.isfinite(total), total, np.inf)

    def run(begin_SKP: Array) -> tuple[Array, NDArray[np.bool_]]:
        starts = len(begin_SKP)
        found = minimise(form, x, np.tile(y, (starts, 1)), np.tile(w, (starts, 1)),
                         begin_SKP.reshape(starts * count, -1), problem.robust)
        place = np.argmin(cost(found.theta).reshape(starts, count), axis=0)
        place = place * count + np.arange(count)
        return found.theta[place], found.converged[place]

    begin = [problem.theta + (targets - here)[:, None] * scale.path]
    begin += [np.repeat(start[None], count, axis=0)
              for start in problem.starts[[0, -1]] if others and np.isfinite(
                  quantity(start[None])[0])]
    theta, converged = run(np.stack(begin))
    for _ in range(_SWEEPS if others else 0):
        left, right = theta[[0, *range(count - 1)]], theta[[*range(1, count), count - 1]]
        other, fine = run(np.stack([left, right]))
        gains = cost(other) < cost(theta) * (1 - _BETTER)
        theta[gains], converged[gains] = other[gains], fine[gains]
        if not gains.any():
            break
    return _Trace(quantity(theta), problem.objective(theta), theta, converged)


def _within(at: Array, rises: Array, limit: float) -> tuple[float | None, float | None]:
    """The outermost values whose rise is below a limit; None where the values end below it.

    Between two values the root of the rise, not the rise, is nearly straight.
    """
    inside = np.flatnonzero(rises <= limit)
    root, mark = np.sqrt(np.maximum(rises, 0)), np.sqrt(limit)

    def crossing(inner: int, outer: int) -> float:
        part = (mark - root[inner]) / (root[outer] - root[inner])
        return float(at[inner] + part * (at[outer] - at[inner]))

    first, last = int(inside[0]), int(inside[-1])
    return (crossing(first, first - 1) if first > 0 else None,
            crossing(last, last + 1) if last < len(at) - 1 else None)


def _warnings(
    problem: Problem, name: str, least: float, flat: bool, flat_range: tuple[float, float],
    converged: NDArray[np.bool_], ends: tuple[float | None, float | None],
) -> list[str]:
    found = []
    optimum = float(problem.objective(problem.theta[None])[0])
    if least < optimum * (1 - _BETTER) - _ROUNDING * len(problem.y):
        found.append(f"the profile of {name} finds an objective of {least:.6g}, below the fit's "
                     f"{optimum:.6g}: the fit is a local optimum")
    if flat:
        found.append(f"{name} is weakly identified: from {flat_range[0]:.3g} to "
                     f"{flat_range[1]:.3g} the objective rises by less than {FLAT_RISE:.0%}")
    open_ends = [side for side, end in zip(("below", "above"), ends, strict=True) if end is None]
    if open_ends:
        found.append(f"{name} has no bound {' or '.join(open_ends)} within the values looked at")
    if not converged.all():
        found.append(f"{int((~converged).sum())} of {len(converged)} points of the profile did "
                     "not converge; the objective there may be too high")
    return found
