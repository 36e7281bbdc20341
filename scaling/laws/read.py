"""Read and check a runs table from a CSV or Parquet file or a data frame, as arrays for fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scaling.errors import UserError, option
from scaling.laws.arguments import checked
from scaling.laws.checkpoints import runs_of_text, with_clusters
from scaling.laws.checks import check_table
from scaling.laws.columns import (
    DATA_FRAME,
    RowIndices,
    Sign,
    label_column,
    read_labels,
    read_numbers,
    require_column,
    row_label,
    run_ids,
    standard_errors,
)
from scaling.laws.compute_checks import other_flops
from scaling.laws.compute_frontier import FrontierKind, on_frontier
from scaling.laws.forms.variables import (
    FLOPS_PER_PARAMETER_TOKEN,
    N_COLUMNS,
    SIX_ND,
    VARIABLES,
    Counting,
    six_nd,
)
from scaling.laws.frames import read_frame, table_path
from scaling.laws.health.schedule import schedule_fractions
from scaling.laws.health.screen import curves_beside, screened, with_curve_columns
from scaling.laws.table import HeldOutRun, RunsTable
from scaling.laws.where import row_mask

Array = NDArray[np.float64]

_STATUSES = ("done", "diverged", "failed", "planned")
_SYNONYMS = {
    **dict.fromkeys(("finished", "complete", "completed", "success", "succeeded", "ok"), "done"),
    **dict.fromkeys(("crashed", "crash", "killed", "error", "preempted", "preempting", "canceled",
                     "cancelled", "stopped", "timeout", "oom"), "failed"),
    **dict.fromkeys(("running", "pending", "queued", "scheduled", "created"), "planned"),
}
"""Words of experiment trackers and schedulers for the statuses."""
_STATUS_COLUMNS = ("status", "state")
ROLES = ("grid", "heldout", "former")
"""Roles of a run: fitted; held out to test the law; or no longer part of its sweep."""


@checked
def read(
    runs: pd.DataFrame | str | Path,
    *,
    n: str | None = None,
    d: str | None = None,
    c: str | None = None,
    loss: str | None = None,
    counting: Counting | None = None,
    extra: Mapping[str, str | None] | None = None,
    labels: Mapping[str, tuple[str, ...]] | None = None,
    needs: Sequence[str] = ("n", "d", "c"),
    where: str | None = None,
    cluster: str | None = None,
    final: bool = False,
    smooth: int = 1,
    curves: pd.DataFrame | str | Path | None = None,
    strict: bool = False,
    frontier: FrontierKind | None = None,
    bins: int | None = None,
) -> RunsTable:
    """Read a runs table from a data frame, a CSV or Parquet file, or a folder with `runs.csv`.

    Without column names the columns of this package's own tables are read: N is `params_total`
    (or the column of `counting`), D is `tokens`, and C = 6 N D. For other tables at least two of
    `n`, `d` and `c` are given; C = 6 N D fills the third.

    Args:
        runs: the data frame, the file, or the folder.
        n: column of parameters.
        d: column of training tokens.
        c: column of training FLOPs.
        loss: column of losses in nats per token; `loss` by default.
        counting: which parameters N counts. Chooses the column of N if `n` is None.
        extra: columns of further variables, by their names in `VARIABLES`; None for the column
            with the variable's own name or, failing that, its column in this package's tables.
        labels: the values of further variables that are text, as a form's `labels`. Rows of one
            value are taken to be of one run, unless `cluster` is given.
        needs: which of n, d and c are required.
        where: a condition on the table's columns, such as `tokens > 1e9 and corpus == 'c4'`, with
            backticks around names that are not identifiers; rows for which it is not true are
            left out and counted.
        cluster: column that tells which rows are checkpoints or repeated measurements of one run,
            which resamples then draw together. Without it, checkpoints are recognised by a column
            such as run or step, or by their loss, which falls along D at equal N.
        final: keep only the last row of each run.
        smooth: number of rows at the end of each run over which its loss is averaged, with `final`.
        curves: training curves, as for `check_health`; by default those of `curves.csv` beside the
            file.
        strict: leave out runs that are unhealthy (`check_health`), instead of warning about them.
        frontier: keep only the runs of the lowest loss for their compute: "pareto" for those that
            no run of as much compute or less surpasses, "binned" for the best one of each bin.
        bins: number of bins of equal width in log C, for "binned"; 10 by default.

    Raises:
        UserError: the file cannot be read, a column is missing, a run to be fitted has a cell
            that is not a number, or values are impossible for their variable.
    """
    frame, source = frame_of(runs)
    return from_frame(frame, source, n=n, d=d, c=c, loss=loss, counting=counting, extra=extra,
                      labels=labels, needs=needs, where=where, cluster=cluster, final=final,
                      smooth=smooth, curves=curves_of(runs, curves), strict=strict,
                      frontier=frontier, bins=bins)


def curves_of(
    runs: pd.DataFrame | str | Path, curves: pd.DataFrame | str | Path | None
) -> pd.DataFrame | None:
    """The given training curves, or by default those beside the file of the runs, if any.

    Raises:
        UserError: they are a file that cannot be read, or something else; or they lack a column, or
            have it twice.
    """
    if curves is None:
        return None if isinstance(runs, pd.DataFrame) else curves_beside(table_path(Path(runs)))
    if isinstance(curves, pd.DataFrame):
        return with_curve_columns(curves, "the training curves")
    return with_curve_columns(read_frame(Path(curves)), str(curves))


@checked
def frame_of(runs: pd.DataFrame | str | Path) -> tuple[pd.DataFrame, str]:
    """The data frame of a table, and its name in messages.

    Raises:
        UserError: it is a file that cannot be read, or something else.
    """
    if isinstance(runs, pd.DataFrame):
        return runs, DATA_FRAME
    path = table_path(Path(runs))
    return read_frame(path), str(path)


@checked
def from_frame(
    frame: pd.DataFrame,
    source: str,
    *,
    n: str | None = None,
    d: str | None = None,
    c: str | None = None,
    loss: str | None = None,
    counting: Counting | None = None,
    extra: Mapping[str, str | None] | None = None,
    labels: Mapping[str, tuple[str, ...]] | None = None,
    needs: Sequence[str] = ("n", "d", "c"),
    where: str | None = None,
    cluster: str | None = None,
    final: bool = False,
    smooth: int = 1,
    curves: pd.DataFrame | None = None,
    strict: bool = False,
    frontier: FrontierKind | None = None,
    bins: int | None = None,
) -> RunsTable:
    """Like `read`, for a table in memory; `source` is its name in messages."""
    if frame.empty:
        raise UserError(f"{source}: has a header and no rows; runs are expected")
    if not all(isinstance(name, str) for name in frame.columns):
        frame = frame.set_axis([str(name) for name in frame.columns], axis=1)
    columns, convention, notes = _choose_columns(frame, source, n, d, c, counting, needs)
    columns["loss"] = require_column(frame, source, loss or "loss", option("loss=", "--loss"))
    _check_distinct(columns, source)
    if cluster is not None:
        require_column(frame, source, cluster, option("cluster=", "--cluster"))
    extra_columns = {v: _extra_column(frame, source, v, column)
                     for v, column in (extra or {}).items()}
    convention |= {v: f"column {column}" for v, column in extra_columns.items()}

    texts = labels or {}
    names = run_ids(frame, source)
    roles = label_column(frame, source, "role", ROLES, names, {})
    statuses = statuses_of(frame, source, names)
    mask = np.ones(len(frame), dtype=bool) if where is None else row_mask(frame, where, source)

    grid = (roles == "grid") & mask
    fitted = np.flatnonzero(grid & (statuses == "done"))
    heldout = np.flatnonzero(roles == "heldout")
    excluded = {s: int((grid & (statuses == s)).sum()) for s in _STATUSES if s != "done"}
    excluded["heldout"] = len(heldout)
    if former := int((roles == "former").sum()):
        excluded["former"] = former
    if where is not None:
        excluded["where"] = int(((roles == "grid") & ~mask).sum())

    problems: dict[str, None] = {}

    def values(variable: str, rows: RowIndices) -> Array:
        column = (columns | extra_columns)[variable]
        # Which outcomes are possible depends on the law, which checks them.
        sign: Sign = "any" if variable == "loss" else (
            "non-negative" if variable in extra_columns and VARIABLES[variable].may_be_zero
            else "positive")
        found, problem = (
            read_labels(frame, source, column, rows, names, texts[variable])
            if variable in texts else read_numbers(frame, source, column, rows, names, sign))
        if problem:
            problems[problem] = None
        return found

    def extra_values(rows: RowIndices) -> dict[str, Array]:
        return {v: values(v, rows) for v in extra_columns}

    def n_d_c(rows: RowIndices) -> dict[str, Array]:
        given: dict[str, Array] = {v: values(v, rows) for v in ("n", "d", "c") if v in columns}
        return fill_n_d_c(given, len(rows))

    x, y, z = n_d_c(fitted), values("loss", fitted), extra_values(fitted)
    heldout_runs = _heldout_runs(heldout, statuses, names, n_d_c, values, extra_values)
    if problems:
        raise UserError(f"{source}: {'; '.join(problems)}")
    # Sorted by value, so that the draws of the bootstrap do not depend on the order in the file.
    order = np.lexsort((y, x["c"], x["d"], x["n"]))
    rows = fitted[order]
    table = RunsTable(
        x["n"][order], x["d"][order], x["c"][order], y[order], _run_names(rows, names),
        heldout_runs, excluded, convention, notes, {v: column[order] for v, column in z.items()},
        source=source, columns=columns | extra_columns, rows=rows,
        flops=other_flops(frame, columns, rows, x["d"][order]),
        schedule=schedule_fractions(frame, rows, x["d"][order]),
        selection=_selection(where, cluster, final, smooth, strict),
        loss_se=standard_errors(frame, f"{columns['loss']}_se", rows),
    )
    with np.errstate(all="ignore"):
        table = screened(check_table(table, frame), curves_of(frame, curves), strict)
        if cluster is None and texts and not final:
            table, cluster = runs_of_text(table, next(iter(texts)))
        return on_frontier(with_clusters(table, frame, cluster, final, smooth), frontier, bins)


def _selection(
    where: str | None, cluster: str | None, final: bool, smooth: int, strict: bool
) -> tuple[str, ...]:
    """The options of `read` that select or alter rows, a phrase each."""
    averaged = f", with the mean loss of its last {smooth} rows" if smooth > 1 else ""
    of_run = "" if cluster is None else f" (column {cluster})"
    phrases = {
        f"only rows where {where}": where is not None,
        f"only the last row of each run{of_run}{averaged}": final,
        f"rows of one run{of_run} belong together": cluster is not None and not final,
        "unhealthy runs are left out": strict,
    }
    return tuple(phrase for phrase, applies in phrases.items() if applies)


def statuses_of(
    frame: pd.DataFrame, source: str, names: list[str] | None
) -> NDArray[np.character]:
    """The status of every row, [R]: done, diverged, failed or planned, whose words in trackers and
    schedulers are known, too; done without a column of statuses.

    Raises:
        UserError: a cell has another word.
    """
    return label_column(frame, source, _status_column(frame), _STATUSES, names, _SYNONYMS)


def has_statuses(frame: pd.DataFrame) -> bool:
    """Whether a table has a column of the runs' statuses."""
    return _status_column(frame) in frame


