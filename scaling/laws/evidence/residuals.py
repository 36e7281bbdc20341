"""Residuals of a law, run by run, and their trends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.evidence.refit import form_label
from scaling.laws.forms.variables import VARIABLES
from scaling.laws.law import Law
from scaling.laws.show import PrintableResult, TextTable, rows_frame, text_table
from scaling.laws.table import RunsTable

Array = NDArray[np.float64]

SIGNIFICANT = 0.01
"""p-value below which a trend is significant."""
HEAVIEST = 5

_NORMAL_MAD = 1.4826  # standard deviation over median absolute deviation of a normal distribution
_MIN_RUNS = 5         # for a rank correlation


@dataclass(frozen=True)
class Residual(PrintableResult):
    """The residual of one run. `residual` is measured less predicted, in logarithms of the outcome
    if the form predicts them; `standardised` is in robust standard deviations (1.4826 times the
    median absolute deviation)."""

    run_id: str
    n: float
    d: float
    loss: float
    predicted: float
    residual: float
    standardised: float
    row: int | None = None
    """Its place in the table that was read, from 0."""


@dataclass(frozen=True)
class Trend(PrintableResult):
    """Spearman's rank correlation of the residuals with a variable."""

    variable: str
    rho: float
    p_value: float
    significant: bool


@dataclass(frozen=True, repr=False)
class Residuals(PrintableResult):
    """Residuals of the runs that the form is fitted to, their trends, and the run ids of the
    largest residuals."""

    form: str
    spread: float
    rows: tuple[Residual, ...]
    trends: tuple[Trend, ...]
    heaviest: tuple[str, ...]
    warnings: tuple[str, ...]

    def to_frame(self) -> pd.DataFrame:
        """The residuals as a data frame, one run a row, under its run_id; `row` is its place in the
        table that was read, such as `table.iloc[row]`."""
        return rows_frame(self.rows).set_index("run_id")

    def parts(self) -> list[str | TextTable]:
        """The largest residuals and the trends."""
        by_name = {row.run_id: row for row in self.rows}
        shown = [by_name[name] for name in self.heaviest]
        head = ("run", "N", "D", "measured", "predicted", "residual", "standardised")
        rows = [(r.run_id, r.n, r.d, r.loss, r.predicted, r.residual, r.standardised)
                for r in shown]
        trends = [(f"log {VARIABLES[t.variable].symbol}", t.rho, t.p_value, t.significant)
                  for t in self.trends]
        return [
            f"{self.form}: residuals of {len(self.rows)} runs, robust standard deviation "
            f"{self.spread:.3g}", text_table(head, rows),
            text_table(("trend with", "rho", "p", "significant"), trends),
            *(f"warning: {warning}" for warning in self.warnings)]


def residuals(law: Law, table: RunsTable, heaviest: int = HEAVIEST) -> Residuals:
    """Residuals of a law at the runs that its form is fitted to.

    A correct form leaves no trend. Residuals that rise or fall with N, D or C indicate a wrong
    form or a biased selection of runs.

    Args:
        law: a law fitted to these or other runs, or a published one.
        table: the runs.
        heaviest: number of the largest residuals that are listed.

    Raises:
        UserError: the table lacks one of the law's variables.
    """
    missing = [v for v in law.form.variables
               if v not in table.values or np.isnan(table.values[v]).any()]
    if missing:
        raise UserError(f"{law.name}: needs {' and '.join(VARIABLES[v].symbol for v in missing)} "
                        "of every run; name the columns when reading the table")
    runs = table.take(law.form.fitted_rows(table))
    predicted = law.loss(runs.values)
    residual = law.form.apply_link(runs.loss) - law.form.apply_link(predicted)
    median = float(np.median(residual))
    spread = _NORMAL_MAD * float(np.median(np.abs(residual - median)))
    standardised = residual / spread if spread > 0 else np.zeros_like(residual)
    rows = tuple(
        Residual(name, float(n), float(d), float(loss), float(expected), float(r), float(z), row)
        for name, n, d, loss, expected, r, z, row in
        zip(runs.run_id, runs.n, runs.d, runs.loss, predicted, residual, standardised,
            runs.rows.tolist() or [None] * len(residual), strict=True)
    )
    order = np.argsort(-np.abs(residual), kind="stable")[:heaviest]
    trends = tuple(trend for v in ("n", "d", "c")
                   if (trend := _trend(v, runs.values[v], residual)) is not None)
    warnings = tuple(
        f"residuals {'rise' if t.rho > 0 else 'fall'} with {VARIABLES[t.variable].symbol} (rank "
        f"correlation {t.rho:+.2f}, p = {t.p_value:.1g}): the form does not capture the dependence "
        f"on {VARIABLES[t.variable].symbol}"
        for t in trends if t.significant
    )
    return Residuals(form_label(law.form), spread, rows, trends,
                     tuple(runs.run_id[i] for i in order), warnings)


def _trend(variable: str, values: Array, residual: Array) -> Trend | None:
    """The trend of the residuals, or None if there are too few runs, the variable is unknown, or it
    or the residuals are constant."""
    if (np.isnan(values).any() or len(residual) < _MIN_RUNS
            or not (np.ptp(values) and np.ptp(residual))):
        return None
    correlation = scipy.stats.spearmanr(values, residual)
    rho, p_value = float(correlation.statistic), float(correlation.pvalue)
    return Trend(variable, rho, p_value, p_value < SIGNIFICANT)
