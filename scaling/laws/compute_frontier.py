"""The runs of the lowest loss for their compute, which a law of compute is fitted to."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError, option
from scaling.laws.table import RunsTable

FrontierKind = Literal["pareto", "binned"]
BINS = 10
"""Bins of a binned frontier by default."""


def on_frontier(
    table: RunsTable, kind: FrontierKind | None, bins: int | None = None
) -> RunsTable:
    """The table with only the runs of the lowest loss for their compute; the others are counted.

    Args:
        table: the runs.
        kind: "pareto" for the runs that no other one of as much compute or less surpasses or
            equals; "binned" for the one of the lowest loss in each bin; None for all runs.
        bins: number of bins of equal width in log C from the least to the largest C, for "binned";
            None for `BINS`.

    Raises:
        UserError: C is not known of every run, or there are no bins, or some that are not used.
    """
    if kind != "binned" and bins is not None:
        raise UserError(f"{option(f'bins={bins}', f'--bins {bins}')}: is only for "
                        f"{option('frontier=', '--frontier ')}binned; give it, too")
    if kind is None:
        return table
    bins = BINS if bins is None else bins
    if not bins >= 1:
        raise UserError(f"{option(f'bins={bins}', f'--bins {bins}')}: a number of bins from 1 on "
                        "is expected")
    if np.isnan(table.c).any():
        raise UserError(f"{option('frontier=', '--frontier ')}{kind}: needs C of every run; name "
                        f"its column with {option('c=', '--c')}, or those of N and D")
    kept = _pareto(table) if kind == "pareto" else _binned(table, bins)
    phrase = ("runs that none of as much compute or less surpasses" if kind == "pareto" else
              f"the run of the lowest loss in each of {bins} bins of log C")
    dropped = table.loss.size - len(kept)
    return replace(table.take(kept), excluded={**table.excluded, "off_the_frontier": dropped},
                   selection=(*table.selection, f"only {phrase}"))


def _pareto(table: RunsTable) -> NDArray[np.intp]:
    order = np.lexsort((table.loss, table.c))
    best = np.minimum.accumulate(np.concatenate([[np.inf], table.loss[order][:-1]]))
    return np.sort(order[table.loss[order] < best])


def _binned(table: RunsTable, bins: int) -> NDArray[np.intp]:
    log_c = np.log(table.c)
    width = max(float(np.ptp(log_c)) / bins, 1e-12) if log_c.size else 1.0
    place = np.minimum(np.floor((log_c - log_c.min(initial=np.inf)) / width), bins - 1)
    order = np.lexsort((table.loss, place))
    return np.sort(order[np.unique(place[order], return_index=True)[1]])
