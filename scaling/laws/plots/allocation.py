"""Optimal parameters and tokens against compute, with their intervals, beside published laws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import ArrayLike, NDArray

from scaling.errors import DataError, UserError
from scaling.laws.allocation.allocate import Allocation, allocate, reference_laws
from scaling.laws.allocation.budgets import AllocationBudget, divides_compute
from scaling.laws.law import LEVEL, Law
from scaling.laws.plots.axes import check_converged, n_label, symbol
from scaling.laws.plots.style import GRID, INK, count_axis, legend, plain, set_titles
from scaling.laws.published import Published
from scaling.laws.show import number, span

Array = NDArray[np.float64]

PANELS = ("n", "d")

_BEYOND = 100.0  # of the largest compute of the runs, up to which is drawn by default
_POINTS, _POINTS_SOLVED = 25, 9  # budgets, with a closed form of the optimum and without
_LINES = (("#0072b2", "--"), ("#e69f00", "-."), ("#009e73", ":"), ("#cc79a7", (0, (6, 1.5))),
          ("#56b4e9", (0, (3, 1, 1, 1, 1, 1))))
"""Colours (Okabe and Ito 2008, distinguishable with colour blindness) and dashes of the published
laws."""


def draw_allocation(
    panels: Sequence[Axes], law: Law, compute: ArrayLike | None = None,
    given: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """N*(C) in the first panel and D*(C) in the second, with 90% bands, at C = 6 N D.

    The published laws are those of `allocate`'s references: Kaplan, Hoffmann and Besiroglu, each
    with N as it counts it.

    Args:
        panels: two panels.
        law: a law that divides compute between N and D.
        compute: FLOPs; the lines end at the smallest and the largest. By default from the smallest
            compute of the runs to a hundred times the largest.
        given: values of the law's further variables.

    Returns:
        N and D of every law at every budget.

    Raises:
        UserError: the law does not divide compute, or a budget is impossible.
        DataError: the fit did not converge, or has no optimum at any of the budgets.
    """
    check_converged(law)
    if not divides_compute(law.form):
        allocate(law, 1e20)  # raises the error about such a law
    known = law.convention.get("range", {}).get("c")
    budgets = _budgets(law, compute, known)
    own = [allocate(law, AllocationBudget(c=float(c), given=dict(given or {}))) for c in budgets]
    if all(each.n is None for each in own):
        raise DataError(f"{law.name}: has no optimum at these budgets; {own[-1].warnings[-1]}"
                        if own[-1].warnings else f"{law.name}: has no optimum at these budgets")
    drawn = [_rows(law.name, budgets, own)]
    references = reference_laws()
    drawn += [_rows(entry.title, budgets, [allocate(entry, float(c)) for c in budgets])
              for entry in references]
    for axes, name in zip(panels, PANELS, strict=True):
        for rows, (colour, dashes) in zip(drawn[1:], _LINES, strict=False):
            axes.plot(rows["compute"], rows[name], color=colour, ls=dashes, lw=1.3, zorder=2)
        rows = drawn[0]
        axes.plot(rows["compute"], rows[name], color=INK, lw=1.9, zorder=4)
        if np.isfinite(rows[f"{name}_low"]).any():
            axes.fill_between(rows["compute"], rows[f"{name}_low"], rows[f"{name}_high"],
                              color=INK, alpha=0.18, lw=0, zorder=3)
        if known and known[1] > budgets[0]:
            axes.axvspan(max(known[0], budgets[0]), min(known[1], budgets[-1]), color=GRID,
                         alpha=0.6, lw=0, zorder=0)
        _finish(axes, name, law, budgets)
    legend(panels[-1], _handles(law, references, bool(known)))
    return pd.concat(drawn, ignore_index=True)


def _budgets(law: Law, compute: ArrayLike | None, known: Sequence[float] | None) -> Array:
    if compute is None:
        if not known:
            raise UserError(f"{law.name}: the compute of its runs is not known; give compute, such "
                            "as [1e18, 1e24]")
        ends = float(known[0]), float(known[1]) * _BEYOND
    else:
        given = np.ravel(np.asarray(compute, dtype=float))
        if len(np.unique(given)) < 2:
            raise UserError(f"compute={compute!r:.40}: two budgets or more are expected, such as "
                            "[1e18, 1e24]")
        ends = float(given.min()), float(given.max())
    for c in ends:
        AllocationBudget(c=c)  # raises the error about an impossible budget
    closed = law.form.allocation_exponent(law.point) is not None
    return np.geomspace(*ends, _POINTS if closed else _POINTS_SOLVED)


def _finish(axes: Axes, name: str, law: Law, budgets: Array) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(budgets[0], budgets[-1])
    count_axis(axes.yaxis, *axes.get_ylim())
    axes.set_xlabel("training compute C = 6 N D (FLOP)")
    a = law.exponents.get({"n": "a", "d": "b"}[name])
    ends = law.intervals.get({"n": "a", "d": "b"}[name])
    interval = f" (90%: {span(ends, 3)})" if ends else ""
    power = "" if a is None else f"{symbol(name)}* ~ C^{number(a, 3)}{interval}"
    if name == "n":
        axes.set_ylabel("optimal parameters N*, as each law counts N")
        set_titles(axes, "Optimal parameters", power)
    else:
        axes.set_ylabel("optimal training tokens D*")
        set_titles(axes, "Optimal tokens", power)


def _handles(law: Law, references: Sequence[Published], known: bool) -> list[Artist]:
    handles: list[Artist] = [Line2D([], [], color=INK, lw=1.9,
                                    label=f"{law.name} (N {n_label(law)})")]
    if len(law.samples):
        handles.append(Patch(color=INK, alpha=0.18, lw=0, label=f"its {LEVEL:.0%} band"))
    if known:
        handles.append(Patch(color=GRID, alpha=0.6, lw=0, label="compute of the runs"))
    for entry, (colour, dashes) in zip(references, _LINES, strict=False):
        handles.append(Line2D([], [], color=colour, ls=dashes, lw=1.3, label=_described(entry)))
    return handles


def _described(entry: Published) -> str:
    """Title of a published law, and what its N counts."""
    convention = entry.convention
    other = "" if convention["c"] == "6 N D" else f", C is {convention['c']}"
    return plain(f"{entry.title} (N {convention['n']}{other})")


def _rows(title: str, budgets: Array, found: Sequence[Allocation]) -> pd.DataFrame:
    rows = []
    for c, each in zip(budgets, found, strict=True):
        row: dict[str, object] = {"law": title, "N counts": each.counting, "compute": float(c)}
        for name in PANELS:
            low, high = getattr(each, f"{name}_interval") or (np.nan, np.nan)
            value = getattr(each, name)
            row |= {name: np.nan if value is None else value, f"{name}_low": low,
                    f"{name}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)
