"""The search for the lowest minimum of a fit: from many starting points, along valleys, and within
the bounds of exponents."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scaling.laws.fitting.minimise import Minimum, minimise
from scaling.laws.fitting.valley import follow_valley
from scaling.laws.forms.form import MOST_EXPONENT, Form
from scaling.laws.forms.losses import ResidualLoss
from scaling.laws.forms.powers import PowerSum
from scaling.laws.forms.wrapped import unwrapped

Array = NDArray[np.float64]

SAME = 1e-6
"""Relative difference of the objective within which two optima are the same."""

_MOST_WIDE = 64      # wide starts that are minimised to the end: those with the lowest objective
_SCREENING_STEPS = 8  # after these steps
_SUBSET = 1_000      # most runs that every start is fitted to
_MAX_REFINED = 8     # different optima of the subset that are refined on all runs
_VALLEY = 1e-3       # relative difference of objectives along one valley
_NEAR = 0.3          # objectives so much above the lowest are followed along their valleys, too
_MAX_FOLLOWED = 3


def search(
    form: Form, x: Array, y: Array, loss: Array, robust: ResidualLoss
) -> tuple[Array, Minimum]:
    """The form's starts, the minimum that each of them leads to, and then the minima of the most
    promising of its wide starts.

    With many runs the starts are fitted to an evenly spaced subset. Of the minima with equal
    objective one is then refined on all runs, for the best few objectives.
    """
    subset = slice(None, None, -(-len(y) // _SUBSET))
    few_x, few_y = x[subset], y[subset]
    starts = form.starts(few_x, loss[subset])
    wide = form.wide_starts(few_x, loss[subset])
    if len(wide) > _MOST_WIDE:
        screened = minimise(form, few_x, few_y, np.ones((len(wide), len(few_y))), wide, robust,
                            steps=_SCREENING_STEPS)
        wide = wide[np.argsort(screened.value, kind="stable")[:_MOST_WIDE]]
    begin = np.concatenate([starts, wide])
    minima = minimise(form, few_x, few_y, np.ones((len(begin), len(few_y))), begin, robust)
    if len(y) <= _SUBSET:
        return starts, minima
    order = np.argsort(minima.value)
    is_new = np.diff(minima.value[order], prepend=-np.inf) > SAME * minima.value[order]
    firsts = np.flatnonzero(is_new)[:_MAX_REFINED]
    refined = minimise(
        form, x, y, np.ones((len(firsts), len(y))), minima.theta[order[firsts]], robust)
    # Every start gets the refined minimum of its group, or infinity if that was not refined.
    group = np.empty(len(begin), dtype=int)
    group[order] = np.minimum(np.cumsum(is_new) - 1, len(firsts) - 1)
    whole = Minimum(*(getattr(refined, name)[group] for name in Minimum.__dataclass_fields__))
    not_refined = np.zeros(len(begin), dtype=bool)
    not_refined[order] = np.cumsum(is_new) > len(firsts)
    whole.value[not_refined] = np.inf
    return starts, whole


def follow_valleys(
    form: Form, x: Array, y: Array, robust: ResidualLoss, minima: Minimum
) -> Minimum:
    """The minima, of which the lowest few that did not converge are followed along their valleys.

    Minima on one valley differ by less than `_VALLEY` and the lowest of them is followed; all of
    them get its end.
    """
    lowest = float(minima.value.min())
    if not np.isfinite(lowest):
        return minima
    parts = {name: getattr(minima, name).copy() for name in Minimum.__dataclass_fields__}
    order = np.argsort(minima.value, kind="stable")
    candidates = [i for i in order if not minima.converged[i]
                  and minima.value[i] <= lowest * (1 + _NEAR) + len(y) * 1e-16]
    followed = 0
    while candidates and followed < _MAX_FOLLOWED:
        first = candidates[0]
        same = [i for i in candidates
                if minima.value[i] <= minima.value[first] * (1 + _VALLEY) + len(y) * 1e-16]
        candidates = candidates[len(same):]
        end, is_end = follow_valley(form, x, y, minima.theta[first], robust)
        followed += 1
        if end.value[0] <= minima.value[first]:
            for name, values in parts.items():
                values[same] = getattr(end, name)[0]
            parts["converged"][same] = is_end
    return Minimum(**parts)


def lowest_few(minima: Minimum) -> list[int]:
    """Indices of the lowest few of the different minima, the lowest first."""
    order = np.argsort(minima.value, kind="stable")
    value = minima.value[order]
    is_new = np.diff(value, prepend=-np.inf) > SAME * np.abs(value)
    is_new[0] = True  # also if none is finite
    return [int(index) for index in order[is_new][:_MAX_REFINED]]


def at_bounds(
    form: Form, x_RV: Array, y_R: Array, robust: ResidualLoss, theta_P: Array
) -> Array:
    """theta, [P], with exponents that are too large at the bound, the largest first, and the others
    fitted again; unchanged if none is."""
    if not large_exponents(form, theta_P):
        return theta_P
    base, names = unwrapped(form), form.fitted_parameters
    held: tuple[int, ...] = ()
    while True:
        large = [i for i in map(names.index, large_exponents(form, theta_P)) if i not in held]
        if large:
            held += (max(large, key=lambda i: float(abs(theta_P[i]))),)
        bounded = theta_P.copy()
        bounded[list(held)] = np.clip(theta_P[list(held)], -MOST_EXPONENT, MOST_EXPONENT)
        for term in base.terms if isinstance(base, PowerSum) else ():
            powers = [(names.index(exponent), x_RV[:, base.variables.index(variable)])
                      for variable, exponent in term.powers if exponent in names]
            if term.coefficient in names and powers:  # the term keeps its size where it is largest
                before, after = (max(-sum(theta[i] * x_R for i, x_R in powers))
                                 for theta in (theta_P, bounded))
                bounded[names.index(term.coefficient)] += before - after
        found = minimise(form, x_RV, y_R, np.ones((1, len(y_R))), bounded[None], robust, held=held)
        theta_P = np.asarray(found.theta[0])
        if not {*map(names.index, large_exponents(form, theta_P))} - {*held}:
            return theta_P


def large_exponents(form: Form, theta_P: Array) -> tuple[str, ...]:
    """The exponents that are at `MOST_EXPONENT` or beyond."""
    return tuple(name for name in form.bounded_exponents
                 if abs(theta_P[form.fitted_parameters.index(name)]) >= MOST_EXPONENT)
