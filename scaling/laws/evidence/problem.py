"""A fit laid open: its arrays, its optimum, and refits of parts of its runs as one batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.fitting.fit import fit, form_named
from scaling.laws.fitting.minimise import Minimum, minimise
from scaling.laws.fitting.robust import Robust
from scaling.laws.forms.constrained import Constrained
from scaling.laws.forms.form import Form
from scaling.laws.law import Law
from scaling.laws.runs.table import RunsTable

Array = NDArray[np.float64]

SAME_SIZE = 0.02
"""Sizes whose N differ by less than this part are one size: read off a figure, or counted with
heads and without, the same model has slightly different N on different rows."""

_BETTER = 1e-6  # of an objective: a lower one is another optimum, not rounding


@dataclass(frozen=True)
class Problem:
    """The minimisation behind a law.

    `runs` are those that the form is fitted to; x [R, V] are its coordinates less their `centre`
    [V], y [R] the outcomes as it predicts them, `theta` [P] the optimum, `starts` [S, P].
    """

    law: Law
    runs: RunsTable
    robust: Robust
    centre: Array
    x: Array
    y: Array
    theta: Array
    starts: Array

    @property
    def form(self) -> Form:
        """The law's form."""
        return self.law.form

    @property
    def residuals(self) -> Array:
        """Measured less predicted outcomes at the optimum, as the form predicts them: [R]."""
        return np.asarray(self.y - self.form.predict(self.theta[None], self.x)[0])

    def objective(self, theta_BP: Array, w_BR: Array | float = 1.0) -> Array:
        """The sum over runs that fits minimise, [B]."""
        with np.errstate(all="ignore"):
            cost = self.robust.cost(self.y - self.form.predict(theta_BP, self.x))
        return np.asarray((w_BR * cost).sum(axis=-1))

    def params(self, theta_BP: Array) -> Array:
        """Printed parameters, [B, P]."""
        return self.form.report(theta_BP, self.centre)

    def refit(self, w_BR: Array, robust: Robust | None = None) -> Minimum:
        """Fits of weighted runs, B problems at once.

        Each begins at the optimum of all runs, and once more at one of the form's starts, in turn.
        Should any of those end lower, there are several optima, and all starts are tried.
        """
        def solve(begin_BP: Array, w: Array) -> Minimum:
            return minimise(self.form, self.x, self.y, w, begin_BP, robust or self.robust)

        found = solve(np.tile(self.theta, (len(w_BR), 1)), w_BR)
        turns = np.linspace(0, len(self.starts) - 1, len(w_BR)).round().astype(int)
        other = solve(self.starts[turns], w_BR)
        if (other.value < found.value * (1 - _BETTER)).any():
            every = solve(np.repeat(self.starts, len(w_BR), axis=0),
                          np.tile(w_BR, (len(self.starts), 1)))
            return _lowest(found, other, every)
        return _lowest(found, other)


def _lowest(*parts: Minimum) -> Minimum:
    """The best of several ends of each problem; parts hold all problems start by start."""
    problems = len(parts[0].value)
    fields = {name: np.concatenate([getattr(part, name) for part in parts])
              for name in Minimum.__dataclass_fields__}
    best = np.argmin(fields["value"].reshape(-1, problems), axis=0)
    place = best * problems + np.arange(problems)
    return Minimum(*(values[place] for values in fields.values()))


def prepare(table: RunsTable, form: Form | str, robust: Robust | None = None) -> Problem:
    """Fit a form to a table, and keep what later questions need.

    Raises:
        UserError: the form cannot be fitted to these runs, or the fit did not converge.
    """
    form = form_named(form) if isinstance(form, str) else form
    robust = robust or form.robust
    law = fit(table, form, robust=robust, resamples=0)
    if not law.converged:
        raise UserError(f"{form.name}: the fit of all {law.n_runs} runs did not converge, so there "
                        "is nothing to question it about; choose a simpler law or more runs")
    runs = table.take(form.rows(table))
    x = form.coordinates(runs.values)
    centre = x.mean(axis=0) if form.centred else np.zeros(x.shape[1])
    # A law of x is one of x - centre, whose own origin lies at -centre.
    theta = form.internal(form.report(form.internal(law.point), -centre))[0]
    y = form.linked(runs.loss)
    starts = form.starts(x - centre, runs.loss)
    return Problem(law, runs, robust, centre, x - centre, y, theta, starts)


def sizes_of(n: Array) -> NDArray[np.intp]:
    """The place of each run's size among the sizes, smallest first; see `SAME_SIZE`."""
    order = np.argsort(n, kind="stable")
    steps = np.diff(np.log(n[order]), prepend=np.log(n[order[:1]]))
    places = np.empty(len(n), dtype=np.intp)
    places[order] = np.cumsum(steps > np.log1p(SAME_SIZE))
    return places


def label(form: Form) -> str:
    """The form's name, and what is held or tied in it."""
    held = form.formula.removeprefix(form.of.formula) if isinstance(form, Constrained) else ""
    return form.name + held
