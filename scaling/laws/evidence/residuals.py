"""What a law leaves over, run by run, and whether there is anything in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from scaling.errors import UserError
from scaling.laws.evidence.problem import label
from scaling.laws.evidence.rows import Plain, aligned
from scaling.laws.law import Law
from scaling.laws.runs.table import RunsTable
from scaling.laws.variables import VARIABLES

Array = NDArray[np.float64]

SIGNIFICANT = 0.01
"""Probability of a trend as strong by chance, below which it is flagged."""
HEAVIEST = 5

_NORMAL_MAD = 1.4826  # standard deviations of a normal distribution in its median deviation
_FEWEST = 5           # runs, below which a rank correlation says nothing


@dataclass(frozen=True)
class Residual(Plain):
    """One run. `residual` is measured less predicted, of the logarithm of the outcome where the
    form predicts that; `standardised` is in robust standard deviations (1.4826 times the median
    deviation from the median)."""

    run_id: str
    n: float
    d: float
    loss: float
    predicted: float
    residual: float
    standardised: float


@dataclass(frozen=True)
class Trend(Plain):
    """Spearman's rank correlation of the residuals with a variable."""

    variable: str
    rho: float
    p_value: float
    significant: bool


@dataclass(frozen=True)
class Residuals(Plain):
    """Every run that the form is fitted to, the trends, and the names of the heaviest runs."""

    form: str
    spread: float
    rows: tuple[Residual, ...]
    trends: tuple[Trend, ...]
    heaviest: tuple[str, ...]
    warnings: tuple[str, ...]

    def text(self) -> str:
        """The heaviest runs and the trends, for the terminal."""
        by_name = {row.run_id: row for row in self.rows}
        shown = [by_name[name] for name in self.heaviest]
        head = ("run", "N", "D", "measured", "predicted", "residual", "standardised")
        rows = [(r.run_id, r.n, r.d, r.loss, r.predicted, r.residual, r.standardised)
                for r in shown]
        trends = [(f"log {VARIABLES[t.variable].symbol}", t.rho, t.p_value, t.significant)
                  for t in self.trends]
        return "\n".join([
            f"{self.form}: residuals of {len(self.rows)} runs, robust standard deviation "
            f"{self.spread:.3g}", aligned(head, rows),
            aligned(("trend with", "rho", "p", "significant"), trends),
            *(f"warning: {warning}" for warning in self.warnings)])


def residuals(law: Law, table: RunsTable, heaviest: int = HEAVIEST) -> Residuals:
    """Residuals of a law at the runs that its form is fitted to.

    A correct form leaves no trend. One that is wrong, or a filter of runs that is, shows as
    residuals that rise or fall with N, D or C.

    Args:
        law: fitted to these runs or to others, or published.
        table: the runs.
        heaviest: how many of the largest residuals to name.

    Raises:
        UserError: the table lacks one of the law's variables.
    """
    lacking = [v for v in law.form.variables
               if v not in table.values or np.isnan(table.values[v]).any()]
    if lacking:
        raise UserError(f"{law.name}: needs {' and '.join(VARIABLES[v].symbol for v in lacking)} "
                        "of every run; name the columns when the table is read")
    runs = table.take(law.form.rows(table))
    predicted = law.loss(runs.values)
    left = law.form.linked(runs.loss) - law.form.linked(predicted)
    middle = float(np.median(left))
    spread = _NORMAL_MAD * float(np.median(np.abs(left - middle)))
    standardised = left / spread if spread > 0 else np.zeros_like(left)
    rows = tuple(
        Residual(name, *map(float, numbers)) for name, *numbers in
        zip(runs.run_id, runs.n, runs.d, runs.loss, predicted, left, standardised, strict=True)
    )
    order = np.argsort(-np.abs(left), kind="stable")[:heaviest]
    trends = tuple(trend for v in ("n", "d", "c")
                   if (trend := _trend(v, runs.values[v], left)) is not None)
    warnings = tuple(
        f"residuals {'rise' if t.rho > 0 else 'fall'} with {VARIABLES[t.variable].symbol} (rank "
        f"correlation {t.rho:+.2f}, p = {t.p_value:.1g}): the form misses something along it"
        for t in trends if t.significant
    )
    return Residuals(label(law.form), spread, rows, trends,
                     tuple(runs.run_id[i] for i in order), warnings)


def _trend(variable: str, values: Array, left: Array) -> Trend | None:
    """None where the variable is not known or does not vary, or where the law is exact."""
    if np.isnan(values).any() or len(left) < _FEWEST or not (np.ptp(values) and np.ptp(left)):
        return None
    found = stats.spearmanr(values, left)
    rho, p_value = float(found.statistic), float(found.pvalue)
    return Trend(variable, rho, p_value, p_value < SIGNIFICANT)
