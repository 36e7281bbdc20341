"""The compute of a runs table: its unit, C compared with 6 N D, and other columns that count it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scaling.errors import UserError, option
from scaling.laws.columns import RowIndices, parse_numbers
from scaling.laws.forms.variables import N_COLUMNS, SIX_ND, UNIT_FACTORS, six_nd
from scaling.laws.table import RunsTable

Array = NDArray[np.float64]

_CONSTANT, _SIMILAR, _UNRELATED = 1.02, 2.0, 1e4  # spread of C / (6 N D)
_SIX_ND_COLUMN, _SIX_ND_TOLERANCE = "flops_6nd", 3.0
_COMPUTE_WORDS = ("flop", "compute")  # in the name of a column of FLOPs
_THOUSANDS, _GAP = 1e3, 1e2  # ratio of units, and of runs in two different units


def compare_with_six_nd(table: RunsTable) -> Iterator[tuple[bool, str]]:
    """Compare C with 6 N D, if N, D and C are all given.

    Yields:
        Pairs (serious, text): a warning if serious, otherwise a note.

    Raises:
        UserError: C is in another unit than FLOP, or unrelated to N and D.
    """
    ratio = table.c / six_nd(table.n, table.d)
    middle, spread = float(np.median(ratio)), float(ratio.max() / ratio.min())
    label = f"{table.column_label('c')}: C / ({SIX_ND})"
    _check_units(table, ratio, middle, label)
    if spread > _UNRELATED:
        raise UserError(f"{table.prefix}{label} ranges from {ratio.min():.3g} "
                        f"({table.first_label(ratio == ratio.min())}) to {ratio.max():.3g} "
                        f"({table.first_label(ratio == ratio.max())}); N, D and C of the same runs "
                        "are expected, in units of one: check the columns, or leave out "
                        f"{option('c=', '--c')} for C = 6 N D")
    if spread > _CONSTANT:
        yield (spread > _SIMILAR,
               f"{label} is not constant: it ranges from {ratio.min():.3g} to {ratio.max():.3g} "
               "over the runs, so C is not counted as 6 N D" + (
                   f", or conventions are mixed; leave out {option('c=', '--c')} for C = 6 N D"
                   if spread > _SIMILAR else ""))
    elif not 1 / _CONSTANT < middle < _CONSTANT:
        yield (not 1 / _SIMILAR < middle < _SIMILAR,
               f"{label} is {middle:.3g} in every run, so C is not counted as 6 N D")


def check_six_nd_column(table: RunsTable, frame: pd.DataFrame) -> Iterator[str]:
    """Warn of a `flops_6nd` column that is far from 6 N D, if C is computed from N and D."""
    columns = (N_COLUMNS["total"], "tokens", _SIX_ND_COLUMN)
    if "c" in table.columns or any([*frame.columns].count(name) != 1 for name in columns):
        return
    n, d, c = (parse_numbers(frame[name].iloc[table.rows]) for name in columns)
    with np.errstate(all="ignore"):
        ratio = c / six_nd(n, d)
    ratio = ratio[np.isfinite(ratio) & (ratio > 0)]
    if ratio.size and not 1 / _SIX_ND_TOLERANCE < np.median(ratio) < _SIX_ND_TOLERANCE:
        yield (f"column {_SIX_ND_COLUMN}: its median is {np.median(ratio):.3g} times {SIX_ND} of "
               f"{columns[0]} and {columns[1]}, so one of the three is in another unit or is "
               f"another quantity; C is taken as {SIX_ND}")


def other_flops(
    frame: pd.DataFrame, columns: Mapping[str, str], rows: RowIndices, d: Array
) -> dict[str, Array]:
    """FLOPs of the runs by the name of each further convention that a table has columns for: 6 N D
    with either count of N, and every column of FLOPs.

    Args:
        frame: the table.
        columns: the columns that N, D and C are read from.
        rows: rows of the runs in the table, [R].
        d: training tokens, [R].
    """
    names = [str(name) for name in frame.columns]
    found = {}
    for name in names:
        is_n = name in N_COLUMNS.values()
        is_c = any(word in name.lower() for word in _COMPUTE_WORDS)
        if not (is_n or is_c) or names.count(name) > 1 or frame[name].dtype.kind not in "iuf":
            continue
        values = parse_numbers(frame[name].iloc[rows])
        if is_n and (name != columns.get("n") or "c" in columns):
            found[f"{SIX_ND} with N of column {name}"] = six_nd(values, d)
        elif is_c and name != columns.get("c"):
            found[f"column {name}"] = values
    return {name: values for name, values in found.items()
            if (np.isfinite(values) & (values > 0)).all()}


def _check_units(table: RunsTable, ratio: Array, middle: float, label: str) -> None:
    """Raise if C is in another unit than FLOP, in all runs or in some."""
    units = [("PF-days", UNIT_FACTORS["PF-days"]), *((f"units of {10.0**p:.0e} FLOP", 10.0**p)
                                    for p in range(9, 25, 3))]
    off = [abs(np.log(middle * factor)) for _, factor in units]
    best = int(np.argmin(off))
    if off[best] < np.log(4):
        raise UserError(f"{table.prefix}{label} has a median of {middle:.3g}: C seems to be in "
                        f"{units[best][0]}, where FLOP are expected; multiply it by "
                        f"{units[best][1]:.3g}")
    if middle > _THOUSANDS / 4:
        raise UserError(f"{table.prefix}{label} has a median of {middle:.3g}, where about 1 is "
                        f"expected: {table.column_label('n')} or {table.column_label('d')} seems "
                        "to be in thousands, millions or billions, or to be another quantity; "
                        "convert N and D to units of one, or give their columns with "
                        f"{option('n= and d=', '--n and --d')}")
    far = np.abs(np.log(ratio / middle)) > np.log(_GAP)
    rest = ratio[~far]
    power = np.log10(ratio[far] / middle) / 3
    if far.any() and rest.max() / rest.min() < 3 and np.abs(power - power.round()).max() < 0.15:
        raise UserError(f"{table.prefix}{table.first_label(far)}, {label} is {ratio[far][0]:.3g}, "
                        f"but {middle:.3g} in the other runs: the units of N, D or C are mixed, "
                        "where units of one are expected; fix those rows")


def check_below_one_flop(table: RunsTable) -> None:
    """Raise if C is below one, or N or D that were computed from it."""
    for v in ("c", "n", "d"):
        under = table.values[v] < 1
        if under.any():
            raise UserError(
                f"{table.prefix}{table.first_label(under)}, {table.column_label(v)}: "
                f"{table.values[v][under].min():.3g} is less than one, so "
                f"{table.column_label('c')} is not in FLOP; convert it (a PF-day is "
                f"{UNIT_FACTORS['PF-days']:.3g} FLOP), or exchange "
                f"{option('c= with n= or d=', '--c with --n or --d')} if they are swapped")