def _status_column(frame: pd.DataFrame) -> str:
    """The column of the runs' statuses, in whatever case: `status`; or `state`, if its words are
    statuses."""
    columns = {name.lower(): name for name in map(str, reversed(frame.columns))}
    for name in _STATUS_COLUMNS:
        column = columns.get(name)
        if column is not None and (name == "status" or frame[column].dropna().map(
                lambda cell: str(cell).strip().lower()).isin({*_STATUSES, *_SYNONYMS}).any()):
            return column
    return "status"


def _heldout_runs(
    rows: RowIndices, statuses: NDArray[np.character], names: list[str] | None,
    n_d_c: Callable[[RowIndices], dict[str, Array]],
    values: Callable[[str, RowIndices], Array],
    extra_values: Callable[[RowIndices], dict[str, Array]],
) -> tuple[HeldOutRun, ...]:
    """The held-out runs, with the losses of those that are done."""
    done = rows[statuses[rows] == "done"]
    measured = dict(zip(done.tolist(), values("loss", done).tolist(), strict=True))
    x, z = n_d_c(rows), extra_values(rows)
    return tuple(
        HeldOutRun(name, float(x["n"][i]), float(x["d"][i]), float(x["c"][i]),
                   measured.get(int(rows[i])), {v: float(column[i]) for v, column in z.items()})
        for i, name in enumerate(_run_names(rows, names))
    )


