"""Measured outcomes against a variable of a law, with the fitted law and its band."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba_array
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.forms.form import Form
from scaling.laws.forms.variables import six_nd
from scaling.laws.law import LEVEL, Law
from scaling.laws.plots.axes import (
    check_converged,
    fitted_runs_label,
    is_logarithmic,
    outcome_axis,
    outcome_label,
    symbol,
    value_label,
    variable_axis,
    variable_label,
)
from scaling.laws.plots.style import (
    ACCENT,
    INK,
    MUTED,
    labelled_sizes,
    legend,
    set_titles,
    size_colours,
)
from scaling.laws.table import RunsTable

Array = NDArray[np.float64]

LEVELS = 5
"""Most lines of a law of several variables."""

_POINTS = 80   # of a line
_SAME = 0.01   # largest relative difference from a held value
_FAINT = 0.25  # opacity of runs at other values than the held ones


def draw_law(
    axes: Axes, law: Law, table: RunsTable, *, x: str | None = None
) -> pd.DataFrame:
    """Measured outcomes as points, and the law as lines with its 90% bands: one line for a law of
    one variable, otherwise one for each of a few values of a second one, further variables being
    held at a median run's value.

    Args:
        axes: the panel.
        law: the law.
        table: its runs.
        x: the variable of the x axis; by default D in a law of N and D, otherwise the first one.
            In a law of N and D it may be c, which is then 6 N D.

    Returns:
        The points and the vertices of the lines.

    Raises:
        UserError: the law has no such variable.
        DataError: the fit did not converge.
    """
    check_converged(law)
    x, by = _choose_variables(law.form, x)
    along = "d" if x == "c" and by == "n" else x  # the variable that changes along a line
    held = held_values(law.form, table, {x, by, along})
    rows = law.form.fitted_rows(table)
    runs = table.take(rows)
    other = table.take(np.setdiff1d(np.arange(table.loss.size), rows))
    heldout = [run for run in table.heldout if run.loss is not None]
    colour_of = size_colours(list(runs.values[by])) if by else {}
    levels: list[float] | list[None] = (
        [None] if by is None else labelled_sizes(runs.values[by], LEVELS))

    drawn = []
    for series, some in (("other", other), ("run", runs)):
        fitted = series == "run"
        colours = to_rgba_array([
            colour_of[value] if by and fitted else INK if fitted else MUTED
            for value in some.values[by or along]]).reshape(-1, 4)
        colours[:, 3] = np.where(at_values(some, held), 1.0, _FAINT) if fitted else 0.5
        at = _along(x, by, some.values)
        axes.scatter(at, some.loss, c=colours, s=24 if fitted else 10, zorder=3,
                     edgecolors="white", linewidths=0.5)
        drawn.append(_rows(series, some.run_id, {**some.values, x: at}, some.loss))
    for run in heldout:
        values = {**run.values, x: _along(x, by, run.values)}
        loss = np.array([run.loss], dtype=float)
        axes.plot(values[x], loss, "D", ms=6, color=ACCENT, mec="white", mew=0.8, zorder=5)
        drawn.append(_rows("heldout", [run.run_id], values, loss))

    ends = np.concatenate([table.values[along], *(run.values[along] for run in table.heldout)])
    low, high = float(ends.min()), float(ends.max())
    line = (np.geomspace if is_logarithmic(ends) else np.linspace)(low, high, _POINTS)
    for level in levels:
        values = {along: line, **{name: np.full_like(line, value) for name, value in held.items()}}
        if by is not None and level is not None:
            values[by] = np.full_like(line, level)
        if "n" in values and "d" in values:
            values["c"] = six_nd(values["n"], values["d"])
        drawn.append(_line(axes, law, values, x, INK if level is None else colour_of[level]))

    every = pd.concat(drawn, ignore_index=True)
    outcomes = every[["outcome", "low", "high"]].to_numpy(dtype=float)
    positions = every[x].to_numpy(dtype=float)
    variable_axis(axes, x, float(positions.min()), float(positions.max()))
    outcome_axis(axes, law.form, outcomes[np.isfinite(outcomes)])
    six = x == "c" and by == "n"
    axes.set_xlabel("compute C = 6 N D (FLOP)" if six else variable_label(x, table))
    below = [f"fitted to {fitted_runs_label(law.form, table)}"]
    if held:
        below += ["lines at " + ", ".join(value_label(name, value) for name, value in held.items())
                  + " (of a median run); runs at other values are faint"]
    set_titles(axes, f"{law.name}: {outcome_label(law.form).split(' (')[0]} against {symbol(x)}",
               "\n".join(below))
    lines = {level: colour_of[level] for level in levels if level is not None}
    legend(axes, _handles(law, by, lines, bool(other.loss.size), bool(heldout)),
           "" if by is None else variable_label(by, table))
    return every


def held_values(form: Form, table: RunsTable, free: set[str | None]) -> dict[str, float]:
    """The values that a law's further variables are held at: for each that of a median run, among
    those that the form is fitted to. C follows from N and D."""
    rows = form.fitted_rows(table)
    names = [name for name in form.variables if name not in free
             and not (name == "c" and {"n", "d"} <= {*form.variables})]
    return {name: float(np.sort(table.values[name][rows])[(len(rows) - 1) // 2])
            for name in names}


def at_values(
    table: RunsTable, held: Mapping[str, float | Array]
) -> NDArray[np.bool_]:
    """Whether each run has these values, to a percent."""
    same = np.ones(table.loss.size, dtype=bool)
    for name, value in held.items():
        if name in table.values:
            same &= np.abs(table.values[name] - value) <= _SAME * np.abs(value)
    return same


def _choose_variables(form: Form, x: str | None) -> tuple[str, str | None]:
    """The variable of the x axis, and the one whose values are drawn as lines."""
    joint = {"n", "d"} <= {*form.variables}
    allowed = dict.fromkeys((*form.variables, *(("c",) if joint else ())))
    if x is None:
        x = "d" if joint else form.variables[0]
    if x not in allowed:
        raise UserError(f"x={x!r:.40}: {form.name} has no such variable; one of "
                        f"{', '.join(allowed)} is expected")
    if joint and x in ("c", "d"):
        return x, "n"
    return x, next((name for name in form.variables if name != x), None)


def _along(x: str, by: str | None, values: Mapping[str, Array]) -> Array:
    """Positions on the x axis; C is 6 N D where the lines are those of N."""
    return six_nd(values["n"], values["d"]) if x == "c" and by == "n" else values[x]


def _line(
    axes: Axes, law: Law, values: Mapping[str, Array], x: str, colour: object
) -> pd.DataFrame:
    inputs = {name: values[name] for name in law.form.variables}
    outcome = law.loss(inputs)
    axes.plot(values[x], outcome, color=colour, lw=1.3, zorder=2)
    band = law.loss_band(inputs)
    if band is not None:
        axes.fill_between(values[x], *band, color=colour, alpha=0.18, lw=0, zorder=1)
    return _rows("law", [""] * len(outcome), values, outcome, band)


def _rows(
    series: str, run: object, values: Mapping[str, Array], outcome: Array,
    band: tuple[Array, Array] | None = None,
) -> pd.DataFrame:
    low, high = band if band is not None else (np.full(len(outcome), np.nan),) * 2
    return pd.DataFrame({"series": series, "run_id": run, **values, "outcome": outcome,
                         "low": low, "high": high})


def _handles(
    law: Law, by: str | None, lines: Mapping[float, Any], other: bool, heldout: bool
) -> list[Artist]:
    def point(label: str, **style: Any) -> Artist:
        return Line2D([], [], ls="", **({"marker": "o", "mec": "white"} | style), label=label)

    handles: list[Artist] = [Line2D([], [], color=each, lw=1.6, label=value_label(by or "", level))
                             for level, each in lines.items()]
    handles.append(Line2D([], [], color=INK, lw=1.3, label="law"))
    if len(law.samples):
        handles.append(Patch(color=INK, alpha=0.18, lw=0, label=f"its {LEVEL:.0%} band"))
    handles.append(point("run", color=INK, ms=5))
    if other:
        handles.append(point("not fitted", color=MUTED, ms=3.5, alpha=0.5))
    if heldout:
        handles.append(point("held-out run", color=ACCENT, ms=6, marker="D"))
    return handles
