"""Rows that are checkpoints of fewer runs: which run each belongs to, and the last row of each.

A law describes final losses, each at the end of its own schedule; and checkpoints of one run share
its noise, so they are not independent measurements.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scaling.errors import UserError, option
from scaling.laws.columns import row_label
from scaling.laws.frames import duplicate_columns
from scaling.laws.table import RunsTable

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

_MIN_POINTS, _MIN_POINTS_EVEN, _MIN_POINTS_ANY = 3, 5, 12
"""Token counts of one curve: with a run column, at even steps or with a step column, otherwise."""
_EVEN = 0.02                # mean relative deviation of steps of D that are even
_FEWEST_RUNS = 5  # have 126 different resamples; four have 35, of which the ends of 90% are two
_FALLING = 0.75             # share of the steps of a noisy curve at which its loss falls
_CHECKPOINT_SHARE = 0.3     # share of rows in such curves, from which the table is of checkpoints
_STEP_COLUMNS = {"step", "global_step", "iteration", "iter", "checkpoint", "ckpt"}
_RUN_COLUMNS = {
    "run", "run_name", "run_index", "experiment", "trial", "trial_id", "job", "job_id",
}


@dataclass(frozen=True)
class _Curves:
    """The run of each row, [R], and the column that says it; None if N does."""

    run: Indices
    column: str | None
    rows: NDArray[np.bool_]
    """Whether each row is on a curve."""


def with_clusters(
    table: RunsTable, frame: pd.DataFrame, cluster: str | None, final: bool, smooth: int
) -> RunsTable:
    """The table with the run of each row, or with only the last row of each run.

    Args:
        table: the rows to be fitted.
        frame: all rows and columns of the file that the table was made from.
        cluster: the column that tells runs apart; None to look for one, or to tell checkpoints of
            one run by their N and their falling loss.
        final: keep the last row of each run.
        smooth: number of rows at the end of each run over which its loss is averaged.

    Raises:
        UserError: the column has an empty cell, or the last rows are asked for where nothing tells
            runs apart.
    """
    if smooth != 1 and not final:
        raise UserError(f"{option('smooth', '--smooth')}: averages the last rows of each run; give "
                        f"{option('final=True', '--final')}, too")
    if not isinstance(smooth, int | np.integer) or smooth < 1:
        raise UserError(f"{option(f'smooth={smooth}', f'--smooth {smooth}')}: a number of rows "
                        "from 1 on is expected")
    if cluster is not None:
        run = _ids(table, frame, cluster)
        found = _Curves(run, cluster, np.bincount(run)[run] > 1)
    else:
        detected = _find(table, frame)
        if detected is None:
            if final:
                raise UserError(f"{table.prefix}nothing tells which rows are of one run; name the "
                                f"column that does with {option('cluster=', '--cluster')}")
            return table
        found = detected
    if final:
        return _last_rows(table, found.run, smooth)
    if not found.rows.any():
        return table
    by = f"column {found.column}" if found.column is not None else "rows of equal N"
    # A column that the user names may also group seeds of one point or runs of one batch.
    warning = () if cluster is not None else (
        f"{table.first_label(found.rows)} are like checkpoints of one run ({by}): a law describes "
        "final losses, each at the end of its own schedule; fit the last row of each run with "
        f"{option('final=True', '--final')}; until then resamples draw whole runs",)
    return replace(table, cluster=found.run, warnings=(*table.warnings, *warning))


def runs_of_text(table: RunsTable, variable: str) -> tuple[RunsTable, str | None]:
    """The column of a text variable, whose values each are a run; None, and a warning in the table,
    if these are too few to be resampled."""
    count = len(np.unique(table.extra[variable]))
    if count >= _FEWEST_RUNS:
        return table, table.columns[variable]
    s = "s" * (count != 1)
    warning = (f"the rows are of {count} {variable}{s}, fewer than the {_FEWEST_RUNS} that can be "
               "resampled: resamples draw single rows, as if their errors were independent, so "
               "intervals do not include the differences between runs")
    return replace(table, warnings=(*table.warnings, warning)), None


def _ids(table: RunsTable, frame: pd.DataFrame, column: str) -> Indices:
    """The number of each row's run by a column, [R]."""
    cells = frame[column].iloc[table.rows]
    if cells.isna().any():
        row = int(table.rows[int(np.argmax(cells.isna().to_numpy()))])
        raise UserError(f"{table.prefix}{row_label(row, None)}, column {column}: empty, where the "
                        "run that the row belongs to is expected")
    return np.asarray(pd.factorize(cells.astype(str))[0], dtype=np.intp)


