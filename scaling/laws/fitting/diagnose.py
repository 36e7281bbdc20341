"""Diagnostics of a fit: warnings, and the parameters that the runs do not determine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.laws.fitting.preflight import check_losses
from scaling.laws.forms.form import Form
from scaling.laws.forms.powers import PowerSum
from scaling.laws.law import Bootstrap, Interval
from scaling.laws.table import RunsTable

Array = NDArray[np.float64]
Finding = tuple[str, set[str]]
"""A warning, and the parameters that it marks as undetermined."""

_MIN_SPREAD = 0.1     # of log D at given N, below which effects of N and D are indistinguishable
_VANISHED = 1e-4      # share of the loss below which a term counts as absent
_CONDITION = 1e10     # of the Hessian, scaled to a unit diagonal
_AGREEMENT = 0.5      # share of the starts
_MAX_LISTED = 10      # values in one message
_RESAMPLES_LOST = 0.05
_COEFFICIENT_FACTOR = 100.0   # ratio of the ends of an interval that is too wide
_EXPONENT_FACTOR = 3.0


@dataclass(frozen=True)
class Evidence:
    """The inputs and results of a fit that the diagnostics examine.

    Attributes:
        form: the form.
        table: all runs.
        fitted: the runs that the form was fitted to.
        x: variables in the form's coordinates, centred, [R, V].
        theta: the optimum, [P].
        params: printed parameters.
        convergence: convergence measures of the law.
        boot: the bootstrap; None if there was none.
        intervals: 90% intervals of the parameters.
    """

    form: Form
    table: RunsTable
    fitted: RunsTable
    x: Array
    theta: Array
    params: Mapping[str, float]
    convergence: Mapping[str, float | bool | None]
    boot: Bootstrap | None
    intervals: Mapping[str, Interval | None]


def diagnose(evidence: Evidence) -> tuple[list[str], set[str]]:
    """Warnings, and the names of the parameters and exponents that the runs do not determine."""
    checks = (_not_converged, _input_warnings, _losses_below_floor, _collinear, _vanished_terms,
              _negative_exponents, _conditioning, _start_agreement, _few_runs, _not_the_longest,
              _lost_resamples, _wide_intervals)
    findings = [finding for check in checks for finding in check(evidence)]
    unknown = {name for _, names in findings for name in names}
    if unknown & {*evidence.form.exponents}:
        unknown |= {"a", "b"}
    return [warning for warning, _ in findings], unknown


def _not_converged(e: Evidence) -> Iterator[Finding]:
    if not e.convergence["converged"]:
        yield ("the fit did not converge: its parameters are those of the optimizer's last step, "
               "not a law", {*e.form.parameters})


def _input_warnings(e: Evidence) -> Iterator[Finding]:
    """Warnings about the table, which do not depend on the fit."""
    for warning in (*e.table.warnings, *check_losses(e.form, e.table)):
        yield warning, set()


def fixed_floors(form: Form) -> dict[str, float]:
    """Irreducible losses that a constrained form fixes, by name."""
    fixed: Mapping[str, float] = form.constraints.get("fixed", {})
    return {name: value for name, value in fixed.items() if form.outcome.startswith("loss")
            and name not in form.scaling_params and name not in form.signed}


def _losses_below_floor(e: Evidence) -> Iterator[Finding]:
    for name, value in fixed_floors(e.form).items():
        below = int((e.fitted.loss <= value).sum())
        if below:
            yield (f"{name} is fixed at {value:g}, and {below} of {e.fitted.loss.size} losses are "
                   "not above it, which this law cannot reach at any size", set())


def _collinear(e: Evidence) -> Iterator[Finding]:
    if {"n", "d"} <= {*e.form.variables}:
        n, d = (e.x[:, e.form.variables.index(v)] for v in ("n", "d"))
        slope, level = np.polyfit(n, d, 1)
        spread = float(np.std(d - slope * n - level))
        if spread < _MIN_SPREAD:
            yield (
                f"N determines D in these runs (D ~ N^{slope:.2f}, and at given N, D varies by "
                f"only {100 * spread:.1f}%), so the effects of N and D cannot be distinguished; "
                "train some size on several token counts",
                {*e.form.scaling_params},
            )


def _vanished_terms(e: Evidence) -> Iterator[Finding]:
    if isinstance(e.form, PowerSum) and len(e.form.terms) > 1:
        shares = e.form.shares(e.theta[None], e.x)[0].max(axis=1)
        for term, share in zip(e.form.terms, shares, strict=True):
            if share < _VANISHED:
                names = {term.coefficient, *(exponent for _, exponent in term.powers)}
                yield (f"the term of {term.coefficient} has vanished from the fit: these runs have "
                       f"no sign of it, and do not determine {' or '.join(sorted(names))}", names)


def _negative_exponents(e: Evidence) -> Iterator[Finding]:
    for name in e.form.exponents:
        value = e.params[name]
        if not value > 0:
            yield (f"{name} is {value:.3g}: the loss does not decrease with its variable in these "
                   "runs, so a power law is meaningless", {*e.form.scaling_params})


def _conditioning(e: Evidence) -> Iterator[Finding]:
    condition = e.convergence["condition"]
    if condition is not None and condition > _CONDITION:
        yield (f"the Hessian's condition number is {condition:.1e}: some combination of parameters "
               "hardly affects the fit, so use the parameters together, not separately", set())


def _start_agreement(e: Evidence) -> Iterator[Finding]:
    agreement = float(e.convergence["start_agreement"] or 0)
    if agreement < _AGREEMENT:
        yield (f"only {100 * agreement:.0f}% of the starts end at the best optimum: there are "
               "other optima, and possibly a better one", set())


def _few_runs(e: Evidence) -> Iterator[Finding]:
    runs, parameters = e.fitted.loss.size, len(e.form.parameters)
    if runs < 2 * parameters:
        yield (f"{runs} runs for {parameters} parameters: the intervals are too narrow", set())


def _not_the_longest(e: Evidence) -> Iterator[Finding]:
    """Laws of N or of D alone require that the other variable does not limit the loss."""
    if e.form.envelope not in ("n", "d"):
        return
    this, other = ("n", "d") if e.form.envelope == "n" else ("d", "n")
    values, rest = getattr(e.table, this), getattr(e.table, other)
    levels, level_of, times = np.unique(values, return_inverse=True, return_counts=True)
    at_fitted = np.searchsorted(levels, getattr(e.fitted, this))
    single = int((times[at_fitted] == 1).sum())
    if single > e.fitted.loss.size / 2:
        yield (f"{single} of {e.fitted.loss.size} values of {this.upper()} have only one run, "
               f"whose loss may be limited by {other.upper()}, while this law describes the lowest "
               f"loss over {other.upper()}", set())
    if this == "n" and len(np.unique(e.fitted.d)) == 1:
        return  # all sizes are compared at the same number of tokens
    longest = np.full(len(levels), -np.inf)
    np.maximum.at(longest, level_of, rest)
    affected = getattr(e.fitted, this)[getattr(e.fitted, other) < longest[at_fitted]]
    if len(affected):
        listed = ", ".join(f"{value:.3g}" for value in affected[:_MAX_LISTED]) + (
            f" and {len(affected) - _MAX_LISTED} more" if len(affected) > _MAX_LISTED else "")
        yield (f"at {this.upper()} = {listed} the lowest loss is not that of the largest "
               f"{other.upper()}: noise, or a run that overfits or diverged unnoticed", set())


def _lost_resamples(e: Evidence) -> Iterator[Finding]:
    if e.boot is not None:
        lost = e.boot.resamples - e.boot.converged
        if e.boot.converged < 2:
            yield ("no resample of the bootstrap converged: there are no intervals",
                   {*e.form.parameters})
        elif lost > _RESAMPLES_LOST * e.boot.resamples:
            yield (f"{lost} of {e.boot.resamples} resamples did not converge or drew too few "
                   "distinct runs, and are left out of the intervals", set())


def _wide_intervals(e: Evidence) -> Iterator[Finding]:
    for name in e.form.parameters:
        interval = e.intervals.get(name)
        if interval is None or name in e.form.signed:
            continue
        low, high = interval
        factor = _EXPONENT_FACTOR if name in e.form.exponents else _COEFFICIENT_FACTOR
        if not (low > 0 and high <= low * factor):
            yield (f"{name} is poorly determined: its 90% interval is {low:.3g} to {high:.3g}",
                   set())
