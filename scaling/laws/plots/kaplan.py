"""Kaplan's three panels: loss against compute, data and parameters, each with a power law."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from scaling.laws.law import LEVEL, Law
from scaling.laws.plots.axes import fitted_runs_label, variable_label
from scaling.laws.plots.style import (
    ACCENT,
    GRID,
    INK,
    MUTED,
    Drawing,
    Size,
    canvas,
    count_axis,
    in_style,
    loss_axis,
    scientific,
    set_titles,
    size_colours,
)
from scaling.laws.table import Array, RunsTable

_PANELS = (("c", "Compute"), ("d", "Data"), ("n", "Parameters"))


@in_style
def three_panels(
    table: RunsTable, laws: Mapping[str, Law], *, inches: Size = (9.6, 3.4)
) -> Drawing:
    """Loss against compute, data and parameters: all runs in grey, the fitted ones in the colour of
    their size, and the fitted law. Above each panel: which runs its law was fitted to, and the
    other variable of these.

    Args:
        table: the runs, with N counted as the laws count it.
        laws: laws by name; `kaplan-c`, `kaplan-d` and `kaplan-n` are drawn if present.
        inches: width and height of the figure.
    """
    figure, panels = canvas(*inches, columns=3, share_y=True)
    colours = size_colours(list(table.n))
    drawn: list[pd.DataFrame] = []
    heldout = [(run, run.loss) for run in table.heldout if run.loss is not None]
    losses = [*table.loss, *(loss for _, loss in heldout)]
    for axes, (variable, title) in zip(panels, _PANELS, strict=True):
        law = laws.get(f"kaplan-{variable}")
        axes.set_xscale("log")
        x = getattr(table, variable)
        axes.plot(x, table.loss, "o", ms=3.2, color=MUTED, alpha=0.35, mew=0, zorder=2)
        drawn.append(_rows("run", variable, x, table.loss, table.run_id))
        for run, loss in heldout:
            axes.plot(getattr(run, variable), loss, "D", ms=5.5, color=ACCENT, mec="white",
                      mew=0.8, zorder=6)
            drawn.append(_rows("heldout", variable, [getattr(run, variable)], [loss],
                               [run.run_id]))
        if law is not None:
            rows = law.form.fitted_rows(table)
            axes.scatter(x[rows], table.loss[rows], c=[colours[n] for n in table.n[rows]], s=26,
                         edgecolors="white", linewidths=0.6, zorder=4)
            drawn.append(_rows("envelope", variable, x[rows], table.loss[rows],
                               [table.run_id[row] for row in rows]))
            x_values = [*x, *(getattr(run, variable) for run, _ in heldout)]
            line = np.geomspace(min(x_values), max(x_values), 60)
            drawn.append(_law(axes, law, variable, line))
            losses += [*drawn[-1]["loss"]]
            _equation(axes, law, variable)
        if variable != "c":
            count_axis(axes.xaxis, *axes.get_xlim())
        axes.set_xlabel(variable_label(variable, table))
        set_titles(axes, title, "" if law is None else fitted_runs_label(law.form, table), 60)
    # The equation is in the upper right corner, above the decreasing laws and the runs.
    loss_axis(panels[0], losses, headroom=1.18)
    _legend(panels[0], bool(heldout), laws)
    panels[0].set_ylabel("held-out loss (nats per token)")
    return Drawing(figure, pd.concat(drawn, ignore_index=True))


def _law(axes: Axes, law: Law, variable: str, line: Array) -> pd.DataFrame:
    loss = law.loss({variable: line})
    axes.plot(line, loss, "--", color=INK, lw=1.2, zorder=5)
    rows = _rows("law", variable, line, loss, [""] * len(line))
    band = law.loss_band({variable: line})
    if band is not None:
        axes.fill_between(line, *band, color=GRID, zorder=1, lw=0)
        rows["low"], rows["high"] = band
    return rows


def _equation(axes: Axes, law: Law, variable: str) -> None:
    x = variable.upper()
    scale, exponent = (law.params[p] for p in law.form.parameters)
    text = rf"$L = ({x}_c/{x})^{{{exponent:.3f}}}$" + "\n"
    unit = law.form.units[law.form.parameters[0]]
    text += rf"${x}_c = {scientific(scale)}$ {unit}"
    spread = law.intervals.get(law.form.parameters[1])
    if spread:
        text += "\n" + rf"$\alpha_{x}$: {spread[0]:.3f} to {spread[1]:.3f}"
    elif law.intervals:
        text = "not determined by these runs"
    axes.text(0.98, 0.985, text, transform=axes.transAxes, ha="right", va="top", fontsize=8,
              linespacing=1.4)


def _legend(axes: Axes, heldout: bool, laws: Mapping[str, Law]) -> None:
    handles: list[Artist] = []
    if laws:
        handles += axes.plot([], [], "o", ms=5, color="#33638d", mec="white",
                             label="fitted runs (colour: N)")
    handles += axes.plot([], [], "o", ms=3.2, color=MUTED, alpha=0.35, mew=0, label="other runs")
    if heldout:
        handles += axes.plot([], [], "D", ms=5.5, color=ACCENT, mec="white", label="held-out run")
    if laws:
        handles += axes.plot([], [], "--", color=INK, lw=1.2, label="fitted power law")
    if any(len(law.samples) for law in laws.values()):
        handles.append(axes.fill_between([], [], color=GRID, lw=0, label=f"its {LEVEL:.0%} band"))
    axes.legend(handles=handles, loc="lower left", fontsize=7, labelspacing=0.3,
                handlelength=1.4)


def _rows(series: str, panel: str, x: object, loss: object, run: object) -> pd.DataFrame:
    return pd.DataFrame({"panel": panel, "series": series, "run_id": run, "x": x, "loss": loss})
