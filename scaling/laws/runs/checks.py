"""What is wrong with a table of runs: refused where it cannot be meant, else warned of.

`checked` looks at what the runs are (their units, their compute, copies, checkpoints) when a table
is read; `outcome` at what was measured, which only the form to be fitted knows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.variables import UNIT_FACTORS

if TYPE_CHECKING:
    from scaling.laws.forms.form import Form
    from scaling.laws.runs.table import RunsTable

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_MOST = {"n": 1e15, "d": 1e17}       # beyond any model and any corpus
_FEW = 1e3                           # parameters or tokens, below which units are in doubt
_THOUSANDS = (1e3, 1e6, 1e9, 1e12)
_GAP = 1e2                           # between sizes, from which on units may be mixed
_TINY = {"n": 1e4, "d": 1e5}         # a cluster below, far from the rest, is not in units of one
_PER_PARAMETER = 0.1                 # tokens; fewer are rarer than swapped columns
_EQUAL, _ALIKE, _LAWLESS = 1.02, 2.0, 1e4  # spread of C / (6 N D)
_LARGEST_VOCABULARY = 1e6
_PERPLEXITY = 20.0                   # no loss in nats per token, of any model that learned
_RISES, _RISES_SURELY = 0.5, 0.8     # rank correlations
_GROUPED = 8                         # runs that can be compared, to speak of a correlation
_AT_LEAST, _AT_LEAST_EVEN, _AT_LEAST_ANY = 3, 5, 12
"""Losses along D that make a curve: of a run that is named, at even steps, at any."""
_EVEN = 0.02                         # how far steps of D depart from their mean
_CHECKPOINTS = 0.3                   # of the rows in such curves, to speak of them
_STEP = {"step", "global_step", "iteration", "iter", "checkpoint", "ckpt"}
_RUN = {"run", "run_name", "run_index", "experiment", "trial", "trial_id", "job", "job_id"}
_WORDS = {
    "bits": ("bpb", "bpc", "bpt", "bpw", "bits"),
    "perplexities": ("ppl", "perplexity"),
    "accuracies": ("acc", "accuracy", "top1", "f1", "bleu"),
}


def checked(table: RunsTable, frame: pd.DataFrame) -> RunsTable:
    """The table with warnings and notes of what looks wrong with its runs.

    Args:
        table: the runs to be fitted.
        frame: the file's rows, of which the table keeps what it needs.

    Raises:
        UserError: a number cannot be what it is said to be.
    """
    if not table.loss.size:
        return table
    _beyond(table)
    _below_one(table)
    warnings = list(_mixed_units(table))
    notes: list[str] = []
    if {"n", "d", "c"} <= {*table.columns}:
        for serious, text in _compute(table):
            (warnings if serious else notes).append(text)
    _below_one_flop(table)
    warnings += [*_few(table), *_swapped(table), *_copies(table), *_checkpoints(table, frame)]
    return replace(table, warnings=(*table.warnings, *warnings), notes=(*table.notes, *notes))


def outcome(form: Form, table: RunsTable) -> list[str]:
    """Warnings of what was measured, for a form that predicts a loss; none for others.

    Raises:
        UserError: the column cannot be losses in nats per token.
    """
    if not form.outcome.startswith("loss") or table.loss.size < 2:
        return []
    y, where = table.loss, f"{_at(table)}{_column(table, 'loss')}"
    if y.min() == y.max():
        raise UserError(f"{where}: every run has {y[0]:g}, and no law follows from it; name the "
                        "column of losses with --loss")
    for v in ("n", "d"):
        x = table.values[v]
        if np.median(y) > _FEW and x.max() < _PERPLEXITY:
            raise UserError(f"{where}: from {y.min():.3g} to {y.max():.3g}, while {v.upper()} "
                            f"({_column(table, v)}) is from {x.min():.3g} to {x.max():.3g}: --loss "
                            f"and --{v} seem to be swapped; exchange them")
    return [*_sizes_of_loss(table, where), *_name_of_loss(table), *_rising(table, where)]


def _at(table: RunsTable) -> str:
    return f"{table.source}: " if table.source else ""


def _column(table: RunsTable, v: str) -> str:
    if v in table.columns:
        return f"column {table.columns[v]}"
    return {"loss": "the loss"}.get(v) or f"{v.upper()} = {table.convention.get(v, '')}"


def _first(table: RunsTable, rows: Mask) -> str:
    """The first of some rows, as the file has them, and how many more there are."""
    places = np.flatnonzero(rows)
    first = places[np.argmin(table.rows[places])]
    more = len(places) - 1
    return table.called(int(first)) + (f" and {more} more" if more else "")


def _beyond(table: RunsTable) -> None:
    for v, most in _MOST.items():
        over = table.values[v] > most
        if over.any():
            unit = {"n": "parameters", "d": "tokens"}[v]
            raise UserError(
                f"{_at(table)}{_first(table, over)}, {_column(table, v)}: "
                f"{table.values[v][over].max():.3g} {unit}, more than any run has; name the column "
                f"of {unit} with --{v} (C, in FLOP, is named with --c), in units of one")


def _below_one(table: RunsTable) -> None:
    for v, unit in (("n", "parameters"), ("d", "tokens")):
        under = table.values[v] < 1
        if under.any() and v in table.columns:
            raise UserError(
                f"{_at(table)}{_first(table, under)}, {_column(table, v)}: "
                f"{table.values[v][under].min():.3g}, where a whole number of {unit} is expected; "
                "if it is in millions or billions, multiply the column so that it counts ones")


def _below_one_flop(table: RunsTable) -> None:
    """C below one, or N or D below one that follow from it."""
    for v in ("c", "n", "d"):
        under = table.values[v] < 1
        if under.any():
            raise UserError(
                f"{_at(table)}{_first(table, under)}, {_column(table, v)}: "
                f"{table.values[v][under].min():.3g}, which is less than one, so "
                f"{_column(table, 'c')} is not in FLOP; multiply it so that it is (a PF-day is "
                f"{UNIT_FACTORS['PF-days']:.3g}), or exchange --c with --n or --d if they are "
                "swapped")


def _mixed_units(table: RunsTable) -> Iterator[str]:
    """A gap in N or D that goes when the values below it are multiplied by a power of 1000."""
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
        text = (f"{_first(table, x <= low[-1])}, {_column(table, v)}: {low[0]:.3g} to "
                f"{low[-1]:.3g}, and all others {high[0]:.3g} to {high[-1]:.3g}: a gap that goes "
                f"when the low ones are multiplied by {fits[0]:.0e}")
        if np.median(low) < tiny:
            raise UserError(f"{_at(table)}{text}; one unit for the whole column is expected: "
                            "write every value in ones")
        yield f"{text}; if units are mixed, write every value in ones"


def _few(table: RunsTable) -> Iterator[str]:
    for v, unit in (("n", "parameters"), ("d", "tokens")):
        x = table.values[v]
        if v in table.columns and np.median(x) < _FEW:
            yield (f"{_column(table, v)}: {x.min():.3g} to {x.max():.3g}, few for {unit}; if it "
                   "is in thousands, millions or billions, multiply it, or the law's constants "
                   "are in that unit")


def _swapped(table: RunsTable) -> Iterator[str]:
    per = float(np.median(table.d / table.n))
    if per < _PER_PARAMETER:
        yield (f"{_column(table, 'd')}: D/N is {per:.2g} tokens per parameter in the middle, "
               f"where 1 to 1000 are usual; check that {_column(table, 'n')} is N, that "
               f"{_column(table, 'd')} is D, and their units")


def _compute(table: RunsTable) -> Iterator[tuple[bool, str]]:
    """Where N, D and C are all given: C against 6 N D. Pairs of (serious, text)."""
    from scaling.laws.runs.table import SIX_ND, six_nd

    ratio = table.c / six_nd(table.n, table.d)
    middle, spread = float(np.median(ratio)), float(ratio.max() / ratio.min())
    named = f"{_column(table, 'c')}: C / ({SIX_ND})"
    _check_units(table, ratio, middle, named)
    if spread > _LAWLESS:
        raise UserError(f"{_at(table)}{named} runs from {ratio.min():.3g} "
                        f"({_first(table, ratio == ratio.min())}) to {ratio.max():.3g} "
                        f"({_first(table, ratio == ratio.max())}); N, D and C of the same runs are "
                        "expected, in ones: check the columns, or leave out --c for C = 6 N D")
    if spread > _EQUAL:
        yield (spread > _ALIKE,
               f"{named} is not constant: it runs from {ratio.min():.3g} to {ratio.max():.3g} over "
               "the runs, so C is counted otherwise than as 6 N D" + (
                   ", or conventions are mixed; leave out --c for C = 6 N D"
                   if spread > _ALIKE else ""))
    elif not 1 / _EQUAL < middle < _EQUAL:
        yield (not 1 / _ALIKE < middle < _ALIKE,
               f"{named} is {middle:.3g} in every run, so C is counted otherwise than as 6 N D")


def _check_units(table: RunsTable, ratio: Array, middle: float, named: str) -> None:
    """Refuse C in another unit than FLOP, in all runs or in some."""
    units = [("PF-days", UNIT_FACTORS["PF-days"]), *((f"units of {10.0**p:.0e} FLOP", 10.0**p)
                                    for p in range(9, 25, 3))]
    off = [abs(np.log(middle * factor)) for _, factor in units]
    best = int(np.argmin(off))
    if off[best] < np.log(4):
        raise UserError(f"{_at(table)}{named} is {middle:.3g} in the middle: C seems to be in "
                        f"{units[best][0]}, where FLOP are expected; multiply it by "
                        f"{units[best][1]:.3g}")
    if middle > _THOUSANDS[0] / 4:
        raise UserError(f"{_at(table)}{named} is {middle:.3g} in the middle, where about 1 is "
                        f"expected: {_column(table, 'n')} or {_column(table, 'd')} seems to be in "
                        "thousands, millions or billions, or another quantity; write N and D in "
                        "ones, or name their columns with --n and --d")
    far = np.abs(np.log(ratio / middle)) > np.log(_GAP)
    rest = ratio[~far]
    power = np.log10(ratio[far] / middle) / 3
    if far.any() and rest.max() / rest.min() < 3 and np.abs(power - power.round()).max() < 0.15:
        raise UserError(f"{_at(table)}{_first(table, far)}, {named} is {ratio[far][0]:.3g}, and "
                        f"{middle:.3g} in the other runs: mixed units of N, D or C, where ones are "
                        "expected; mend those rows")


def _copies(table: RunsTable) -> Iterator[str]:
    columns = pd.DataFrame({**table.values, "the loss": table.loss})
    again = columns.duplicated().to_numpy()
    if again.any():
        first = int(np.argmax(again))
        same = np.flatnonzero((columns == columns.iloc[first]).all(axis=1)
                              | (np.arange(len(columns)) == first))
        at = sorted({*same.tolist(), first}, key=lambda run: int(table.rows[run]))
        more = int(again.sum()) - (len(at) - 1)
        yield (f"{', '.join(map(table.called, at[:4]))}{', ...' if len(at) > 4 else ''} have the "
               f"same N, D, C and loss{f', and there are {more} more copies' if more else ''}: "
               "seeds differ in their loss, copies count twice; drop them")


def _checkpoints(table: RunsTable, frame: pd.DataFrame) -> Iterator[str]:
    """Losses of one run along its training are not those of runs that ended there."""
    if np.isnan(table.n).any() or np.isnan(table.d).any():
        return
    names = {str(name).lower(): name for name in frame.columns}
    run = next((names[name] for name in names if name in _RUN), None)
    step = next((names[name] for name in names if name in _STEP), None)
    groups = [np.unique(table.n, return_inverse=True)[1]]
    if run is not None:
        groups.append(pd.factorize(frame[run].iloc[table.rows])[0])
    order = np.lexsort((table.d, *groups))
    d, y = table.d[order], table.loss[order]
    same = np.logical_and.reduce([group[order][1:] == group[order][:-1] for group in groups])
    group = np.concatenate([[0], np.cumsum(~same)])
    falls = np.concatenate([[True], ~same | ((np.diff(d) > 0) & (np.diff(y) < 0))])
    steps = np.concatenate([[0.0], np.where(same, np.diff(d), 0.0)])
    runs = np.bincount(group)
    mean = np.bincount(group, steps) / np.maximum(runs - 1, 1)
    uneven = np.concatenate([[0.0], np.where(same, np.abs(steps[1:] - mean[group[1:]]), 0.0)])
    even = np.bincount(group, uneven) < _EVEN * mean * runs
    alike = (np.bincount(group, ~falls) == 0) & (
        (runs >= (_AT_LEAST if run is not None else np.inf))
        | ((runs >= _AT_LEAST_EVEN) & (even | (step is not None))) | (runs >= _AT_LEAST_ANY))
    if runs[alike].sum() < _CHECKPOINTS * len(d):
        return
    inside = np.zeros(len(d), dtype=bool)
    inside[order[group == np.flatnonzero(alike)[0]]] = True
    said = f" (column {run})" if run is not None else f" (column {step})" if step else ""
    yield (f"{_first(table, inside)} have one N, and a loss that only falls as D grows, as the "
           f"checkpoints of one run do{said}: a law is of final losses, each at the end of its own "
           "schedule; keep the last row of each run")


def _sizes_of_loss(table: RunsTable, where: str) -> Iterator[str]:
    y, limit = table.loss, float(np.log(_LARGEST_VOCABULARY))
    for over in (y > _FEW, y > _PERPLEXITY, y > limit):
        if not over.any():
            continue
        head = f"{_first(table, over)}, {_column(table, 'loss')}: {y[over].max():.4g}"
        if y[over].min() <= _PERPLEXITY:
            yield (f"{head} nats per token, more than a uniform guess over any vocabulary costs "
                   f"({limit:.3g}): a run that diverged, or perplexities (take their logarithm)")
            return
        if np.median(y) > _FEW:
            raise UserError(f"{where}: from {y.min():.3g} to {y.max():.3g}, where losses in nats "
                            "per token are expected; these look like N, D or C: name the column of "
                            "losses with --loss")
        raise UserError(f"{_at(table)}{head}, where a loss in nats per token is expected, and no "
                        f"vocabulary has one above {limit:.3g}; if the column holds perplexities, "
                        "take their logarithm; if the run diverged, set its status to diverged")


def _name_of_loss(table: RunsTable) -> Iterator[str]:
    column = table.columns.get("loss", "")
    words = {*re.split(r"[^a-z0-9]+", column.lower())}
    for what, names in _WORDS.items():
        if words & {*names}:
            mend = {"bits": f"multiply them by ln 2 = {np.log(2):.4f}, or read E and the "
                            "coefficients in bits",
                    "perplexities": "take their logarithm",
                    "accuracies": "a loss falls as runs grow"}[what]
            yield (f"column {column}: {what}, by its name, where losses in nats per token are "
                   f"expected; {mend}")


def _rising(table: RunsTable, where: str) -> Iterator[str]:
    found = {v: _rank_correlation(table.values[v], table.loss, table.values[other])
             for v, other in (("n", "d"), ("d", "n"))}
    rises = {v: rho for v, rho in found.items() if rho is not None and rho > _RISES}
    if len(rises) == 2 and min(rises.values()) > _RISES_SURELY:
        raise UserError(f"{where}: rises with N at given D and with D at given N (rank "
                        f"correlations {rises['n']:.2f} and {rises['d']:.2f}), where a loss is "
                        "expected, which falls with both; if it holds accuracies, fit the error, 1 "
                        "minus them; else name the column of losses with --loss")
    for v, rho in rises.items():
        yield (f"{_column(table, 'loss')}: rises with {v.upper()} ({_column(table, v)}) at given "
               f"{'D' if v == 'n' else 'N'} (rank correlation {rho:.2f}), where a loss falls; "
               f"check that neither column is another quantity, and that no run overfits")


def _rank_correlation(x: Array, y: Array, at: Array) -> float | None:
    """Spearman's correlation of x and y within groups of about equal `at`, pooled; None where
    there is too little to compare."""
    if np.isnan(x).any() or np.isnan(at).any():
        return None
    about = np.round(np.log10(at) * 10)  # to a quarter, which is little beside what x spans
    frame = pd.DataFrame({"x": x, "y": y})
    ranks = frame.groupby(about).rank()
    inside = (ranks - ranks.groupby(about).transform("mean")).to_numpy()
    several = (frame.groupby(about).transform("nunique")["x"] >= 3).to_numpy()
    if several.sum() < _GROUPED:
        return None
    a, b = inside[several].T
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0 else None
