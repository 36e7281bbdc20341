"""Checks of a runs table when it is read: units, compute, duplicate rows.

An impossible table is an error; a suspicious one gets warnings. Losses are checked later, before a
fit (scaling/laws/fitting/preflight.py), because their valid range depends on the form.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scaling.errors import UserError, option
from scaling.laws.compute_checks import (
    check_below_one_flop,
    check_six_nd_column,
    compare_with_six_nd,
)
from scaling.laws.table import RunsTable

Array = NDArray[np.float64]

_UPPER_BOUND = {"n": 1e15, "d": 1e17}  # larger than any model and any corpus
_SMALL = 1e3                           # parameters or tokens; below it the unit is in doubt
_THOUSANDS = (1e3, 1e6, 1e9, 1e12)
_GAP = 1e2                             # ratio of adjacent sizes above which units may be mixed
_TINY = {"n": 1e4, "d": 1e5}           # a distant cluster below this is not in units of one
_MIN_D_OVER_N = 0.1                    # a smaller D/N is rarer than swapped columns
_NAME_COLUMNS = {"run_id", "run", "id", "name", "run_name", "index", "uuid", "unnamed: 0"}


def check_table(table: RunsTable, frame: pd.DataFrame) -> RunsTable:
    """Check the units and the consistency of the runs, and add warnings and notes.

    Args:
        table: the runs to be fitted.
        frame: all rows and columns of the file that the table was made from.

    Returns:
        The table with warnings and notes.

    Raises:
        UserError: a value is impossible for its variable.
    """
    if not table.loss.size:
        return table
    _check_upper_bounds(table)
    _check_not_below_one(table)
    warnings = list(_mixed_units(table))
    notes: list[str] = []
    if {"n", "d", "c"} <= {*table.columns}:
        for serious, text in compare_with_six_nd(table):
            (warnings if serious else notes).append(text)
    else:
        warnings += check_six_nd_column(table, frame)
    check_below_one_flop(table)
    warnings += [*_small_values(table), *_swapped_columns(table), *_duplicate_runs(table, frame)]
    return replace(table, warnings=(*table.warnings, *warnings), notes=(*table.notes, *notes))


def _check_upper_bounds(table: RunsTable) -> None:
    for v, upper in _UPPER_BOUND.items():
        over = table.values[v] > upper
        if over.any():
            unit = {"n": "parameters", "d": "tokens"}[v]
            raise UserError(
                f"{table.prefix}{table.first_label(over)}, {table.column_label(v)}: "
                f"{table.values[v][over].max():.3g} {unit}, more than any run has; give the column "
                f"of {unit}, in units of one, with {option(f'{v}=', f'--{v}')} (C, in FLOP, is "
                f"given with {option('c=', '--c')})")


def _check_not_below_one(table: RunsTable) -> None:
    for v, unit in (("n", "parameters"), ("d", "tokens")):
        under = table.values[v] < 1
        if under.any() and v in table.columns:
            raise UserError(
                f"{table.prefix}{table.first_label(under)}, {table.column_label(v)}: "
                f"{table.values[v][under].min():.3g}, where a whole number of {unit} is expected; "
                "if the column is in millions or billions, convert it to units of one")


def _mixed_units(table: RunsTable) -> Iterator[str]:
    """A gap in N or D that closes if the values below it are multiplied by a power of 1000."""
    for v, tiny in _TINY.items():
        x = table.values[v]
        levels = np.unique(x[np.isfinite(x)])
        if v not in table.columns or len(levels) < 2:
            continue
        ratios = levels[1:] / levels[:-1]
        gap = int(np.argmax(ratios))
        low, high = levels[:gap + 1], levels[gap + 1:]
        fits = [f for f in _THOUSANDS
                if low[0] * f >= high[0] / 3 and low[-1] * f <= high[-1] * 3]
        if ratios[gap] < _GAP or not fits:
            continue
        text = (f"{table.first_label(x <= low[-1])}, {table.column_label(v)}: {low[0]:.3g} to "
                f"{low[-1]:.3g}, while all other values are {high[0]:.3g} to {high[-1]:.3g}: the "
                f"gap closes if the small values are multiplied by {fits[0]:.0e}")
        if np.median(low) < tiny:
            raise UserError(f"{table.prefix}{text}; one unit is expected in the whole column: "
                            "convert every value to units of one")
        yield f"{text}; if units are mixed, convert every value to units of one"


def _small_values(table: RunsTable) -> Iterator[str]:
    for v, unit in (("n", "parameters"), ("d", "tokens")):
        x = table.values[v]
        if v in table.columns and np.median(x) < _SMALL:
            yield (f"{table.column_label(v)}: {x.min():.3g} to {x.max():.3g} are few {unit}; if "
                   "the column is in thousands, millions or billions, convert it to units of one, "
                   "or the law's constants are in that unit")


def _swapped_columns(table: RunsTable) -> Iterator[str]:
    d_over_n = float(np.median(table.d / table.n))
    if d_over_n < _MIN_D_OVER_N:
        yield (f"{table.column_label('d')}: the median of D/N is {d_over_n:.2g} tokens per "
               f"parameter, where 1 to 1000 are usual; check that {table.column_label('n')} is N, "
               f"that {table.column_label('d')} is D, and their units")


def _duplicate_runs(table: RunsTable, frame: pd.DataFrame) -> Iterator[str]:
    """Rows that are equal in every column but their name."""
    cells = frame.iloc[table.rows].reset_index(drop=True)
    cells = cells.loc[:, [str(name).lower() not in _NAME_COLUMNS for name in cells.columns]]
    cells.columns = pd.RangeIndex(cells.shape[1])
    columns = pd.concat([cells.astype(str), pd.DataFrame(table.values)], axis=1)
    again = columns.duplicated().to_numpy()
    if again.any():
        first = int(np.argmax(again))
        same = np.flatnonzero((columns == columns.iloc[first]).all(axis=1)
                              | (np.arange(len(columns)) == first))
        copies = sorted({*same.tolist(), first}, key=lambda run: int(table.rows[run]))
        more = int(again.sum()) - (len(copies) - 1)
        others = f", and there are {more} more duplicates" if more else ""
        yield (f"{', '.join(map(table.run_label, copies[:4]))}{', ...' if len(copies) > 4 else ''} "
               f"are equal in every column{others}: runs with other seeds differ in "
               f"{table.column_label('loss')}, and a duplicate counts twice; drop duplicates")
