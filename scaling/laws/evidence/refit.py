"""A fit with its arrays and optimum, for batched refits to reweighted runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.fitting.fit_law import fit_law, form_named
from scaling.laws.fitting.minimise import Minimum, minimise
from scaling.laws.fitting.misfit import noise_factors
from scaling.laws.forms.constrained import Constrained
from scaling.laws.forms.form import Form
from scaling.laws.forms.losses import ResidualLoss
from scaling.laws.forms.wrapped import Wrapped, standardised
from scaling.laws.law import Law
from scaling.laws.table import RunsTable

Array = NDArray[np.float64]

SAME_SIZE = 0.02
"""Relative difference of N below which two runs count as the same size: the N of one model differs
slightly between rows if read off a figure, or counted with and without heads."""

_MIN_IMPROVEMENT = 1e-6  # relative: a larger decrease is another optimum, not rounding


@dataclass(frozen=True)
class PreparedFit:
    """A fitted law with the arrays of its minimisation.

    `form` is the law's, of which the residuals of noisy runs may be standardised. `runs` are those
    that it is fitted to, x [R, V] their coordinates less the `centre` [V], y [R] their linked
    outcomes, `theta` [P] the optimum, and `starts` [S, P] the form's starts.
    """

    law: Law
    form: Form
    runs: RunsTable
    robust: ResidualLoss
    centre: Array
    x: Array
    y: Array
    theta: Array
    starts: Array

    @property
    def residuals(self) -> Array:
        """Measured less predicted linked outcomes at the optimum: [R]."""
        return np.asarray(self.y - self.form.predict(self.theta[None], self.x)[0])

    def objective(self, theta_BP: Array, w_BR: Array | float = 1.0) -> Array:
        """The objective: the weighted sum of costs over runs, [B]."""
        with np.errstate(all="ignore"):
            cost = self.robust.cost(self.y - self.form.predict(theta_BP, self.x))
        return np.asarray((w_BR * cost).sum(axis=-1))

    def params(self, theta_BP: Array) -> Array:
        """Printed parameters, [B, P]."""
        return self.form.to_params(theta_BP, self.centre)

    def refit(self, w_BR: Array, robust: ResidualLoss | None = None) -> Minimum:
        """Refits with B vectors of run weights, as one batch.

        Each is started at the optimum of all runs, and at one of the form's starts, which differ
        between the refits. If any of the latter ends lower, there are several optima, and all
        starts are tried.
        """
        def solve(begin_BP: Array, w: Array) -> Minimum:
            return minimise(self.form, self.x, self.y, w, begin_BP, robust or self.robust)

        from_optimum = solve(np.tile(self.theta, (len(w_BR), 1)), w_BR)
        choice = np.linspace(0, len(self.starts) - 1, len(w_BR)).round().astype(int)
        from_start = solve(self.starts[choice], w_BR)
        if (from_start.value < from_optimum.value * (1 - _MIN_IMPROVEMENT)).any():
            from_all = solve(np.repeat(self.starts, len(w_BR), axis=0),
                             np.tile(w_BR, (len(self.starts), 1)))
            return _best_of(from_optimum, from_start, from_all)
        return _best_of(from_optimum, from_start)


def _best_of(*minima: Minimum) -> Minimum:
    """The lowest minimum of each of B problems; arguments hold [S * B] minima, start by start."""
    n_problems = len(minima[0].value)
    fields = {name: np.concatenate([getattr(minimum, name) for minimum in minima])
              for name in Minimum.__dataclass_fields__}
    best = np.argmin(fields["value"].reshape(-1, n_problems), axis=0)
    index = best * n_problems + np.arange(n_problems)
    return Minimum(*(values[index] for values in fields.values()))


def prepare(table: RunsTable, form: Form | str, robust: ResidualLoss | None = None) -> PreparedFit:
    """Fit a form to a table, and keep the arrays that refits need.

    Args:
        table: the runs.
        form: a form or its name.
        robust: loss of the residuals; the form's own by default.

    Raises:
        UserError: the form cannot be fitted to these runs, or the fit did not converge.
    """
    form = form_named(form) if isinstance(form, str) else form
    law = fit_law(table, form, robust=robust, resamples=0)
    robust = law.residual_loss
    if not law.converged:
        raise UserError(f"{form.name}: the fit of all {law.n_runs} runs did not converge, so it "
                        "cannot be analysed; choose a simpler law or more runs")
    runs = table.take(form.fitted_rows(table))
    x = form.coordinates(runs.values)
    form = form.scaled_to(x)
    centre = x.mean(axis=0) if form.centred else np.zeros(x.shape[1])
    # A law of x is a law of x - centre whose origin is at -centre.
    theta = form.from_params(form.to_params(form.from_params(law.point), -centre))[0]
    y = form.apply_link(runs.loss)
    starts = form.starts(x - centre, runs.loss)
    x = x - centre
    r = y - form.predict(theta[None], x)[0]
    working, x, y = standardised(
        form, x, y, noise_factors(runs, form, robust, r, len(form.fitted_parameters)))
    return PreparedFit(law, working, runs, robust, centre, x, y, theta, starts)


def group_sizes(n: Array) -> NDArray[np.intp]:
    """The index of each run's size among the distinct sizes, in increasing order; see
    `SAME_SIZE`."""
    order = np.argsort(n, kind="stable")
    steps = np.diff(np.log(n[order]), prepend=np.log(n[order[:1]]))
    size_index = np.empty(len(n), dtype=np.intp)
    size_index[order] = np.cumsum(steps > np.log1p(SAME_SIZE))
    return size_index


def form_label(form: Form) -> str:
    """The form's name, with its constraints."""
    while isinstance(form, Wrapped):
        form = form.base
    held = form.formula.removeprefix(form.base.formula) if isinstance(form, Constrained) else ""
    return form.name + held
