"""Columns and cells of a user's table, with error messages that name the row and the column."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scaling.errors import UserError

Array = NDArray[np.float64]
Sign = Literal["positive", "non-negative", "any"]
"""Which finite numbers a column may hold."""
RowIndices = NDArray[np.intp]

DATA_FRAME = "the data frame"
"""Name in messages of a table that is no file."""
_MAX_CELL_CHARS, _MAX_COLUMNS_LISTED, _MAX_ROWS_LISTED = 40, 40, 5  # in a message
_FIX = "fix it, drop the row, or set its status to diverged or failed"
_SUFFIXES = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}


def row_label(index: int, run_id: str | None) -> str:
    """A row in messages: its number, which is 1 for the first row below the header, and run_id."""
    return f"row {index + 1}" + (f" (run_id {_short(run_id)})" if run_id is not None else "")


def _row_label(frame: pd.DataFrame, source: str, index: int, names: list[str] | None) -> str:
    """A row of a table in messages; one of a data frame without run_ids also by its index."""
    if names is None and (source == DATA_FRAME or not _is_counted(frame)):
        return f"{row_label(index, None)} (index {_short(str(frame.index[index]))})"
    return row_label(index, None if names is None else names[index])


def _is_counted(frame: pd.DataFrame) -> bool:
    """Whether the index only counts the rows, as in a file."""
    return isinstance(frame.index, pd.RangeIndex) and frame.index.start == 0


def require_column(frame: pd.DataFrame, source: str, column: str, option: str) -> str:
    """Check that the table has a column exactly once, and return the column's name.

    Args:
        frame: the table.
        source: name of the file in messages.
        column: the name to look for.
        option: the command-line option that chooses another column, for messages.

    Raises:
        UserError: the column is absent or present more than once.
    """
    columns = [str(name) for name in frame.columns]
    times = columns.count(column)
    if times == 1:
        return column
    if times:
        raise UserError(f"{source}: has {times} columns {column}, where one is expected; rename "
                        f"one of them, or choose another with {option}")
    lower = {name.lower(): name for name in columns}
    near = difflib.get_close_matches(column.lower(), lower, n=1, cutoff=0.4)
    hint = f"did you mean {_short(lower[near[0]])}? It" if near else "it"
    raise UserError(f"{source}: has no column {_short(column)}; {hint} has "
                    f"{column_names(frame)}. Choose another with {option}")


def column_names(frame: pd.DataFrame) -> str:
    """A comma-separated list of the table's columns, cut off after 40."""
    shown = [_short(str(name)) for name in frame.columns[:_MAX_COLUMNS_LISTED]]
    return ", ".join([*shown, *(["..."] if len(frame.columns) > _MAX_COLUMNS_LISTED else [])])


def run_ids(frame: pd.DataFrame, source: str) -> list[str] | None:
    """The unique names of the runs: the column `run_id`, or the index if it has this name or is
    of unique texts; None if the table has neither.

    Raises:
        UserError: a run has no name, or two runs have the same.
    """
    if "run_id" not in frame:
        own = frame.index
        if own.name != "run_id" and not (own.inferred_type == "string" and own.is_unique):
            return None
        frame = pd.DataFrame({"run_id": own})
    column = frame[require_column(frame, source, "run_id", "another name")]
    if column.isna().any():
        index = int(np.argmax(column.isna()))
        raise UserError(f"{source}: {row_label(index, None)}, column run_id: empty, where the "
                        "run's name is expected; fill it in, or drop the column")
    names = column.astype(str)
    duplicated = names.duplicated(keep=False)
    if duplicated.any():
        first = names[duplicated].iloc[0]
        rows = np.flatnonzero(names == first)
        raise UserError(f"{source}: run_id {_short(first)} is on {len(rows)} rows "
                        f"({_list_rows(rows)}), where every run has a name of its own; drop the "
                        "duplicates, or rename the column if it names a group of runs")
    return names.tolist()


def label_column(
    frame: pd.DataFrame, source: str, column: str, allowed: tuple[str, ...],
    names: list[str] | None, synonyms: Mapping[str, str],
) -> NDArray[np.character]:
    """A categorical column; the first allowed value in every row if the column is absent.

    Args:
        frame: the table.
        source: name of the file in messages.
        column: name of the column.
        allowed: the values that a cell may have.
        names: names of the runs, for messages.
        synonyms: the allowed value that another word, in lower case, stands for.

    Returns:
        The values, [R].

    Raises:
        UserError: a cell has another value.
    """
    if column not in frame:
        return np.full(len(frame), allowed[0])
    raw = frame[require_column(frame, source, column, "another name")]
    values = raw.map(lambda cell: "" if _is_missing(cell) else str(cell).strip().lower())
    values = values.map(lambda value: synonyms.get(value, value)).astype(str)
    invalid = ~values.isin(allowed).to_numpy()
    if invalid.any():
        index = int(np.argmax(invalid))
        near = difflib.get_close_matches(values.iloc[index], (*allowed, *synonyms), n=1)
        hint = (f"; did you mean {synonyms.get(near[0], near[0])}?" if near
                else "; fix it, or drop or rename the column")
        row = _row_label(frame, source, index, names)
        raise UserError(f"{source}: {row}, column {column}: {_cell_text(raw.iloc[index])}, where "
                        f"one of {', '.join(allowed)} is expected{hint}")
    return values.to_numpy(dtype=np.str_)


def numeric_column(
    frame: pd.DataFrame, source: str, column: str, rows: RowIndices, names: list[str] | None,
    zero: bool = False,
) -> Array:
    """The positive numbers of a column at the given rows, as `read_numbers`.

    Raises:
        UserError: a cell is not such a number.
    """
    values, problem = read_numbers(
        frame, source, column, rows, names, "non-negative" if zero else "positive")
    if problem:
        raise UserError(f"{source}: {problem}")
    return values


