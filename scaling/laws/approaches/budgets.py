"""Runs grouped by training compute: the profiles that approach 2 looks for the lowest point of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.runs.table import RunsTable

Array = NDArray[np.float64]

TOLERANCE = 0.02
"""Runs whose ln C differs by no more than this share a budget. Where loss falls as C^-0.05, that
is a thousandth of the loss."""


@dataclass(frozen=True)
class Budget:
    """The runs of one budget, by size.

    `c` is in FLOP; `log_n`, ascending, `log_d` and `loss` (nats per token) have one entry a run,
    [R].
    """

    c: float
    log_n: Array
    log_d: Array
    loss: Array

    @property
    def sizes(self) -> Array:
        """The distinct ln N, ascending."""
        return np.unique(self.log_n)

    def tokens(self, log_n: float) -> float:
        """D at some ln N: a straight line of the runs' ln D against their ln N, which is C/(6N)
        where C = 6 N D, and whatever the table counts where it is not."""
        if not math.isfinite(log_n):
            return math.nan
        middle = self.log_n.mean()
        slope, level = np.polyfit(self.log_n - middle, self.log_d, 1)
        with np.errstate(over="ignore"):
            return float(np.exp(level + slope * (log_n - middle)))

    def near(self, factor: float) -> Budget:
        """Only the runs whose N is within a factor of that of the lowest loss."""
        away = np.abs(self.log_n - self.log_n[self.loss.argmin()])
        rows = np.flatnonzero(away <= math.log(factor) + 1e-9)
        return Budget(self.c, self.log_n[rows], self.log_d[rows], self.loss[rows])

    def by_size(self) -> tuple[Array, Array]:
        """The mean log-loss of every distinct size, and how many runs it is of: [K] each."""
        sizes, place, counts = np.unique(self.log_n, return_inverse=True, return_counts=True)
        sums = np.zeros(len(sizes))
        np.add.at(sums, place, np.log(self.loss))
        return sums / counts, counts.astype(float)


def group(
    table: RunsTable, budgets: Sequence[float] | None = None, tolerance: float = TOLERANCE
) -> tuple[list[Budget], tuple[str, ...]]:
    """The runs by budget, smallest first, and warnings about runs that belong to none.

    Args:
        table: the runs; N, D, C and the loss of each must be there.
        budgets: FLOPs of the budgets; a run belongs to the nearest if its ln C is no further than
            `tolerance` from it. None finds them: sorted by C, a run whose ln C is more than
            `tolerance` above the one before begins a new budget, whose C is the geometric mean.
        tolerance: in ln C.

    Raises:
        UserError: a quantity is missing, the budgets make no sense, or they run into each other.
    """
    if not table.loss.size:
        raise UserError("approach 2 needs runs, and no finished run is in the table")
    for name in ("n", "d", "c"):
        if np.isnan(getattr(table, name)).any():
            raise UserError(f"approach 2 needs N, D and C of every run, and {name.upper()} is "
                            f"missing; name its column with --{name} COLUMN, or two of the three")
    if not 0 <= tolerance < math.inf:
        raise UserError(f"tolerance {tolerance:g}: a number from zero on is expected, a share of "
                        f"C such as {TOLERANCE}")
    log_c = np.log(table.c)
    if budgets is None:
        centres, place = _found(log_c, tolerance)
    else:
        centres, place = _given(log_c, budgets, tolerance)
    warnings: tuple[str, ...] = ()
    if lost := int((place < 0).sum()):
        warnings = (f"{lost} of {len(place)} runs lie further than {tolerance:.2g} in ln C from "
                    "every budget that was given, and are left out",)
    groups = []
    for number, centre in enumerate(centres):
        rows = np.flatnonzero(place == number)
        if not rows.size:
            warnings += (f"no run has the budget of {math.exp(centre):.4g} FLOP that was given",)
            continue
        rows = rows[np.lexsort((table.loss[rows], table.n[rows]))]
        groups.append(Budget(float(np.exp(centre)), np.log(table.n[rows]), np.log(table.d[rows]),
                             table.loss[rows]))
    return groups, warnings


def _found(log_c: Array, tolerance: float) -> tuple[Array, NDArray[np.intp]]:
    order = np.argsort(log_c, kind="stable")
    # Rounding of a product is not another budget.
    starts = np.diff(log_c[order], prepend=-np.inf) > max(tolerance, 1e-9)
    place = np.empty(len(log_c), dtype=np.intp)
    place[order] = np.cumsum(starts) - 1
    for number in range(int(starts.sum())):
        mine = log_c[place == number]
        if np.ptp(mine) > 2 * max(tolerance, 1e-9):
            low, high = np.exp([mine.min(), mine.max()])
            raise UserError(
                f"budgets cannot be told apart: runs of {low:.4g} to {high:.4g} FLOP follow each "
                f"other in steps of less than {tolerance:.2g} in ln C; give the budgets, or a "
                "smaller tolerance, or fit the law chinchilla, which needs no budgets")
    return np.array([log_c[place == k].mean() for k in range(int(starts.sum()))]), place


def _given(
    log_c: Array, budgets: Sequence[float], tolerance: float
) -> tuple[Array, NDArray[np.intp]]:
    values = np.sort(np.array(budgets, dtype=float))
    if not values.size or not (np.isfinite(values) & (values > 0)).all():
        raise UserError(f"budgets {list(budgets)}: positive numbers of FLOPs are expected, such "
                        "as 1e18")
    centres = np.log(values)
    if (np.diff(centres) <= 2 * tolerance).any():
        raise UserError(f"budgets {list(budgets)}: two of them are nearer than twice the "
                        f"tolerance, {tolerance:.2g} in ln C; give a smaller one, or drop one")
    away = np.abs(log_c[:, None] - centres)
    place = away.argmin(axis=1)
    # Budgets given to a few digits still meet runs that were given to more.
    return centres, np.where(away.min(axis=1) <= max(tolerance, 1e-6), place, -1)
