"""Diagnostics of a fit's standard errors and intervals."""

from __future__ import annotations

from collections.abc import Iterator

from scaling.laws.fitting.fit_evidence import Evidence, Finding
from scaling.laws.fitting.intervals import widths_differ

_RESAMPLES_LOST, _MOST_LOST = 0.05, 0.5  # shares, for a warning, and for no intervals
_COEFFICIENT_FACTOR = 100.0   # ratio of the ends of an interval that is too wide
_EXPONENT_FACTOR = 3.0
_UNKNOWN_COEFFICIENT, _UNKNOWN_EXPONENT = 1e12, 100.0  # of an interval that is no information
_LARGE_ERROR = 3.0    # standard errors over a parameter, from which it is not determined
_FEW_RESAMPLES = 40   # below which a 90% interval ends at one of the two most extreme ones


def few_resamples(e: Evidence) -> Iterator[Finding]:
    """Fewer resamples than intervals need."""
    if e.boot is not None and e.boot.resamples < _FEW_RESAMPLES:
        count = e.boot.resamples
        yield (f"{count} resample{'s' * (count != 1)}: too few for intervals, whose ends are then "
               f"the most extreme resamples; 1000 are usual, and {_FEW_RESAMPLES} the fewest",
               set())


def lost_resamples(e: Evidence) -> Iterator[Finding]:
    """Resamples that could not be fitted; without most of them there are no intervals."""
    if e.boot is not None:
        lost = e.boot.resamples - e.boot.converged
        if e.boot.converged < 2:
            yield ("no resample of the bootstrap converged: there are no intervals",
                   {*e.form.parameters})
        elif lost > _MOST_LOST * e.boot.resamples:
            yield (f"only {e.boot.converged} of {e.boot.resamples} resamples converged: these runs "
                   "do not determine the law, and there are no intervals", {*e.form.parameters})
        elif lost > _RESAMPLES_LOST * e.boot.resamples:
            yield (f"{lost} of {e.boot.resamples} resamples did not converge or drew too few "
                   "distinct runs, and are left out of the intervals", set())


def wide_intervals(e: Evidence, unknown: set[str]) -> Iterator[Finding]:
    """Intervals of the parameters that are not already `unknown`."""
    for name in e.form.parameters:
        interval = e.intervals.get(name)
        if interval is None or name in e.form.signed or name in unknown:
            continue
        low, high = interval
        if name in e.form.constants:
            if low == 0 and e.params[name] > 0 and e.boot is not None:
                index = e.form.parameters.index(name)
                share = float((e.boot.samples[:, index] == 0).mean())
                yield (f"{name} may be 0, its bound, where {share:.0%} of the resamples end; "
                       "intervals are then less reliable", set())
            continue
        if not e.is_loss and name in e.form.exponents and high < 0:
            low, high = -high, -low  # an exponent of an outcome that is no loss has either sign
        is_exponent = name in e.form.exponents
        factor = _EXPONENT_FACTOR if is_exponent else _COEFFICIENT_FACTOR
        if low > 0 and high > low * (_UNKNOWN_EXPONENT if is_exponent else _UNKNOWN_COEFFICIENT):
            yield (f"{name} is not determined: its 90% interval is {low:.3g} to {high:.3g}", {name})
        elif not (low > 0 and high <= low * factor):
            yield (f"{name} is poorly determined: its 90% interval is {low:.3g} to {high:.3g}",
                   set())


def large_errors(e: Evidence, unknown: set[str]) -> Iterator[Finding]:
    """Without resamples, parameters whose standard error is far larger than they are."""
    for name in e.form.parameters if e.boot is None else ():
        error = e.se_delta.get(name)
        if error is None or name in unknown or name in (*e.form.signed, *e.form.constants):
            continue
        if not error <= _LARGE_ERROR * abs(e.params[name]):
            yield (f"{name} is not determined: its standard error by the delta method is "
                   f"{error:.3g}", {name})


def skewed_intervals(e: Evidence, unknown: set[str]) -> Iterator[Finding]:
    """Intervals of the parameters that are not already `unknown`, where methods disagree on their
    width."""
    said = []
    for name, other in e.percentile.items():
        own = e.intervals.get(name)
        if own is None or other is None or name in unknown:
            continue
        if widths_differ(own, other):
            said.append(f"{name} {own[0]:.3g} to {own[1]:.3g} by BCa, {other[0]:.3g} to "
                        f"{other[1]:.3g} by percentiles")
    if said:
        yield (f"90% intervals depend on the method: {'; '.join(said)}; a profile shows which "
               "side is long", set())