def _run_names(rows: RowIndices, names: list[str] | None) -> tuple[str, ...]:
    if names is None:
        return tuple(row_label(row, None) for row in rows.tolist())
    return tuple(names[row] for row in rows.tolist())


def _check_distinct(columns: Mapping[str, str], source: str) -> None:
    """Raise if one column is given for two variables."""
    variable_of: dict[str, str] = {}
    for variable, column in columns.items():
        if column in variable_of:
            first, second = (option(f"{v}=", f"--{v}") for v in (variable_of[column], variable))
            raise UserError(f"{source}: column {column} is given as {first} and as {second}, where "
                            "a different column is expected for each")
        variable_of[column] = variable


def _choose_columns(
    frame: pd.DataFrame, source: str, n: str | None, d: str | None, c: str | None,
    counting: Counting | None, needs: Sequence[str],
) -> tuple[dict[str, str], dict[str, str], tuple[str, ...]]:
    """Columns of n, d and c, their convention, and notes about a column that is filled in."""
    given = {v: name for v, name in (("n", n), ("d", d), ("c", c)) if name is not None}
    for variable, name in given.items():
        require_column(frame, source, name, option(f"{variable}=", f"--{variable}"))
    columns = dict(given)
    if len(given) < 2:
        # With fewer than two given columns, those of this package's tables are used for n and d.
        filled = {*needs, *(("n", "d") if "c" in needs and "c" not in given else ())}
        if "n" not in columns and "n" in filled:
            hint = option("n=, or the other counting=", "--n, or the other --n-convention")
            columns["n"] = require_column(frame, source, N_COLUMNS[counting or "total"], hint)
        if "d" not in columns and "d" in filled:
            columns["d"] = require_column(frame, source, "tokens", option("d=", "--d"))
    convention = {v: f"column {name}" for v, name in columns.items()}
    if "n" in columns and ("n" not in given or counting is not None):
        convention["n"] = counting or "total"
    if columns.get("d") == "tokens":
        convention["d"] = "tokens"
    notes: tuple[str, ...] = ()
    absent = [v for v in ("n", "d", "c") if v not in columns]
    convention |= dict.fromkeys(absent, "not given")
    if len(absent) == 1:
        missing = absent[0]
        six = FLOPS_PER_PARAMETER_TOKEN
        formula = {"n": f"C / ({six} D)", "d": f"C / ({six} N)", "c": SIX_ND}[missing]
        convention[missing] = formula
        notes = (f"{missing.upper()} = {formula} is computed, since its column is not given",)
    if not given:
        notes = ()  # one of this package's own tables, where C is 6 N D by definition
    return columns, {v: convention[v] for v in ("n", "d", "c")}, notes


def _extra_column(frame: pd.DataFrame, source: str, variable: str, column: str | None) -> str:
    """The column of a variable other than N, D and C."""
    own = VARIABLES[variable].column
    if column is None and own is not None and variable not in frame.columns:
        column = own
    return require_column(
        frame, source, column or variable,
        option(f"extra={{{variable!r}: COLUMN}}", f"--column {variable}=COLUMN"))


def fill_n_d_c(given: dict[str, Array], size: int) -> dict[str, Array]:
    """n, d and c; if one of them is missing, it is computed from C = 6 N D."""
    six = FLOPS_PER_PARAMETER_TOKEN
    if len(given) < 2:  # one alone determines no other, and the law needs no more
        return dict.fromkeys(("n", "d", "c"), np.full(size, np.nan)) | given
    if "c" not in given:
        return given | {"c": six_nd(given["n"], given["d"])}
    with np.errstate(over="ignore", under="ignore"):
        if "d" not in given:
            return given | {"d": given["c"] / (six * given["n"])}
        if "n" not in given:
            return given | {"n": given["c"] / (six * given["d"])}
    return given
