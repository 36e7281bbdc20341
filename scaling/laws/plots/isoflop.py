"""IsoFLOP valleys of a law: loss against N at fixed compute, with the optimum of each budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from scaling.errors import DataError, UserError
from scaling.laws.allocation.allocate import allocate, with_active_experts
from scaling.laws.allocation.budgets import AllocationBudget
from scaling.laws.approaches.isoflop import TOLERANCE, IsoFlopProfile, group_by_budget
from scaling.laws.law import Law
from scaling.laws.plots.axes import (
    check_converged,
    outcome_axis,
    value_label,
    variable_axis,
    variable_label,
)
from scaling.laws.plots.fitted_law import at_values, held_values
from scaling.laws.plots.style import (
    INK,
    labelled_sizes,
    legend,
    scientific,
    set_titles,
    size_colours,
)
from scaling.laws.table import RunsTable

Array = NDArray[np.float64]

BUDGETS = 8
"""Most budgets that are drawn by default."""

_FEW = 5            # budgets if the runs have none in common
_SIZES = 3          # a valley has at least three sizes
_MARGIN = 1.4       # of N beyond the runs and the optimum
_ALONE = 8.0        # of N around the optimum of a budget without runs
_WIDER = (0.1, 0.2)  # in ln C, for runs that are not of exact budgets
_SHARE = 0.5         # of the runs that must be of exact budgets, or a wider range is tried
_POINTS = 100


def draw_isoflop(
    axes: Axes, law: Law, table: RunsTable, budgets: Sequence[float] | None = None,
    given: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """The law's loss against N at each budget, the runs of about that compute, and the optimum that
    `allocate` finds.

    Args:
        axes: the panel.
        law: a law of N and D.
        table: its runs; their compute is 6 N D, as that of the budgets.
        budgets: FLOPs; by default those that at least three sizes were trained at, within 2% of C
            if half of the runs are, otherwise within 10% or 20%; without such, five that span the
            runs.
        given: values of the law's further variables; by default those of a median run. A law of
            repeated data is drawn for unique tokens. Only runs with these values are drawn.

    Returns:
        The points, the vertices of the curves, and the optima.

    Raises:
        UserError: the law does not divide compute between N and D, or a budget is impossible.
        DataError: the fit did not converge.
    """
    check_converged(law)
    held = {**held_values(law.form, table, {"n", "d", "c", "u"}), **(given or {})}
    if not {"n", "d"} <= {*law.form.variables}:
        allocate(law, 1e20)  # raises the error about a law that does not divide compute
        raise UserError(f"{law.name}: valleys of loss against N need a law of N and D, such as "
                        "chinchilla")
    runs = _comparable(law, table, held)
    budgets, tolerance = _budgets_of(runs if runs.loss.size else table, budgets)
    plans = [with_active_experts(law, AllocationBudget(c=c, given=held))[0] for c in budgets]
    optima = [allocate(law, AllocationBudget(c=c, given=held)) for c in budgets]
    profiles = {} if not runs.loss.size else {
        float(each.c): each for each in group_by_budget(runs, budgets, tolerance)[0]}
    colour_of = size_colours(budgets)
    drawn = []
    for plan, optimum in zip(plans, optima, strict=True):
        c = float(plan.c or 0.0)
        profile = next((each for key, each in profiles.items() if np.isclose(key, c)), None)
        if profile is not None:
            n, d = np.exp(profile.log_n), np.exp(profile.log_d)
            axes.plot(n, profile.loss, "o", ms=4.5, color=colour_of[c], mec="white", mew=0.5,
                      zorder=3)
            drawn.append(_rows("run", c, n, d, profile.loss))
        n = _sizes(profile, optimum.n, table)
        d = np.asarray(plan.training_tokens(n, c), dtype=float)
        n, d = n[d >= 1], d[d >= 1]
        loss = law.loss(plan.values(n, d))
        axes.plot(n, loss, color=colour_of[c], lw=1.3, zorder=2)
        drawn.append(_rows("law", c, n, d, loss))
    found = [each for each in optima if each.n is not None]
    columns = [np.array([getattr(each, name) for each in found], dtype=float)
               for name in ("c", "n", "d", "loss")]
    if found:
        axes.plot(columns[1], columns[3], "X--", color=INK, lw=0.9, ms=7, mec="white", mew=0.8,
                  zorder=4)
        drawn.append(_rows("optimum", *columns))
    every = pd.concat(drawn, ignore_index=True)
    said = (f"points: runs within {tolerance:.0%} of a budget" if profiles
            else "no runs are at these budgets")
    _finish(axes, law, table, every, held, colour_of, said)
    return every


def _finish(
    axes: Axes, law: Law, table: RunsTable, every: pd.DataFrame, held: Mapping[str, float],
    colour_of: Mapping[float, Any], said: str,
) -> None:
    sizes = every["n"].to_numpy(dtype=float)
    variable_axis(axes, "n", float(sizes.min()), float(sizes.max()))
    losses = every["loss"].to_numpy(dtype=float)
    outcome_axis(axes, law.form, losses[np.isfinite(losses)])
    axes.set_xlabel(variable_label("n", table))
    below = [said]
    if held:
        below += ["all at " + ", ".join(value_label(k, value) for k, value in held.items())]
    set_titles(axes, f"{law.name}: loss at fixed compute C = 6 N D", "\n".join(below))
    handles = [Line2D([], [], color=colour, lw=1.6, marker="o", ms=4.5,
                      mec="white", label=f"${scientific(c)}$") for c, colour in colour_of.items()]
    handles.append(Line2D([], [], color=INK, ls="--", lw=0.9, marker="X", ms=6.5, mec="white",
                          label="optimum N*"))
    legend(axes, handles, "compute C (FLOP)")


def _comparable(law: Law, table: RunsTable, held: Mapping[str, float]) -> RunsTable:
    """The runs with the held values of the further variables, and C = the budget's FLOPs."""
    plan = with_active_experts(law, AllocationBudget(c=1e20, given=dict(held)))[0]
    same = at_values(table, held)
    if "u" in law.form.variables:
        same &= at_values(table, {"u": table.d})
    c = np.asarray(plan.training_flops(table.n) * table.d, dtype=float)
    return replace(table, c=c).take(np.flatnonzero(same))


