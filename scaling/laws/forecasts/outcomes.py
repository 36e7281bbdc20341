"""The finished run that a forecast is about: found in a table by its name or its values."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scaling.errors import UserError, option
from scaling.laws.columns import label_column, row_label, run_ids
from scaling.laws.forecasts.ledger import ForecastingLaw, SealedForecast
from scaling.laws.forms.catalogue import FORMS
from scaling.laws.forms.variables import N_COLUMNS, Counting
from scaling.laws.read import ROLES, from_frame, statuses_of
from scaling.laws.table import RunsTable

TOLERANCE = 1e-3
"""Largest relative difference between a run's N, D and so on and those of a forecast without a
run_id: a law's loss then changes by a few hundredths of a percent."""

_SIZES = ("n", "d", "c")
_NATS = "nats per token"

Times = Callable[[str], tuple[datetime | None, datetime | None]]
"""When the run of a run_id began and ended; None for what is not known."""


@dataclass(frozen=True)
class RunColumns:
    """The columns and rows of a runs table that the user named; None for those of a law's
    convention."""

    n: str | None = None
    d: str | None = None
    c: str | None = None
    loss: str | None = None
    counting: Counting | None = None
    extra: Mapping[str, str | None] = field(default_factory=dict)
    where: str | None = None


class FinishedRun(NamedTuple):
    """A finished run as a law counts it."""

    run_id: str
    values: Mapping[str, float]
    """N, D, C and other variables."""
    outcome: float
    fitted: bool | None
    """Whether the law was fitted to a run with these values; None if that is not known."""


def law_table(
    frame: pd.DataFrame, source: str, law: ForecastingLaw, variables: Collection[str],
    columns: RunColumns,
) -> RunsTable:
    """A runs table read as a law counts N, D and C.

    Args:
        frame: the table.
        source: its name in messages.
        law: whose convention says which columns are read.
        variables: those that have to be read.
        columns: those that the user named.

    Raises:
        UserError: a column is missing, or a value is impossible.
    """
    convention = law.convention
    outcome = convention.get("loss", _NATS)
    if columns.loss is None and outcome != _NATS:
        raise UserError(f"{source}: {law.name:.40} predicts {outcome!s:.80}; give its column with "
                        f"{option('loss=COLUMN', '--loss COLUMN')}")
    sizes = {v: getattr(columns, v) or _column(convention.get(v)) for v in _SIZES}
    counting: Counting | None = columns.counting
    if counting is None and sizes["n"] is None:
        counting = next((name for name in N_COLUMNS if name == convention.get("n")), None)
    # The hash of fitted runs includes N, D and C if their table had them.
    known = [] if law.data_sha256 is None else [
        v for v in _SIZES if convention.get(v) not in (None, "not given", "not recorded")]
    return from_frame(
        frame, source, n=sizes["n"], d=sizes["d"], c=sizes["c"],
        loss=columns.loss or convention.get("outcome"),
        counting=counting, where=columns.where,
        extra={v: columns.extra.get(v) or _column(convention.get(v))
               for v in variables if v not in _SIZES},
        needs=[v for v in _SIZES if v in variables or v in known])


def _column(counted: Any) -> str | None:
    """The column of a variable in a convention, which has `column NAME`."""
    text = str(counted)
    return text.removeprefix("column ") if text.startswith("column ") else None


def with_former_runs(frame: pd.DataFrame, source: str) -> pd.DataFrame:
    """The table with the runs that are no longer in their sweep among the held-out ones: a forecast
    of such a run has an outcome, too."""
    if "role" not in frame:
        return frame
    roles = label_column(frame, source, "role", ROLES, None, {})
    return frame.assign(role=np.where(roles == "former", "heldout", roles))


def finished_runs(table: RunsTable, law: ForecastingLaw) -> list[FinishedRun]:
    """The finished runs of a table that was read for a law, grid runs first."""
    fitted = fitted_rows(table, law)
    points = None if fitted is None else table.take(fitted)

    def is_fitted(values: Mapping[str, float]) -> bool | None:
        return None if points is None else has_point(points, values)

    grid = [(name, {v: float(column[i]) for v, column in table.values.items()},
             float(table.loss[i])) for i, name in enumerate(table.run_id)]
    heldout = [(run.run_id, {v: float(column[0]) for v, column in run.values.items()}, run.loss)
               for run in table.heldout]
    return [FinishedRun(name, values, outcome, is_fitted(values))
            for name, values, outcome in [*grid, *heldout] if outcome is not None]


