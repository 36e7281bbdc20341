"""Figure of predicted against measured losses, for fitted and held-out runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from scaling.laws.law import LEVEL, Law
from scaling.laws.plots.axes import n_label, outcome_label
from scaling.laws.plots.style import (
    ACCENT,
    INK,
    MUTED,
    Drawing,
    Size,
    canvas,
    in_style,
    labelled_sizes,
    size_colours,
)
from scaling.laws.show import short
from scaling.laws.table import RunsTable


@in_style
def predicted_against_measured(
    table: RunsTable, law: Law, beside: Law | None = None, *, inches: Size = (9.2, 3.7)
) -> Drawing:
    """Left panel: measured against predicted loss. Right panel: residuals in percent against
    compute.

    Held-out runs are drawn with their 90% prediction interval, which is drawn alone if the run is
    not yet measured. The residuals of the other law are drawn as rings.

    Args:
        table: the runs, with N counted as the law counts it.
        law: any fitted law.
        beside: another law of the same runs that counts N as it does, or None.
        inches: width and height of the figure.
    """
    figure, (left, right) = canvas(*inches, columns=2)
    colours = size_colours(list(table.n))
    rows = law.form.fitted_rows(table)
    fitted = table.take(rows)
    predicted = law.loss(fitted.values)
    percent = 100 * (fitted.loss / predicted - 1)
    labelled = labelled_sizes(fitted.n)
    for size, colour in colours.items():
        at = fitted.n == size
        if at.any():
            left.plot(predicted[at], fitted.loss[at], "o", ms=4.5, color=colour, mec="white",
                      mew=0.6, zorder=3, label=short(size) if size in labelled else None)
            right.plot(fitted.c[at], percent[at], "o", ms=4.5, color=colour, mec="white", mew=0.6,
                       zorder=3)
    drawn = [pd.DataFrame({
        "series": "fitted", "run_id": fitted.run_id, "c": fitted.c, "n": fitted.n, "d": fitted.d,
        "predicted": predicted, "measured": fitted.loss, "residual_percent": percent,
    })]
    ends = [*predicted, *fitted.loss]
    for run in table.heldout:
        expected = float(law.loss(run.values)[0])
        low, high = law.prediction_interval(run.values) or (expected, expected)
        left.plot([expected, expected], [low, high], color=ACCENT, lw=2, alpha=0.5, zorder=2,
                  solid_capstyle="butt")
        right.plot([run.c, run.c], [100 * (low / expected - 1), 100 * (high / expected - 1)],
                   color=ACCENT, lw=2, alpha=0.5, zorder=2, solid_capstyle="butt")
        residual = np.nan
        if run.loss is not None:
            residual = 100 * (run.loss / expected - 1)
            left.plot(expected, run.loss, "D", ms=6, color=ACCENT, mec="white", mew=0.8, zorder=5)
            right.plot(run.c, residual, "D", ms=6, color=ACCENT, mec="white", mew=0.8, zorder=5)
        ends += [expected, low, high, *([run.loss] if run.loss is not None else [])]
        drawn.append(pd.DataFrame({
            "series": ["heldout"], "run_id": [run.run_id], "c": [run.c], "n": [run.n],
            "d": [run.d], "predicted": [expected],
            "measured": [np.nan if run.loss is None else run.loss],
            "residual_percent": [residual], "low": [low], "high": [high],
        }))
    if beside is not None:
        drawn += _residuals_beside(right, table, beside)
    margin = 0.03 * (max(ends) - min(ends))
    ends = [min(ends) - margin, max(ends) + margin]
    left.plot(ends, ends, color=MUTED, lw=0.9, zorder=1)
    left.set_xlim(*ends)
    left.set_ylim(*ends)
    left.set_xlabel(f"predicted {outcome_label(law.form)}")
    left.set_ylabel(f"measured {outcome_label(law.form)}")
    left.set_title(f"Predicted and measured: {law.name}")
    right.set_xscale("log")
    right.axhline(0, color=MUTED, lw=0.9, zorder=1)
    right.set_xlabel("training compute C (FLOP)")
    right.set_ylabel("measured / predicted - 1 (%)")
    right.set_title("Residuals")
    y_max = max(abs(value) for value in right.get_ylim())
    right.set_ylim(-y_max, y_max)

    if table.heldout:
        left.plot([], [], color=ACCENT, lw=2, alpha=0.5, marker="D", ms=6, mec="white",
                  label=f"held out, {LEVEL:.0%}\nprediction interval")
    legend = left.legend(loc="upper left", title=f"N ({n_label(table)})",
                         handlelength=1.2, labelspacing=0.35)
    legend.set_alignment("left")
    legend.get_title().set(color=INK, fontsize=8)
    return Drawing(figure, pd.concat(drawn, ignore_index=True))


def _residuals_beside(axes: Axes, table: RunsTable, law: Law) -> list[pd.DataFrame]:
    """Draw the residuals of another law as rings, and return their data."""
    fitted = table.take(law.form.fitted_rows(table))
    percent = 100 * (fitted.loss / law.loss(fitted.values) - 1)
    style: dict[str, Any] = {"mfc": "none", "ls": "none", "mew": 0.9, "zorder": 2}
    axes.plot(fitted.c, percent, marker="o", ms=5.5, mec=MUTED, **style, label=law.name)
    rows = [pd.DataFrame({"series": f"fitted {law.name}", "run_id": fitted.run_id, "c": fitted.c,
                          "n": fitted.n, "d": fitted.d, "measured": fitted.loss,
                          "residual_percent": percent})]
    for run in table.heldout:
        if run.loss is not None:
            residual = 100 * (run.loss / float(law.loss(run.values)[0]) - 1)
            axes.plot(run.c, residual, marker="D", ms=6.5, mec=ACCENT, **style)
            rows.append(pd.DataFrame({
                "series": [f"heldout {law.name}"], "run_id": [run.run_id], "c": [run.c],
                "n": [run.n], "d": [run.d], "measured": [run.loss],
                "residual_percent": [residual]}))
    axes.legend(loc="best")
    return rows