def _budgets_of(
    runs: RunsTable, given: Sequence[float] | None
) -> tuple[list[float], float]:
    """The budgets that are drawn, and how far from them runs may be, in ln C."""
    if given is not None:
        return sorted({*map(float, given)}), _WIDER[0]
    try:
        profiles, _ = group_by_budget(runs)
    except DataError:  # runs of any compute
        profiles = []
    valleys = [each for each in profiles if len(each.sizes) >= _SIZES]
    if sum(each.loss.size for each in valleys) >= _SHARE * runs.loss.size > 0:
        return labelled_sizes([each.c for each in valleys], BUDGETS), TOLERANCE
    for tolerance in _WIDER:
        dense = _dense_budgets(runs, tolerance)
        if len(dense) > 1:
            return dense, tolerance
    few = np.geomspace(runs.c.min(), runs.c.max(), _FEW)
    return sorted({float(f"{c:.2g}") for c in few}), _WIDER[0]


def _dense_budgets(runs: RunsTable, tolerance: float) -> list[float]:
    """Budgets that do not overlap with at least three sizes each, those of most runs first."""
    order = np.argsort(runs.c)
    log_c, n = np.log(runs.c[order]), runs.n[order]
    found: list[float] = []
    while len(found) < BUDGETS and log_c.size:
        first = np.searchsorted(log_c, log_c - tolerance)
        last = np.searchsorted(log_c, log_c + tolerance, side="right")
        best = int(np.argmax(last - first))
        rows = slice(first[best], last[best])
        if last[best] - first[best] < _SIZES:
            break
        if len(np.unique(n[rows])) >= _SIZES:
            found.append(float(np.exp(log_c[best])))
        left = np.abs(log_c - log_c[best]) > 2 * tolerance
        log_c, n = log_c[left], n[left]
    return sorted(found)


def _sizes(profile: IsoFlopProfile | None, optimum: float | None, table: RunsTable) -> Array:
    """N along a curve: over the runs of the budget and its optimum."""
    if profile is None and optimum is not None:
        return np.geomspace(max(1.0, optimum / _ALONE), optimum * _ALONE, _POINTS)
    ends = [*(table.n if profile is None else np.exp(profile.log_n)),
            *([] if optimum is None else [optimum])]
    return np.geomspace(max(1.0, min(ends) / _MARGIN), max(ends) * _MARGIN, _POINTS)


def _rows(series: str, c: object, n: Array, d: Array, loss: Array) -> pd.DataFrame:
    return pd.DataFrame({"series": series, "compute": c, "n": n, "d": d, "loss": loss})