def fitted_rows(table: RunsTable, law: ForecastingLaw) -> NDArray[np.intp] | None:
    """The rows of a table that a law was fitted to: all, or the envelope of its form; None if the
    law was fitted to other runs."""
    form = FORMS.get(law.form)
    for rows in (np.arange(table.loss.size),
                 *([form.fitted_rows(table)] if form and table.loss.size else [])):
        if law.data_sha256 is not None and table.take(rows).sha256 == law.data_sha256:
            return rows
    return None


def has_point(table: RunsTable, values: Mapping[str, float], tolerance: float = TOLERANCE) -> bool:
    """Whether a run of the table has these values, within the relative tolerance."""
    near = np.ones(table.loss.size, dtype=bool)
    for name, column in table.values.items():
        if name in values and not np.isnan(column).any():
            near &= np.abs(column - values[name]) <= tolerance * abs(values[name])
    return bool(near.any())


def runs_of(
    forecast: SealedForecast, runs: list[FinishedRun], tolerance: float
) -> list[FinishedRun]:
    """The runs that a forecast is about: the one of its run_id, or without one all with its values,
    such as several seeds."""
    if forecast.run_id is not None:
        return [run for run in runs if run.run_id == forecast.run_id]
    return [run for run in runs if not differing(forecast, run, tolerance)]


def differing(forecast: SealedForecast, run: FinishedRun, tolerance: float) -> list[str]:
    """The variables in which a run differs from a forecast."""
    return [v for v, value in forecast.variables.items()
            if not abs(run.values.get(v, np.nan) - value) <= tolerance * abs(value)]


def unfinished(frame: pd.DataFrame, source: str) -> dict[str, str]:
    """The status of every run that is not done, by run_id; empty for a table without run_ids."""
    names = run_ids(frame, source)
    statuses = statuses_of(frame, source, names)
    return {name: str(status) for name, status in zip(names or (), statuses, strict=False)
            if status != "done"}


def table_times(frame: pd.DataFrame, source: str) -> Times | None:
    """When runs began and ended, from the columns `started` and `finished` of a table; None if it
    has neither. A cell that is no date is not known; a date without a zone is UTC."""
    found: dict[str, dict[str, datetime]] = {}
    names = run_ids(frame, source) or [row_label(i, None) for i in range(len(frame))]
    present = [column for column in ("started", "finished") if column in frame.columns]
    for column in present:
        found[column] = {name: date for name, cell in zip(names, frame[column], strict=True)
                         if (date := _date(cell)) is not None}

    def times(run_id: str) -> tuple[datetime | None, datetime | None]:
        began, ended = (found.get(column, {}).get(run_id) for column in ("started", "finished"))
        return began, ended

    return times if present else None


def unreadable_times(frame: pd.DataFrame, source: str) -> list[str]:
    """A sentence for each column of times with cells that are neither empty nor a date."""
    found = []
    for column in ("started", "finished"):
        cells = frame[column] if column in frame.columns else pd.Series(dtype=object)
        wrong = [i for i, cell in enumerate(cells)
                 if _date(cell) is None and not pd.isna(cell) and str(cell).strip()]
        if wrong:
            names = run_ids(frame, source)
            first = row_label(wrong[0], None if names is None else names[wrong[0]])
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            found.append(f"{first}{more}, column {column}: {str(cells.iloc[wrong[0]])!r:.40} is "
                         "no date, such as 2026-01-31T12:00:00+00:00, so it is not known when "
                         "these runs were trained")
    return found


def _date(cell: Any) -> datetime | None:
    date = None
    if isinstance(cell, str):
        with suppress(ValueError):
            date = datetime.fromisoformat(cell.strip())
    elif isinstance(cell, datetime) and not pd.isna(cell):
        date = cell
    return date if date is None or date.tzinfo else date.replace(tzinfo=UTC)


def when_sealed(forecast: SealedForecast, began: datetime | None, ended: datetime | None) -> str:
    """Whether a forecast was sealed before or after its run began or ended."""
    if ended is not None and forecast.date >= ended:
        return "after it ended"
    if began is not None:
        return "after it began" if forecast.date >= began else "before it began"
    return "not known" if ended is None else "before it ended"