def read_numbers(
    frame: pd.DataFrame, source: str, column: str, rows: RowIndices, names: list[str] | None,
    sign: Sign,
) -> tuple[Array, str]:
    """The numbers of a column at the given rows, and what is wrong with them.

    Args:
        frame: the table.
        source: name of the file in messages.
        column: name of the column.
        rows: indices of the rows to read, [R].
        names: names of the runs, for messages.
        sign: the numbers that are allowed; all are finite.

    Returns:
        The numbers, [R], NaN for a cell that is not such a number, and a sentence about all of
        these; empty if there are none.
    """
    raw = frame[column]
    if raw.dtype.kind in "bmMc":
        return np.full(len(rows), np.nan), (f"column {column} holds {raw.dtype}, where numbers are "
                                            "expected; choose another column")
    raw = raw.iloc[rows]
    if isinstance(raw.dtype, pd.CategoricalDtype):
        raw = raw.astype(object)
    values = parse_numbers(raw)
    least = {"positive": values > 0, "non-negative": values >= 0, "any": np.ones(len(rows), bool)}
    invalid = np.flatnonzero(~(np.isfinite(values) & least[sign]))
    if not invalid.size:
        return values, ""
    first, *others = (int(i) for i in invalid)
    cell = raw.iloc[first]
    labels = [_row_label(frame, source, int(rows[i]), names) for i in others[:_MAX_ROWS_LISTED]]
    rest = len(others) - len(labels)
    further = f" and {rest} more" if rest else ""
    more = f"; the same in {', '.join(labels)}{further}" if others else ""
    values = np.where(np.isfinite(values) & least[sign], values, np.nan)
    wanted = "finite" if sign == "any" else sign
    return values, (f"{_row_label(frame, source, int(rows[first]), names)}, column {column}: "
                    f"{_cell_text(cell)}, where a {wanted} number is expected; "
                    f"{_how_to_fix(cell)}{more}")


def standard_errors(frame: pd.DataFrame, column: str, rows: RowIndices) -> Array:
    """The standard errors in a column, [R], NaN for cells that are none; empty if the table does
    not have the column, or has it twice."""
    if [*map(str, frame.columns)].count(column) != 1:
        return np.empty(0)
    found = parse_numbers(frame[column].iloc[rows])
    return np.where(np.isfinite(found) & (found > 0), found, np.nan)


def read_labels(
    frame: pd.DataFrame, source: str, column: str, rows: RowIndices, names: list[str] | None,
    allowed: Sequence[str],
) -> tuple[Array, str]:
    """Like `read_numbers`, for a column of text: the index of each cell among the allowed ones."""
    raw = frame[column].iloc[rows]
    number = {name: float(i) for i, name in enumerate(allowed)}
    values = np.array([number.get(str(cell).strip(), np.nan) for cell in raw], dtype=float)
    invalid = np.flatnonzero(np.isnan(values))
    if not invalid.size:
        return values, ""
    first = int(invalid[0])
    more = f"; the same in {len(invalid) - 1} more rows" if len(invalid) > 1 else ""
    listed = ", ".join(map(_short, allowed[:_MAX_COLUMNS_LISTED]))
    return values, (f"{_row_label(frame, source, int(rows[first]), names)}, column {column}: "
                    f"{_cell_text(raw.iloc[first])}, where one of {listed} is expected; fix it, "
                    f"drop the row, or give the {column} of this name to the law{more}")


def parse_numbers(raw: pd.Series) -> Array:
    """Cells as numbers; NaN for a cell that is not a number, or larger than any float."""
    try:
        return pd.to_numeric(raw, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    except (OverflowError, TypeError):  # an integer of 400 digits, or a cell that holds a list
        return np.array([_parse_number(cell) for cell in raw])


def _parse_number(cell: Any) -> float:
    try:
        return float(cell)
    except (OverflowError, TypeError, ValueError):
        return np.nan


def _cell_text(cell: Any) -> str:
    return "empty" if _is_missing(cell) else repr(_short(str(cell)))


def _is_missing(cell: Any) -> bool:
    return bool(pd.api.types.is_scalar(cell) and pd.isna(cell))


def _short(text: str) -> str:
    text = " ".join(text.split())  # a message is one line
    return text if len(text) <= _MAX_CELL_CHARS else f"{text[:_MAX_CELL_CHARS]}..."


def _how_to_fix(cell: Any) -> str:
    """Advice about a cell that is not a number."""
    text = "" if _is_missing(cell) else str(cell).strip()
    if len(text) > _MAX_CELL_CHARS:
        return _FIX
    if re.fullmatch(r"[-+]?[\d.,]+\s*%", text):
        return "write it without the percent sign, as a number"
    if re.fullmatch(r"\d{1,3}([,_'\s]\d{3})+(\.\d*)?", text):
        return f"write it without separators, as {re.sub(r'[^0-9.]', '', text)}"
    if re.fullmatch(r"\d*,\d+", text):
        return f"write it with a decimal point, as {text.replace(',', '.')}"
    suffixed = re.fullmatch(r"(\d+\.?\d*)\s*([kmbgt])", text.lower())
    if suffixed:
        value = float(suffixed[1]) * _SUFFIXES[suffixed[2]]
        return f"write it in full, as {value:.6g}"
    return _FIX


def _list_rows(indices: NDArray[Any]) -> str:
    shown = ", ".join(str(index + 1) for index in indices[:4])
    return f"rows {shown}" + (", ..." if len(indices) > 4 else "")
