"""Runs grouped by training compute into isoFLOP profiles, whose minima approach 2 finds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from scaling.errors import DataError, UserError, option
from scaling.laws.fitting.preflight import check_positive
from scaling.laws.table import RunsTable

Array = NDArray[np.float64]

TOLERANCE = 0.02
"""Largest difference of ln C between runs of one budget. If the loss scales as C^-0.05, it changes
the loss by a thousandth."""
_ENOUGH = 0.8  # share of the runs in budgets with enough sizes, from which C is not doubted


@dataclass(frozen=True)
class IsoFlopProfile:
    """The runs of one compute budget, sorted by size.

    Attributes:
        c: the budget, in FLOP.
        log_n: ln N of each run, ascending, [R].
        log_d: ln D of each run, [R].
        loss: nats per token, [R].
    """

    c: float
    log_n: Array
    log_d: Array
    loss: Array

    @property
    def sizes(self) -> Array:
        """The distinct ln N, ascending."""
        return np.unique(self.log_n)

    def tokens_at(self, log_n: float) -> float:
        """D at a given ln N by linear regression of the runs' ln D on their ln N: C/(6N) if
        C = 6 N D, otherwise by the convention of the table."""
        if not math.isfinite(log_n):
            return math.nan
        middle = self.log_n.mean()
        slope, level = np.polyfit(self.log_n - middle, self.log_d, 1)
        with np.errstate(over="ignore"):
            return float(np.exp(level + slope * (log_n - middle)))

    def near_minimum(self, factor: float) -> IsoFlopProfile:
        """The profile with only the runs whose N is within a factor of that of the lowest loss."""
        distance = np.abs(self.log_n - self.log_n[self.loss.argmin()])
        rows = np.flatnonzero(distance <= math.log(factor) + 1e-9)
        return IsoFlopProfile(self.c, self.log_n[rows], self.log_d[rows], self.loss[rows])

    def mean_log_loss(self) -> tuple[Array, Array]:
        """Mean log-loss, and number of runs, of every distinct size, [K] each."""
        sizes, size_index, counts = np.unique(self.log_n, return_inverse=True, return_counts=True)
        sums = np.zeros(len(sizes))
        np.add.at(sums, size_index, np.log(self.loss))
        return sums / counts, counts.astype(float)


def group_by_budget(
    table: RunsTable, budgets: Sequence[float] | None = None, tolerance: float = TOLERANCE
) -> tuple[list[IsoFlopProfile], tuple[str, ...]]:
    """Group runs by budget.

    Args:
        table: the runs, with N, D, C and the loss of each.
        budgets: the budgets in FLOP; a run belongs to the nearest if its ln C is within
            `tolerance` of it. None detects them: sorted by C, a run whose ln C is more than
            `tolerance` above the previous one begins a new budget. The C of a detected budget is
            the geometric mean of its runs.
        tolerance: in ln C.

    Returns:
        The profiles, smallest budget first, and warnings about runs outside every budget.

    Raises:
        DataError: the table has no runs, or the budgets cannot be distinguished.
        UserError: a quantity is missing, or the budgets or the tolerance are invalid.
    """
    if not table.loss.size:
        raise DataError("approach 2 needs runs, but the table has no finished run")
    check_positive(table, "approach 2 compares its logarithms")
    for name in ("n", "d", "c"):
        if np.isnan(getattr(table, name)).any():
            column = option(f"{name}=COLUMN", f"--{name} COLUMN")
            raise UserError(f"approach 2 needs N, D and C of every run, but {name.upper()} is "
                            f"missing; give its column with {column}, or two of the three")
    if not 0 <= tolerance < math.inf:
        named = option(f"tolerance={tolerance:g}", f"--tolerance {tolerance:g}")
        raise UserError(f"{named}: a non-negative number is expected, in ln C, such as "
                        f"{TOLERANCE}")
    log_c = np.log(table.c)
    if budgets is None:
        centres, budget_of = _detect_budgets(log_c, tolerance)
    else:
        centres, budget_of = _assign_budgets(log_c, budgets, tolerance)
    warnings: tuple[str, ...] = ()
    if outside := int((budget_of < 0).sum()):
        warnings = (f"{outside} of {len(budget_of)} runs are further than {tolerance:.2g} in ln C "
                    "from every given budget, and are left out",)
    profiles = []
    for i, centre in enumerate(centres):
        rows = np.flatnonzero(budget_of == i)
        if not rows.size:
            warnings += (f"no run has the given budget of {math.exp(centre):.4g} FLOP",)
            continue
        rows = rows[np.lexsort((table.loss[rows], table.n[rows]))]
        profiles.append(IsoFlopProfile(float(np.exp(centre)), np.log(table.n[rows]),
                                       np.log(table.d[rows]), table.loss[rows]))
    return profiles, warnings


def in_shared_budgets(
    table: RunsTable, n_sizes: int, budgets: Sequence[float] | None = None,
    tolerance: float = TOLERANCE,
) -> tuple[RunsTable, tuple[str, ...]]:
    """The table with C in the convention in which its runs share budgets.

    The table's own C is kept if most runs are in budgets with enough sizes. Otherwise C is 6 N D
    with either N, or the column of FLOPs, that has the most such runs.

    Args:
        table: the runs.
        n_sizes: distinct sizes that a budget needs.
        budgets: the budgets in FLOP; None detects them.
        tolerance: in ln C.

    Returns:
        The table, and a warning if C is not its own.

    Raises:
        UserError: as `group_by_budget`.
    """
    def runs_in_budgets(c: Array) -> int:
        try:
            profiles, _ = group_by_budget(replace(table, c=c), budgets, tolerance)
        except DataError:
            return 0
        counts = [p.loss.size for p in profiles if p.sizes.size >= n_sizes]
        return sum(counts) if len(counts) > 1 else 0

    own = table.convention.get("c", "")
    most = runs_in_budgets(table.c)
    if most >= _ENOUGH * table.loss.size:
        return table, ()
    best = None
    for name, c in table.flops.items():
        if (count := runs_in_budgets(c)) > most:
            best, most = name, count
    if best is None:
        return table, ()
    return replace(table, c=table.flops[best], convention=table.convention | {"c": best}), (
        f"C is {best}, in which the runs share budgets, and not {own}; so is the compute of every "
        "allocation by these optima",)


def group_values(log_x: Array, tolerance: float) -> NDArray[np.intp]:
    """The group of each value, [R], counted from 0 for the smallest: sorted, a value more than
    `tolerance` above the previous one begins a new group."""
    order = np.argsort(log_x, kind="stable")
    # The lower bound is for rounding errors.
    is_first = np.diff(log_x[order], prepend=-np.inf) > max(tolerance, 1e-9)
    group_of = np.empty(len(log_x), dtype=np.intp)
    group_of[order] = np.cumsum(is_first) - 1
    return group_of


def _detect_budgets(log_c: Array, tolerance: float) -> tuple[Array, NDArray[np.intp]]:
    """ln C of the budgets, and the index of each run's budget."""
    budget_of = group_values(log_c, tolerance)
    count = int(budget_of.max()) + 1
    for i in range(count):
        members = log_c[budget_of == i]
        if np.ptp(members) > 2 * max(tolerance, 1e-9):
            low, high = np.exp([members.min(), members.max()])
            raise DataError(
                f"budgets cannot be distinguished: runs from {low:.4g} to {high:.4g} FLOP follow "
                f"each other in steps of less than {tolerance:.2g} in ln C; give the budgets with "
                f"{option('budgets=', '--budgets')}, or a smaller "
                f"{option('tolerance=', '--tolerance')}, or fit the law chinchilla, which needs no "
                "budgets")
    return np.array([log_c[budget_of == i].mean() for i in range(count)]), budget_of


def _assign_budgets(
    log_c: Array, budgets: Sequence[float], tolerance: float
) -> tuple[Array, NDArray[np.intp]]:
    """ln C of the given budgets, and the index of each run's budget, -1 for none."""
    values = np.sort(np.array(budgets, dtype=float))
    shown = ",".join(f"{value:.6g}" for value in budgets)
    named = option(f"budgets=[{shown}]", f"--budgets {shown}")
    if not values.size or not (np.isfinite(values) & (values > 0)).all():
        raise UserError(f"{named}: positive numbers of FLOPs are expected, such as 1e18")
    centres = np.log(values)
    if (np.diff(centres) <= 2 * tolerance).any():
        raise UserError(f"{named}: two of them are closer than twice the tolerance, "
                        f"{tolerance:.2g} in ln C; give a smaller "
                        f"{option('tolerance=', '--tolerance')}, or drop one of them")
    distance = np.abs(log_c[:, None] - centres)
    nearest = distance.argmin(axis=1)
    # The lower bound is for budgets given with fewer digits than the runs' C.
    return centres, np.where(distance.min(axis=1) <= max(tolerance, 1e-6), nearest, -1)
