"""Residuals of a law in percent against N, D and C."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from scaling.laws.evidence.residuals import residuals
from scaling.laws.law import Law
from scaling.laws.plots.axes import is_logarithmic, symbol, variable_axis, variable_label
from scaling.laws.plots.style import INK, MUTED, set_titles
from scaling.laws.show import number
from scaling.laws.table import RunsTable


def residual_variables(law: Law, table: RunsTable) -> list[str]:
    """The variables that have a panel: those of N, D, C and of the law whose values differ between
    the fitted runs; the law's first variable if none does."""
    runs = table.take(law.form.fitted_rows(table))
    names = dict.fromkeys(("n", "d", "c", *law.form.variables))
    return [name for name in names if np.ptp(runs.values[name]) > 0] or [law.form.variables[0]]


def draw_residuals(panels: Sequence[Axes], law: Law, table: RunsTable) -> pd.DataFrame:
    """100 (measured / predicted - 1) of every fitted run, one panel for each of
    `residual_variables`, with the rank correlation that `evidence.residuals` finds.

    Returns:
        The residuals and the variables of every run.

    Raises:
        UserError: the table lacks one of the law's variables.
    """
    found = residuals(law, table)
    runs = table.take(law.form.fitted_rows(table))
    percent = np.array([100 * (row.loss / row.predicted - 1) for row in found.rows])
    trends = {trend.variable: trend for trend in found.trends}
    names = residual_variables(law, table)
    most = 1.15 * float(np.abs(percent).max()) or 1.0
    for axes, name in zip(panels, names, strict=True):
        values = runs.values[name]
        axes.axhline(0, color=MUTED, lw=0.9, zorder=1)
        axes.plot(values, percent, "o", ms=4.5, color=INK, mec="white", mew=0.5, zorder=3)
        low, high = float(values.min()), float(values.max())
        variable_axis(axes, name, low, high)
        if not is_logarithmic(values):
            axes.margins(x=0.08)
        axes.set_ylim(-most, most)
        axes.set_xlabel(variable_label(name, table))
        trend = trends.get(name)
        below = (f"{len(percent)} runs" if trend is None else
                 f"rank correlation {trend.rho:+.2f}, p = {number(trend.p_value, 2)}")
        set_titles(axes, f"{law.name}: residuals along {symbol(name)}", below)
    panels[0].set_ylabel("measured / predicted - 1 (%)")
    columns = {name: runs.values[name] for name in names}
    return pd.DataFrame({"run_id": runs.run_id, **columns, "measured": runs.loss,
                         "predicted": [row.predicted for row in found.rows],
                         "residual_percent": percent})
