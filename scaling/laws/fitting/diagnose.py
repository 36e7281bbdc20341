"""What a fit must admit, in plain words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.laws.forms.form import Form
from scaling.laws.forms.powers import PowerSum
from scaling.laws.law import Bootstrap, Interval
from scaling.laws.runs import checks
from scaling.laws.runs.table import RunsTable

Array = NDArray[np.float64]
Finding = tuple[str, set[str]]
"""A warning, and the parameters that it leaves undetermined."""

_SPREAD = 0.1         # of log D at given N below which N and D cannot be told apart
_VANISHED = 1e-4      # of the loss, below which a term is as good as absent
_CONDITION = 1e10     # of the Hessian, scaled to a unit diagonal
_AGREEMENT = 0.5      # of the starts
_NAMED = 10           # values in one message
_RESAMPLES_LOST = 0.05
_COEFFICIENT_FACTOR = 100.0   # between the ends of an interval that says little
_EXPONENT_FACTOR = 3.0


@dataclass(frozen=True)
class Evidence:
    """What a fit knows about itself. `x` [R, V] is centred; `theta` [P] is the optimum."""

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
    questions = (_unconverged, _input, _collinear, _vanished, _rising, _conditioning, _starts,
                 _few_runs, _not_the_longest, _lost_resamples, _wide)
    findings = [finding for question in questions for finding in question(evidence)]
    unknown = {name for _, names in findings for name in names}
    if unknown & {*evidence.form.exponents}:
        unknown |= {"a", "b"}
    return [warning for warning, _ in findings], unknown


def _unconverged(e: Evidence) -> Iterator[Finding]:
    if not e.convergence["converged"]:
        yield ("the fit did not converge: its numbers are where the optimizer gave up, not a law",
               {*e.form.parameters})


def _input(e: Evidence) -> Iterator[Finding]:
    """What was wrong before any law was fitted."""
    for warning in (*e.table.warnings, *checks.outcome(e.form, e.table)):
        yield warning, set()


def _collinear(e: Evidence) -> Iterator[Finding]:
    if {"n", "d"} <= {*e.form.variables}:
        n, d = (e.x[:, e.form.variables.index(v)] for v in ("n", "d"))
        slope, level = np.polyfit(n, d, 1)
        spread = float(np.std(d - slope * n - level))
        if spread < _SPREAD:
            yield (
                f"D follows from N in these runs (D ~ N^{slope:.2f}, and at given N, D varies "
                f"by {100 * spread:.1f}% only): what N does and what D does cannot be told apart; "
                "train some size on several token counts",
                {*e.form.of_variables},
            )


def _vanished(e: Evidence) -> Iterator[Finding]:
    if isinstance(e.form, PowerSum) and len(e.form.terms) > 1:
        shares = e.form.shares(e.theta[None], e.x)[0].max(axis=1)
        for term, share in zip(e.form.terms, shares, strict=True):
            if share < _VANISHED:
                names = {term.coefficient, *(exponent for _, exponent in term.powers)}
                yield (f"the term of {term.coefficient} has vanished from the fit: these runs show "
                       f"no sign of it, and do not determine {' or '.join(sorted(names))}", names)


def _rising(e: Evidence) -> Iterator[Finding]:
    for name in e.form.exponents:
        value = e.params[name]
        if not value > 0:
            yield (f"{name} is {value:.3g}: the loss does not fall along it in these runs, and a "
                   "power law says nothing", {*e.form.of_variables})


def _conditioning(e: Evidence) -> Iterator[Finding]:
    condition = e.convergence["condition"]
    if condition is not None and condition > _CONDITION:
        yield (f"the Hessian's condition number is {condition:.1e}: some combination of parameters "
               "hardly changes the fit, so take the parameters together, not one by one", set())


def _starts(e: Evidence) -> Iterator[Finding]:
    agreement = float(e.convergence["start_agreement"] or 0)
    if agreement < _AGREEMENT:
        yield (f"only {100 * agreement:.0f}% of the starts end at the best optimum: there are "
               "others, and there may be a better one", set())


def _few_runs(e: Evidence) -> Iterator[Finding]:
    runs, parameters = e.fitted.loss.size, len(e.form.parameters)
    if runs < 2 * parameters:
        yield (f"{runs} runs for {parameters} parameters: the intervals are too narrow", set())


def _not_the_longest(e: Evidence) -> Iterator[Finding]:
    """Kaplan's laws of one variable want the other one out of the way."""
    if e.form.envelope not in ("n", "d"):
        return
    this, other = ("n", "d") if e.form.envelope == "n" else ("d", "n")
    values, rest = getattr(e.table, this), getattr(e.table, other)
    levels, place, times = np.unique(values, return_inverse=True, return_counts=True)
    at_fitted = np.searchsorted(levels, getattr(e.fitted, this))
    alone = int((times[at_fitted] == 1).sum())
    if alone > e.fitted.loss.size / 2:
        yield (f"{alone} of {e.fitted.loss.size} values of {this.upper()} have one run only, so "
               f"its loss is not the lowest that {other.upper()} allows, which this law is about",
               set())
    if this == "n" and len(np.unique(e.fitted.d)) == 1:
        return  # sizes compared on the same tokens, as they should be
    longest = np.full(len(levels), -np.inf)
    np.maximum.at(longest, place, rest)
    off = getattr(e.fitted, this)[getattr(e.fitted, other) < longest[at_fitted]]
    if len(off):
        at = ", ".join(f"{value:.3g}" for value in off[:_NAMED]) + (
            f" and {len(off) - _NAMED} more" if len(off) > _NAMED else "")
        yield (f"at {this.upper()} = {at} the lowest loss is not that of the largest "
               f"{other.upper()}: noise, or a run that overfits or diverged unseen", set())


def _lost_resamples(e: Evidence) -> Iterator[Finding]:
    if e.boot is not None:
        lost = e.boot.resamples - e.boot.converged
        if e.boot.converged < 2:
            yield ("no resample of the bootstrap converged: there are no intervals",
                   {*e.form.parameters})
        elif lost > _RESAMPLES_LOST * e.boot.resamples:
            yield (f"{lost} of {e.boot.resamples} resamples did not converge or drew too few "
                   "distinct runs, and are left out of the intervals", set())


def _wide(e: Evidence) -> Iterator[Finding]:
    for name in e.form.parameters:
        found = e.intervals.get(name)
        if found is None or name in e.form.signed:
            continue
        low, high = found
        exponent = name in e.form.exponents
        if not (low > 0 and high <= low * (_EXPONENT_FACTOR if exponent else _COEFFICIENT_FACTOR)):
            yield (f"{name} is poorly determined: its 90% interval is {low:.3g} to {high:.3g}",
                   set())
