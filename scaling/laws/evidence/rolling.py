"""Rolling-origin validation: fit the smaller runs, predict the larger ones.

Laws are fitted in order to be extrapolated, and a law that follows its own runs best need not
foretell others best: a free E in particular moves with the largest runs that the fit has seen. The
origin, up to which runs are known, is rolled forward (Tashman 2000, International Journal of
Forecasting 16, p. 437).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.evidence.problem import label
from scaling.laws.evidence.rows import Plain, aligned
from scaling.laws.fitting.fit import fit, form_named
from scaling.laws.fitting.robust import Robust
from scaling.laws.forms.form import Form
from scaling.laws.runs.table import RunsTable
from scaling.laws.variables import VARIABLES

Array = NDArray[np.float64]

CUTS = 4
_FEW = 2.0  # runs for each parameter, below which a fit is said to have few


@dataclass(frozen=True)
class Forecast(Plain):
    """One form fitted to the runs up to one cut, and the others predicted.

    Errors are predicted over measured outcome, less one: `mean` of their sizes, `bias` of them
    with their signs, `worst` the largest with its sign, and the run that it is of. All are None
    where the form could not be fitted; `warning` says why, or what is to be kept in mind.
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
    """The largest predicted value of the variable, over the cut."""
    warning: str | None = None


@dataclass(frozen=True)
class Rolling(Plain):
    """Forecasts of several forms, form by form, each at every cut in turn."""

    by: str
    cuts: tuple[float, ...]
    forecasts: tuple[Forecast, ...]

    def text(self) -> str:
        """For the terminal."""
        symbol = VARIABLES[self.by].symbol
        head = ("form", f"{symbol} up to", "fitted", "predicted", "mean error %", "bias %",
                "worst %", "worst run")
        rows = [(f.form, f.cut, f.n_fitted, f.n_predicted, *map(_percent, (f.mean, f.bias,
                 f.worst)), f.worst_run or "") for f in self.forecasts]
        return "\n".join([aligned(head, rows), *(
            f"warning: {f.form} at {symbol} = {f.cut:.3g}: {f.warning}"
            for f in self.forecasts if f.warning)])


def rolling_origin(
    table: RunsTable,
    forms: Sequence[Form | str],
    by: Literal["c", "n", "d"] = "c",
    cuts: int | Sequence[float] = CUTS,
    *,
    robust: Robust | None = None,
) -> Rolling:
    """Fit each form to the runs up to each cut, and predict all runs beyond it.

    Every form is asked about the same runs, also one that is fitted to an envelope alone.

    Args:
        table: the runs.
        forms: forms or their names; constrained ones, such as with E fixed, beside free ones.
        by: the variable that is cut.
        cuts: how many, spread evenly over the runs; or the values themselves, of which runs at a
            cut belong to the fit.
        robust: what residuals cost; each form's own by default.

    Raises:
        UserError: there is no form, the variable is not known, or a cut leaves nothing on a side.
    """
    chosen = [form_named(form) if isinstance(form, str) else form for form in forms]
    if not chosen:
        raise UserError("rolling_origin: at least one form is expected, such as chinchilla")
    if by not in ("c", "n", "d"):
        raise UserError(f"rolling_origin: by {by!r}; expected is c, n or d")
    values = table.values[by]
    if np.isnan(values).any():
        raise UserError(f"rolling_origin: needs {VARIABLES[by].symbol} of every run; name its "
                        "column, or cut by another variable")
    places = _cuts(values, by, cuts)
    forecasts = tuple(_forecast(table, form, values, cut, robust)
                      for form in chosen for cut in places)
    return Rolling(by, places, forecasts)


def _cuts(values: Array, by: str, cuts: int | Sequence[float]) -> tuple[float, ...]:
    """Cuts in rising order, each a value with runs on both sides."""
    low, high = float(values.min()), float(values.max())
    if isinstance(cuts, int):
        parts = np.arange(1, cuts + 1) / (cuts + 1)
        found = np.unique(np.quantile(values, parts, method="lower"))
        found = found[found < high]
        if not found.size:
            raise UserError(f"rolling_origin: {cuts} cuts of {len(np.unique(values))} distinct "
                            f"values of {VARIABLES[by].symbol}; at least one cut and two values "
                            "are needed")
        return tuple(map(float, found))
    outside = [cut for cut in cuts if not low <= cut < high]
    if outside or not len(cuts):
        raise UserError(f"rolling_origin: cut {outside[0] if outside else 'list of none'}: values "
                        f"of {VARIABLES[by].symbol} from {low:.4g} to below {high:.4g} are "
                        "expected, so that runs stand on both sides")
    return tuple(sorted({float(cut) for cut in cuts}))


def _forecast(
    table: RunsTable, form: Form, values: Array, cut: float, robust: Robust | None
) -> Forecast:
    known, ahead = np.flatnonzero(values <= cut), np.flatnonzero(values > cut)
    past, future = table.take(known), table.take(ahead)
    try:
        law = fit(past, form, robust=robust, resamples=0)
    except UserError as problem:
        return Forecast(label(form), form.formula, cut, len(known), len(ahead),
                        warning=str(problem))
    fitted = int(law.n_runs or 0)
    if not law.converged:
        return Forecast(label(form), form.formula, cut, fitted, len(ahead),
                        warning="the fit did not converge")
    errors = law.loss(future.values) / future.loss - 1
    worst = int(np.argmax(np.abs(errors)))
    count = law.form.internal(law.point).shape[1]
    few = (f"{fitted} runs for {count} parameters: too few to say what the form could do"
           if fitted < _FEW * count else None)
    return Forecast(
        label(form), form.formula, cut, fitted, len(ahead), float(np.abs(errors).mean()),
        float(errors.mean()), float(errors[worst]), future.run_id[worst],
        float(values[ahead].max() / cut), few,
    )


def _percent(error: float | None) -> float | None:
    return None if error is None else 100 * error