def _last_rows(table: RunsTable, run: Indices, smooth: int) -> RunsTable:
    """The row of each run with the most tokens, with the mean loss of its last rows."""
    order = np.lexsort((table.rows, table.d, run))
    last = np.flatnonzero(np.append(np.diff(run[order]) != 0, True))
    first = np.concatenate([[0], last[:-1] + 1])
    loss = np.array([table.loss[order[max(begin, end + 1 - smooth):end + 1]].mean()
                     for begin, end in zip(first, last, strict=True)])
    by_row = np.argsort(order[last])
    kept = table.take(order[last][by_row])
    dropped = table.loss.size - kept.loss.size
    return replace(kept, loss=loss[by_row], excluded={**table.excluded, "earlier_rows": dropped})


def _find(table: RunsTable, frame: pd.DataFrame) -> _Curves | None:
    """The curves that the rows are checkpoints of; None if they are final losses."""
    if not table.loss.size or np.isnan(table.n).any() or np.isnan(table.d).any():
        return None
    ambiguous = duplicate_columns(frame)
    names = {str(name).lower(): str(name) for name in frame.columns if str(name) not in ambiguous}
    column = next((names[name] for name in names if name in _RUN_COLUMNS), None)
    size = np.unique(table.n, return_inverse=True)[1]
    if column is not None and not frame[column].iloc[table.rows].isna().any():
        named = _ids(table, frame, column)
        run = np.unique(np.stack([named, size]), axis=1, return_inverse=True)[1].ravel()
        on_curve = _is_curve(run, table.d, table.loss, _MIN_POINTS)
        if on_curve.mean() >= _CHECKPOINT_SHARE:
            return _Curves(named, column, on_curve)
    has_steps = any(name in _STEP_COLUMNS for name in names)
    if has_steps:
        on_curve = _is_curve(size, table.d, table.loss, _MIN_POINTS_EVEN)
    else:  # a fine grid may have many token counts of each size, which are not at even steps
        on_curve = (_is_curve(size, table.d, table.loss, _MIN_POINTS_ANY, falling=1.0)
                    | _is_curve(size, table.d, table.loss, _MIN_POINTS_EVEN, even=True))
    return (_Curves(size, None, on_curve) if on_curve.mean() >= _CHECKPOINT_SHARE else None)


def _is_curve(
    group: Indices, d: Array, loss: Array, points: int, *, falling: float = _FALLING,
    even: bool = False,
) -> NDArray[np.bool_]:
    """Whether each row is in a group whose loss falls along D, [R].

    Rows of one group with equal D, such as interleaved runs of several seeds, are averaged.

    Args:
        group: the group of each row.
        d: tokens.
        loss: losses.
        points: the fewest distinct token counts of a curve.
        falling: the least share of the steps at which the loss of a curve falls.
        even: whether its steps have to be even.
    """
    pairs, pair = np.unique(np.stack([group, d]), axis=1, return_inverse=True)
    mean = np.bincount(pair.ravel(), loss) / np.bincount(pair.ravel())
    of, at = pairs[0].astype(np.intp), pairs[1]
    same = np.diff(of) == 0
    count = np.bincount(of)
    steps = np.bincount(of[1:], same, minlength=len(count))
    falls = np.bincount(of[1:], same & (np.diff(mean) < 0), minlength=len(count))
    is_curve = (count >= points) & (falls >= falling * steps)
    if even:
        length = np.where(same, np.diff(at), 0.0)
        average = np.bincount(of[1:], length, minlength=len(count)) / np.maximum(steps, 1)
        deviation = np.bincount(of[1:], np.where(same, np.abs(length - average[of[1:]]), 0.0),
                                minlength=len(count))
        is_curve &= deviation < _EVEN * average * count
    return np.asarray(is_curve[group])
