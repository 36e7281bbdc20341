"""Sealed forecasts against the runs that they are of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd

from scaling.errors import UserError, option
from scaling.laws.arguments import checked
from scaling.laws.forecasts.ledger import SealedForecast, read_ledger
from scaling.laws.forecasts.outcomes import (
    TOLERANCE,
    FinishedRun,
    RunColumns,
    Times,
    differing,
    finished_runs,
    law_table,
    runs_of,
    table_times,
    unfinished,
    unreadable_times,
    when_sealed,
    with_former_runs,
)
from scaling.laws.forecasts.scores import ForecastScores, ScoredOutcome, scores_of
from scaling.laws.forms.variables import VARIABLES, Counting
from scaling.laws.frozen import freeze_fields
from scaling.laws.read import frame_of
from scaling.laws.show import (
    PrintableResult,
    TextTable,
    number,
    percent,
    short,
    span,
    to_plain,
)

SCORED, WAITING = "scored", "no run yet"
_LATE = ("after it began", "after it ended")


@dataclass(frozen=True)
class CheckedForecast:
    """A forecast and its outcome; several if several runs have its values.

    Attributes:
        forecast: the record.
        state: "scored"; "no run yet"; "diverged" or "failed"; or why it cannot be scored.
        run_id: the run; None without one.
        measured: its outcome; None if it is not finished.
        sealed: when the forecast was sealed: before or after the run began or ended, or not known.
        fitted: whether the law was fitted to the run, or to one with its values; None if that is
            not known.
    """

    forecast: SealedForecast
    state: str
    run_id: str | None = None
    measured: float | None = None
    sealed: str = "not known"
    fitted: bool | None = None

    @property
    def error(self) -> float | None:
        """Predicted over measured outcome, less one."""
        return None if self.measured is None else self.forecast.prediction / self.measured - 1

    @property
    def inside(self) -> bool | None:
        """Whether the outcome is in the predicted interval; None without one."""
        if self.measured is None or self.forecast.interval is None:
            return None
        low, high = self.forecast.interval
        return low <= self.measured <= high

    @property
    def counts(self) -> bool:
        """Whether the scores include it: not if it is known to be no forecast."""
        return self.state == SCORED and self.sealed not in _LATE and self.fitted is not True

    def to_json(self) -> dict[str, Any]:
        """As JSON-compatible data."""
        forecast = self.forecast
        content: dict[str, Any] = to_plain({
            "line": forecast.line, "date": forecast.date.isoformat(), "law": forecast.law.name,
            "law_sha256": forecast.law.sha256, "data_sha256": forecast.law.data_sha256,
            "run_id": self.run_id or forecast.run_id, "variables": forecast.variables,
            "prediction": forecast.prediction, "interval": forecast.interval,
            "note": forecast.note, "state": self.state, "measured": self.measured,
            "relative_error": self.error, "inside": self.inside, "sealed": self.sealed,
            "fitted": self.fitted, "counts": self.counts})
        return content


@dataclass(frozen=True, repr=False)
class ForecastCheck(PrintableResult):
    """What came of the forecasts of a ledger.

    Attributes:
        forecasts: number of records.
        last_sha256: hash of the last record, which stands for the whole ledger; None if it is
            empty.
        tolerance: largest relative difference of N, D and so on.
        rows: the forecasts with their outcomes, in the order of the ledger.
        scores: of the rows that count: those not known to be sealed after their run began, or to
            be of a run that the law was fitted to.
        by_law: the same for each law, by name.
        warnings: what looks wrong.
    """

    forecasts: int
    last_sha256: str | None
    tolerance: float
    rows: tuple[CheckedForecast, ...]
    scores: ForecastScores
    by_law: dict[str, ForecastScores]
    warnings: tuple[str, ...]

    def __post_init__(self) -> None:
        freeze_fields(self)

    def parts(self) -> list[str | TextTable]:
        """A table of the forecasts, the scores, and the warnings."""
        parts: list[str | TextTable] = [_rows_table(self.rows)] if self.rows else []
        parts.append(_summary(self.rows, self.scores))
        if self.scores.outcomes:
            parts += _scores(self.scores)
        if len(self.by_law) > 1:
            parts.append(_laws_table(self.by_law))
        if any(row.forecast.run_id is None for row in self.rows):
            parts.append("forecasts without a run_id are of every finished run whose values differ "
                         f"by at most {100 * self.tolerance:g}%; each of several is scored")
        if self.last_sha256 is not None:
            parts.append(f"the chain of {self.forecasts} records is intact; the last has the hash "
                         f"{self.last_sha256}")
        return [*parts, *(f"warning: {warning}" for warning in self.warnings)]

    def to_json(self) -> dict[str, Any]:
        """As JSON-compatible data."""
        return super().to_json() | {
            "rows": [row.to_json() for row in self.rows],
            "by_law": {name: scores.to_json() for name, scores in self.by_law.items()}}


@checked
def check_forecasts(
    ledger: str | Path, runs: pd.DataFrame | str | Path, *, n: str | None = None,
    d: str | None = None, c: str | None = None, loss: str | None = None,
    counting: Counting | None = None, extra: Mapping[str, str | None] | None = None,
    where: str | None = None, tolerance: float = TOLERANCE, head: str | None = None,
    times: Times | None = None,
) -> ForecastCheck:
    """Compare the forecasts of a ledger with the finished runs of a table.

    `check_forecasts("forecasts.jsonl", "results/quickstart")`

    A forecast with a run_id is of that run, and another is of every finished run with its N, D and
    so on; each such run is scored, because the predicted interval is that of one new run.

    Args:
        ledger: the file.
        runs: a data frame, a CSV or Parquet file, or a folder with `runs.csv`. Its columns
            `started` and `finished`, if it has them, say whether a forecast was sealed before its
            run; a date without a zone is UTC.
        n: column of parameters; by default, for this and the next two, as in the runs that each
            law was fitted to.
        d: column of training tokens.
        c: column of training FLOPs.
        loss: column of the outcome; `loss` by default.
        counting: which parameters N counts.
        extra: columns of further variables, by name.
        where: a condition on the rows of the grid, as in `fit`.
        tolerance: largest relative difference of N, D and so on, above 0 and below 1.
        head: the hash of a record, noted when it was sealed, which has to be in the ledger still:
            it shows that no record was removed from the end.
        times: when the run of a run_id began and ended, for a table without these columns.

    Raises:
        UserError: a record was changed, removed, inserted or moved, with its line; or no forecast
            can be compared with these runs.
        OSError: a file cannot be read.
    """
    if not 0 < tolerance < 1:
        raise UserError(f"{option('tolerance=', '--tolerance ')}{tolerance:g}: a number above 0 "
                        "and below 1 is expected, such as 0.001")
    forecasts = read_ledger(ledger)
    if head is not None and head not in {each.sha256 for each in forecasts}:
        raise UserError(f"{ledger}: has no record with the hash {head:.70}, so a record was "
                        "removed or the ledger was written anew; restore it from a copy, or check "
                        "the hash")
    frame, source = frame_of(runs)
    columns = RunColumns(n, d, c, loss, counting, extra or {}, where)
    frame = with_former_runs(frame, source)
    times = table_times(frame, source) or times
    waiting = unfinished(frame, source)
    read: dict[Any, list[FinishedRun] | UserError] = {}
    rows: list[CheckedForecast] = []
    for forecast in forecasts:
        key = (forecast.law.sha256, *sorted(forecast.variables))
        if key not in read:
            try:
                table = law_table(frame, source, forecast.law, forecast.variables, columns)
                read[key] = finished_runs(table, forecast.law)
            except UserError as reason:
                read[key] = reason
        rows += _checked(forecast, read[key], waiting, tolerance, times)
    reasons = [found for found in read.values() if isinstance(found, UserError)]
    if reasons and len(reasons) == len(read):
        raise reasons[0]
    counted = [row for row in rows if row.counts]
    return ForecastCheck(
        forecasts=len(forecasts), last_sha256=forecasts[-1].sha256 if forecasts else None,
        tolerance=tolerance, rows=tuple(rows), scores=_scores_of(counted),
        by_law={name: _scores_of([row for row in counted if row.forecast.law.name == name])
                for name in dict.fromkeys(row.forecast.law.name for row in counted)},
        warnings=(*_warnings(forecasts, rows), *unreadable_times(frame, source)))


def _checked(
    forecast: SealedForecast, runs: list[FinishedRun] | UserError, waiting: dict[str, str],
    tolerance: float, times: Times | None,
) -> list[CheckedForecast]:
    """A forecast with each run that it is of."""
    if isinstance(runs, UserError):
        return [CheckedForecast(forecast, str(runs))]
    rows = []
    for run in runs_of(forecast, runs, tolerance):
        began, ended = times(run.run_id) if times is not None else (None, None)
        other = differing(forecast, run, tolerance)
        fitted = forecast.fitted_point if run.fitted is None else run.fitted
        rows.append(CheckedForecast(
            forecast, _difference(forecast, run, other) if other else SCORED, run.run_id,
            run.outcome, when_sealed(forecast, began, ended), fitted))
    if rows:
        return rows
    status = waiting.get(forecast.run_id or "", "planned")
    return [CheckedForecast(forecast, WAITING if status == "planned" else status,
                            fitted=forecast.fitted_point)]


def _difference(forecast: SealedForecast, run: FinishedRun, variables: list[str]) -> str:
    wanted = forecast.variables
    return "the run has " + ", ".join(
        f"{VARIABLES[v].symbol} {short(run.values.get(v))} instead of {short(wanted[v])}"
        for v in variables)


def _scores_of(rows: list[CheckedForecast]) -> ForecastScores:
    return scores_of([
        ScoredOutcome(row.forecast.prediction, row.forecast.interval, row.forecast.quantiles,
                      row.measured) for row in rows if row.measured is not None])


def _warnings(forecasts: list[SealedForecast], rows: list[CheckedForecast]) -> tuple[str, ...]:
    """What looks wrong in the dates, and laws that were fitted to what they forecast."""
    found = [f"line {after.line} is dated before line {before.line}: a clock was wrong"
             for before, after in pairwise(forecasts) if after.date < before.date]
    fitted = dict.fromkeys(
        f"{row.forecast.law.name} was fitted to the run {row.run_id or row.forecast.run_id or ''} "
        f"that line {row.forecast.line} forecasts, or to one with its values"
        for row in rows if row.fitted)
    return (*found, *fitted)


def _rows_table(rows: tuple[CheckedForecast, ...]) -> TextTable:
    columns = ("line", "law", "run", "N", "D", "predicted", "interval", "measured", "error",
               "inside", "sealed", "fitted to it", "state")
    words = {True: "yes", False: "no", None: "-"}
    return TextTable(columns, tuple(
        (str(row.forecast.line), row.forecast.law.name,
         row.run_id or row.forecast.run_id or "any",
         short(row.forecast.variables.get("n")), short(row.forecast.variables.get("d")),
         number(row.forecast.prediction), span(row.forecast.interval), number(row.measured),
         percent(row.error), words[row.inside], row.sealed,
         "not known" if row.fitted is None else words[row.fitted], row.state)
        for row in rows), ("line", "law", "run", "sealed", "fitted to it", "state"))


def _summary(rows: tuple[CheckedForecast, ...], scores: ForecastScores) -> str:
    states = Counter(row.state if row.state in (SCORED, WAITING, "diverged", "failed")
                     else "not comparable" for row in rows)
    out = Counter("sealed after the run began" if row.sealed in _LATE else "fitted to the run"
                  for row in rows if row.state == SCORED and not row.counts)
    text = f"{len(rows)} forecasts: " + ", ".join(f"{n} {state}" for state, n in states.items())
    if not rows:
        return "0 forecasts"
    left_out = ", ".join(f"{n} {reason}" for reason, n in out.items())
    unknown = sum(row.counts and row.sealed == "not known" for row in rows)
    return (text + f"; the scores are of {scores.outcomes}"
            + (f", without {left_out}" if left_out else "")
            + (f"; of {unknown} it is not known when their runs began" if unknown else ""))


def _scores(scores: ForecastScores) -> list[str | TextTable]:
    lines: list[str | TextTable] = [
        f"error: mean of absolute values {_share(scores.mean_absolute_error)}, their median "
        f"{_share(scores.median_absolute_error)}; median {percent(scores.median_error)}"]
    if scores.coverage is None or scores.coverage_interval is None:
        return [*lines, "no forecast has an interval"]
    low, high = scores.coverage_interval
    lines.append(
        f"coverage of 90% intervals: {scores.inside} of {scores.with_interval}, "
        f"{scores.coverage:.1%} (90% interval {low:.1%} to {high:.1%}); mean width "
        f"{_share(scores.sharpness)} of the prediction")
    lines.append(TextTable(
        ("predicted quantile", "outcomes at or below", "share"),
        tuple((f"{p.probability:.0%}", f"{p.below} of {p.outcomes}",
               f"{p.below / p.outcomes:.0%}") for p in scores.calibration), ()))
    return lines


def _laws_table(by_law: dict[str, ForecastScores]) -> TextTable:
    columns = ("law", "outcomes", "mean |error|", "median error", "inside", "mean width")
    return TextTable(columns, tuple(
        (name, str(s.outcomes), _share(s.mean_absolute_error), percent(s.median_error),
         f"{s.inside} of {s.with_interval}", _share(s.sharpness)) for name, s in by_law.items()),
        ("law",))


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}%"
