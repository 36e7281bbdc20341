"""Forecasts of runs that do not exist yet, written to a ledger."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scaling.errors import UserError, option
from scaling.laws.arguments import checked
from scaling.laws.columns import label_column, run_ids
from scaling.laws.fitted import Fit
from scaling.laws.forecasts.ledger import (
    QUANTILES,
    ForecastingLaw,
    SealedForecast,
    append,
    check_note,
    sha256_of,
)
from scaling.laws.forecasts.outcomes import (
    RunColumns,
    fitted_rows,
    has_point,
    law_table,
    unfinished,
)
from scaling.laws.forms.variables import Counting
from scaling.laws.law import Law
from scaling.laws.read import ROLES, frame_of
from scaling.laws.table import RunsTable
from scaling.outputs import finite


@checked
def seal_forecast(
    law: Fit | Law, ledger: str | Path, *, run_id: str | None = None, note: str = "",
    name: str | None = None, **values: float,
) -> SealedForecast:
    """Seal a forecast of one run: append the prediction, its quantiles and a hash to a ledger.

    `seal_forecast(fit, "forecasts.jsonl", n=1e9, d=2e10)`

    Args:
        law: from `fit`, `load` or `published`.
        ledger: a ledger, or a new file.
        run_id: the run; without it, the forecast is of every run with these values.
        note: a text to keep with it.
        name: of the law in the ledger; by default that of its form.
        values: n, d, c and the law's other variables, one number each; C = 6 N D if only n and d
            are given.

    Returns:
        The record; the earlier one if the ledger has this forecast already.

    Raises:
        UserError: a variable is missing or impossible, or the file is no ledger or was changed.
        DataError: the fit did not converge.
        OSError: the ledger cannot be written.
    """
    content = forecast(law, values, run_id=run_id, note=note, name=name)
    return append(Path(ledger), [content])[0]


@checked
def seal_heldout(
    laws: Fit | Law | Mapping[str, Fit], ledger: str | Path, runs: pd.DataFrame | str | Path, *,
    n: str | None = None, d: str | None = None, c: str | None = None,
    counting: Counting | None = None, extra: Mapping[str, str | None] | None = None,
    note: str = "",
) -> list[SealedForecast]:
    """Seal a forecast of every held-out run of a table that is not finished.

    `seal_heldout(fit, "forecasts.jsonl", "results/quickstart")`

    Args:
        laws: one law, or several by name.
        ledger: a ledger, or a new file.
        runs: a data frame, a CSV or Parquet file, or a folder with `runs.csv`; held-out runs have
            the role `heldout`.
        n: column of parameters; by default, for this and the next three, as in the runs that the
            law was fitted to.
        d: column of training tokens.
        c: column of training FLOPs.
        counting: which parameters N counts.
        extra: columns of further variables, by name.
        note: a text to keep with each forecast.

    Returns:
        The records; empty if every held-out run is finished.

    Raises:
        UserError: there is no held-out run, or as `seal_forecast`.
    """
    frame, source = frame_of(runs)
    columns = RunColumns(n, d, c, counting=counting, extra=extra or {})
    named = [*laws.items()] if isinstance(laws, Mapping) else [(None, laws)]
    return append(Path(ledger), [
        content for name, law in named
        for content in heldout_forecasts(law, frame, source, columns, note=note, name=name)])


def heldout_forecasts(
    law: Fit | Law, frame: pd.DataFrame, source: str, columns: RunColumns, *, note: str = "",
    name: str | None = None,
) -> list[dict[str, Any]]:
    """The content of a record for every held-out run of a table that is not finished.

    Raises:
        UserError: there is no held-out run, or as `seal_forecast`.
    """
    fit = _as_fit(law)
    waiting = waiting_runs(frame, source)
    variables = fit.law.form.variables
    table = law_table(frame, source, describe(fit.law, name), variables, columns)
    # N and D tell a run from others, even if the law depends on one of them alone.
    return [forecast(fit, {v: float(column[0]) for v, column in run.values.items()
                           if v in variables or (v in ("n", "d") and not math.isnan(column[0]))},
                     run_id=run.run_id, note=note, name=name, table=table)
            for run in table.heldout if run.run_id in waiting]


def waiting_runs(frame: pd.DataFrame, source: str) -> list[str]:
    """The held-out runs of a table that are not done, diverged or failed.

    Raises:
        UserError: there is no held-out run.
    """
    names = run_ids(frame, source)
    roles = label_column(frame, source, "role", ROLES, names, {})
    heldout = [name for name, role in zip(names or (), roles, strict=False) if role == "heldout"]
    if not heldout:
        raise UserError(f"{source}: has no held-out runs, which have a run_id and the role "
                        "heldout; give the values of a run, "
                        f"{option('n= and d=', '--n N and --d D')}")
    status = unfinished(frame, source)
    return [name for name in heldout if status.get(name) == "planned"]


def forecast(
    law: Fit | Law, values: Mapping[str, float], *, run_id: str | None = None, note: str = "",
    name: str | None = None, table: RunsTable | None = None,
) -> dict[str, Any]:
    """The content of a record, without what the ledger adds to it.

    Args:
        law: the law.
        values: of its variables, and of others among n, d and c.
        run_id: the run, or None.
        note: a text.
        name: of the law; by default that of its form.
        table: runs among which those that the law was fitted to may be.

    Raises:
        UserError, DataError: as `seal_forecast`.
    """
    check_note(note)
    fit = _as_fit(law)
    law = fit.law
    if law.form.labels:
        raise UserError(f"{law.name}: forecasts of laws of {', '.join(law.form.labels)}s cannot be "
                        "sealed, only of numbers")
    point = {v: _number(v, value) for v, value in values.items()}
    if "c" in law.form.variables and "c" not in point and {"n", "d"} <= {*point}:
        point["c"] = 6 * point["n"] * point["d"]
    # `predict` reports what is missing, unknown or impossible.
    inputs: dict[str, Any] = {
        v: value for v, value in point.items()
        if v in law.form.variables or v not in ("n", "d", "c")}
    prediction = fit.predict(**inputs)
    if not isinstance(prediction, float) or not 0 < prediction < math.inf:
        raise UserError(f"{law.name}: predicts {prediction!s:.40}, where a positive number is "
                        "expected; forecast a run within the reach of the law")
    arrays = {v: np.array([inputs[v]]) for v in law.form.variables}
    quantiles = law.prediction_quantiles(arrays, QUANTILES)
    described = describe(law, name)
    return {
        "law": vars(described),
        "run": {"run_id": run_id, "variables": point},
        "fitted_point": _fitted_point(fit, described, point, table),
        "prediction": prediction, "interval": law.prediction_interval(arrays),
        "quantiles": quantiles and dict(zip(map(str, QUANTILES), quantiles, strict=True)),
        "note": note,
    }


def describe(law: Law, name: str | None = None) -> ForecastingLaw:
    """What a record keeps of a law, under its own name or another."""
    robust = law.residual_loss
    return ForecastingLaw(
        name or law.name, law.name, law.form.formula, law.params, law.convention,
        {"kind": robust.kind, "delta": robust.delta}, law.n_runs, law.data_sha256,
        sha256_of(finite(law.to_json())))


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{name}={value!r:.40}: one number is expected, since a forecast is of one "
                        "run") from None


def _as_fit(law: Fit | Law) -> Fit:
    return law if isinstance(law, Fit) else Fit(law, law.residual_loss)


def _fitted_point(
    fit: Fit, law: ForecastingLaw, point: Mapping[str, float], table: RunsTable | None
) -> bool | None:
    """Whether a run with these values is among the runs that the law was fitted to, if they are
    known."""
    if fit.table is not None:
        rows = fit.law.form.fitted_rows(fit.table)
        return has_point(fit.table.take(rows), point)
    rows_of_law = None if table is None else fitted_rows(table, law)
    if table is None or rows_of_law is None:
        return None
    return has_point(table.take(rows_of_law), point)
