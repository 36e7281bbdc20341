"""Rolling-origin validation: fit the smaller runs, predict the larger ones.

Laws are fitted for extrapolation, and the law that fits its own runs best need not predict others
best: a free E in particular depends on the largest runs of the fit. The origin, up to which runs
are fitted, is rolled forward (Tashman 2000, International Journal of Forecasting 16, p. 437).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.evidence.refit import form_label
from scaling.laws.fitting.fit_law import fit_law, form_named
from scaling.laws.forms.form import Form
from scaling.laws.forms.losses import ResidualLoss
from scaling.laws.forms.variables import VARIABLES
from scaling.laws.show import PrintableResult, TextTable, rows_frame, text_table
from scaling.laws.table import RunsTable

Array = NDArray[np.float64]

CUTS = 4
_MIN_RUNS_PER_PARAMETER = 2.0  # below which a warning is added


@dataclass(frozen=True)
class Forecast(PrintableResult):
    """Predictions of the runs beyond one cut by one form fitted to the runs up to it.

    Errors are predicted over measured outcome, less one: `mean` is their mean absolute value,
    `bias` their mean, `worst` the largest with its sign, and `worst_run` its run. All are None if
    the form could not be fitted; `warning` is then the reason, else a caveat or None.
    """

    form: str
    formula: str
    cut: float
    n_fitted: int
    n_predicted: int
    mean: float | None = None
    bias: float | None = None
    worst: float | None = None
    worst_run: str | None = None
    reach: float | None = None
    """Largest value of the variable among the predicted runs, divided by the cut."""
    warning: str | None = None


@dataclass(frozen=True, repr=False)
class Rolling(PrintableResult):
    """Forecasts of several forms at every cut, ordered by form, then by cut."""

    by: str
    cuts: tuple[float, ...]
    forecasts: tuple[Forecast, ...]

    def to_frame(self) -> pd.DataFrame:
        """The forecasts as a data frame, one a row."""
        return rows_frame(self.forecasts)

    def parts(self) -> list[str | TextTable]:
        """A table of the forecasts, and their warnings."""
        symbol = VARIABLES[self.by].symbol
        head = ("form", f"{symbol} up to", "fitted", "predicted", "mean error %", "bias %",
                "worst %", "worst run")
        rows = [(f.form, f.cut, f.n_fitted, f.n_predicted, *map(_percent, (f.mean, f.bias,
                 f.worst)), f.worst_run or "") for f in self.forecasts]
        return [text_table(head, rows), *(
            f"warning: {f.form} at {symbol} = {f.cut:.3g}: {f.warning}"
            for f in self.forecasts if f.warning)]


def rolling_origin(
    table: RunsTable,
    forms: Sequence[Form | str],
    by: str = "c",
    cuts: int | Sequence[float] = CUTS,
    *,
    robust: ResidualLoss | None = None,
) -> Rolling:
    """Fit each form to the runs up to each cut, and predict all runs beyond it.

    Every form predicts the same runs, including a form that is fitted to an envelope only.

    Args:
        table: the runs.
        forms: forms or their names, which may be constrained, such as with E fixed.
        by: the variable that is cut, n, d or c, or its column.
        cuts: number of cuts, spread evenly over the runs, or their values; runs at a cut belong to
            the fit.
        robust: loss of the residuals; each form's own by default.

    Raises:
        UserError: there is no form, the variable is unknown, or a cut leaves no runs on one side.
    """
    chosen = [form_named(form) if isinstance(form, str) else form for form in forms]
    if not chosen:
        raise UserError("rolling_origin: at least one form is expected, such as chinchilla")
    named, by = by, table.variable_named(by)
    if by not in ("c", "n", "d"):
        columns = "".join(f", {table.columns[v]}" for v in ("n", "d", "c") if v in table.columns)
        raise UserError(f"rolling: by={named!r:.40}: one of n, d, c{columns} is expected")
    if not (table.loss > 0).all():
        raise UserError("rolling: needs positive outcomes, since errors are relative to them; "
                        f"{table.column_label('loss')} has {float(table.loss.min()):.4g}")
    values = table.values[by]
    if np.isnan(values).any():
        raise UserError(f"rolling_origin: needs {VARIABLES[by].symbol} of every run; name its "
                        "column, or cut by another variable")
    cut_values = _cuts(values, by, cuts)
    forecasts = tuple(_forecast(table, form, values, cut, robust)
                      for form in chosen for cut in cut_values)
    return Rolling(by, cut_values, forecasts)


def _cuts(values: Array, by: str, cuts: int | Sequence[float]) -> tuple[float, ...]:
    """Cuts in increasing order, each with runs on both sides."""
    low, high = float(values.min()), float(values.max())
    if isinstance(cuts, int):
        quantiles = np.arange(1, cuts + 1) / (cuts + 1)
        cut_values = np.unique(np.quantile(values, quantiles, method="lower"))
        cut_values = cut_values[cut_values < high]
        if not cut_values.size:
            raise UserError(f"rolling_origin: {cuts} cuts of {len(np.unique(values))} distinct "
                            f"values of {VARIABLES[by].symbol}; at least one cut and two values "
                            "are needed")
        return tuple(map(float, cut_values))
    outside = [cut for cut in cuts if not low <= cut < high]
    if outside or not len(cuts):
        cut_text = f"cut {outside[0]}" if outside else "no cuts"
        raise UserError(f"rolling_origin: {cut_text}: values of {VARIABLES[by].symbol} from "
                        f"{low:.4g} to below {high:.4g} are expected, so that there are runs on "
                        "both sides")
    return tuple(sorted({float(cut) for cut in cuts}))


def _forecast(
    table: RunsTable, form: Form, values: Array, cut: float, robust: ResidualLoss | None
) -> Forecast:
    below, above = np.flatnonzero(values <= cut), np.flatnonzero(values > cut)
    past, future = table.take(below), table.take(above)
    try:
        law = fit_law(past, form, robust=robust, resamples=0)
    except UserError as error:
        return Forecast(form_label(form), form.formula, cut, len(below), len(above),
                        warning=str(error))
    n_fitted = int(law.n_runs or 0)
    if not law.converged:
        return Forecast(form_label(form), form.formula, cut, n_fitted, len(above),
                        warning="the fit did not converge")
    errors = law.loss(future.values) / future.loss - 1
    worst = int(np.argmax(np.abs(errors)))
    n_params = law.form.from_params(law.point).shape[1]
    warning = (f"{n_fitted} runs for {n_params} parameters: too few to judge the form"
               if n_fitted < _MIN_RUNS_PER_PARAMETER * n_params else None)
    return Forecast(
        form_label(form), form.formula, cut, n_fitted, len(above), float(np.abs(errors).mean()),
        float(errors.mean()), float(errors[worst]), future.run_id[worst],
        float(values[above].max() / cut), warning,
    )


def _percent(error: float | None) -> float | None:
    return None if error is None else 100 * error
