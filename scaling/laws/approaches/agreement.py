"""A law's optimal sizes compared with the minima of the isoFLOP profiles of the same runs."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtri

from scaling.errors import UserError
from scaling.laws.allocation.allocate import allocate, can_allocate
from scaling.laws.allocation.budgets import AllocationBudget
from scaling.laws.approaches.frontier import Frontier
from scaling.laws.arguments import checked
from scaling.laws.conventions.recount import monotone_interpolation
from scaling.laws.forms.variables import six_nd
from scaling.laws.law import LEVEL, Interval, Law
from scaling.laws.table import RunsTable

_SAME = 1e-3  # relative difference of C and 6 N D below which they are one convention


@checked
def disagreement(law: Law, frontier: Frontier, table: RunsTable) -> str | None:
    """A sentence about the budgets at which N* of a law and of approach 2 differ by more than both
    of their 90% intervals.

    Args:
        law: a law of N and D, fitted to the runs.
        frontier: the optima of approach 2 of the same runs.
        table: the runs, from which FLOPs per token are interpolated if C is not 6 N D.

    Returns:
        None if the two agree, or cannot be compared: they count other parameters, the law does not
        divide compute, or the standard errors of the optima are unknown.
    """
    optima = frontier.optima.kept
    if frontier.name == "approach-1" or law.convention.get("n") != frontier.convention["n"]:
        return None
    c = table.flops.get(str(frontier.convention["c"]), table.c)
    flops_per_token = None
    try:
        if np.abs(c / six_nd(table.n, table.d) - 1).max() > _SAME:
            flops_per_token = monotone_interpolation(table.n, c / table.d, "N", "FLOPs per token")
        budgets = [AllocationBudget(c=float(each), flops_per_token=flops_per_token)
                   for each in optima.c]
    except UserError:  # FLOPs per token are no function of N, or a budget is below one token
        return None
    if not all(can_allocate(law, budget) for budget in budgets):
        return None
    apart: list[tuple[float, str]] = []
    for budget, n, se in zip(budgets, optima.n.tolist(), optima.n_se.tolist(), strict=True):
        best = allocate(law, budget)
        if best.n is None or not math.isfinite(se):
            continue
        reach = math.exp(float(ndtri((1 + LEVEL) / 2)) * se)
        low, high = best.n_interval or (best.n, best.n)
        gap = max(math.log(n / reach / high), math.log(low / (n * reach)))
        if gap > 0:
            apart.append((gap, f"at {budget.c:.3g} FLOP N* is {_shown(best.n, best.n_interval)} "
                               f"under the law and {_shown(n, (n / reach, n * reach))} at the "
                               "minimum of the losses"))
    if not apart:
        return None
    most = "most " if len(apart) > 1 else ""
    return (f"{law.name} and {frontier.name} disagree beyond both 90% intervals at {len(apart)} of "
            f"{len(budgets)} budgets, {most}{max(apart)[1]}")


def _shown(value: float, ends: Interval | None) -> str:
    return f"{value:.3g}" + (f" ({ends[0]:.3g} to {ends[1]:.3g})" if ends else "")
