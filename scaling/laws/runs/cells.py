"""Columns and cells of a user's table, and messages that name them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scaling.errors import UserError

Array = NDArray[np.float64]
Places = NDArray[np.intp]

_SUFFIXES = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}


def row(place: int, run_id: str | None) -> str:
    """How messages call a row: counted from one below the header, and its run."""
    return f"row {place + 1}" + (f" (run_id {run_id})" if run_id is not None else "")


def _at(place: int, names: list[str] | None) -> str:
    return row(place, None if names is None else names[place])


def known(frame: pd.DataFrame, source: str, column: str, option: str) -> str:
    """The column's name, if the table has it once.

    Raises:
        UserError: it has none, or several.
    """
    there = [str(name) for name in frame.columns]
    times = there.count(column)
    if times == 1:
        return column
    if times:
        raise UserError(f"{source}: has {times} columns {column}, where one is expected; rename "
                        f"one of them, or name another with {option}")
    lower = {name.lower(): name for name in there}
    near = difflib.get_close_matches(column.lower(), lower, n=1, cutoff=0.4)
    hint = f"did you mean {lower[near[0]]}? " if near else ""
    if len(there) == 1 and re.search(r"[;\t|]", there[0]):
        hint = "its columns seem not to be separated by commas, as a CSV file's are. "
    raise UserError(f"{source}: has no column {column}; {hint}It has {', '.join(there)}. Name "
                    f"another with {option}")


def run_ids(frame: pd.DataFrame, source: str) -> list[str] | None:
    """The names of the runs, each of which stands once; None where the table gives none.

    Raises:
        UserError: a run has no name, or two have the same.
    """
    if "run_id" not in frame:
        return None
    column = frame[known(frame, source, "run_id", "another name")]
    if column.isna().any():
        place = int(np.argmax(column.isna()))
        raise UserError(f"{source}: {row(place, None)}, column run_id: nothing, where the run's "
                        "name is expected; fill it in, or drop the column")
    names = column.astype(str)
    twice = names.duplicated(keep=False)
    if twice.any():
        first = names[twice].iloc[0]
        at = np.flatnonzero(names == first)
        raise UserError(f"{source}: run_id {first} stands on {len(at)} rows ({_listed(at)}); every "
                        "run has a name of its own: drop the copies, or, where the column names "
                        "a group of runs, rename it")
    return names.tolist()


def labels(
    frame: pd.DataFrame, source: str, column: str, allowed: tuple[str, ...],
    names: list[str] | None, synonyms: Mapping[str, str],
) -> NDArray[np.str_]:
    """A column of words; the first allowed word where the table has no such column.

    Raises:
        UserError: a cell has another word.
    """
    if column not in frame:
        return np.full(len(frame), allowed[0])
    found = frame[known(frame, source, column, "another name")].astype(str)
    strange = ~found.isin(allowed).to_numpy()
    if strange.any():
        place = int(np.argmax(strange))
        value = found.iloc[place]
        meant = synonyms.get(value.strip().lower())
        if meant is None:
            near = difflib.get_close_matches(value.strip().lower(), allowed, n=1)
            meant = near[0] if near else None
        hint = f"; write {meant}?" if meant else "; mend it, or drop or rename the column"
        raise UserError(f"{source}: {_at(place, names)}, column {column}: "
                        f"{value!r}; expected is one of {', '.join(allowed)}{hint}")
    return found.to_numpy(dtype=np.str_)


def numbers(
    frame: pd.DataFrame, source: str, column: str, places: Places, names: list[str] | None,
    zero: bool = False,
) -> Array:
    """Positive numbers of one column at some rows, or also zeros.

    Raises:
        UserError: a cell has none.
    """
    raw = frame[column]
    if raw.dtype.kind in "bmMc":
        raise UserError(f"{source}: column {column} holds {raw.dtype}, where numbers are expected; "
                        "name another column")
    raw = raw.iloc[places]
    if isinstance(raw.dtype, pd.CategoricalDtype):
        raw = raw.astype(object)
    values = pd.to_numeric(raw, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    fine = np.isfinite(values) & ((values >= 0) if zero else (values > 0))
    if not fine.all():
        i = int(np.argmin(fine))
        more = int((~fine).sum()) - 1
        others = f" (and {more} more rows)" if more > 1 else " (and one more row)" if more else ""
        raise UserError(
            f"{source}: {_at(int(places[i]), names)}, column {column}: "
            f"{_called(raw.iloc[i])}, where a "
            f"{'number from zero on' if zero else 'positive number'} is expected; "
            f"{_mend(raw.iloc[i])}{others}")
    return values


def _called(cell: Any) -> str:
    return "nothing" if pd.isna(cell) else repr(str(cell))


def _mend(cell: Any) -> str:
    """What to do about a cell that is no number."""
    text = "" if pd.isna(cell) else str(cell).strip()
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
    return "mend it, drop the row, or set its status to diverged or failed"


def _listed(places: NDArray[Any]) -> str:
    shown = ", ".join(str(place + 1) for place in places[:4])
    return f"rows {shown}" + (", ..." if len(places) > 4 else "")
