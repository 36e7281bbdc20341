"""Figure of the fitted loss over compute and parameters, with the efficient frontier."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import FuncFormatter, NullFormatter

from scaling.laws.forms.variables import FLOPS_PER_PARAMETER_TOKEN
from scaling.laws.law import LEVEL, Law
from scaling.laws.plots.axes import n_label
from scaling.laws.plots.style import (
    ACCENT,
    INK,
    Drawing,
    Size,
    canvas,
    count_axis,
    in_style,
    nice_ticks,
)
from scaling.laws.table import Array, RunsTable

_GRID = 120


@in_style
def loss_surface(
    table: RunsTable, law: Law, beside: Law | None = None, *, inches: Size = (6.6, 4.6)
) -> Drawing:
    """Contours of the law over (C, N) at C = 6 N D, the measured runs in the same colours, and
    N*(C) with its 90% bootstrap band, beside that of another law.

    Args:
        table: the runs, with N counted as the law counts it.
        law: a law of N and D that has an optimum.
        beside: another such law that counts N as it does, or None.
        inches: width and height of the figure.
    """
    figure, (axes,) = canvas(*inches)
    heldout = [run for run in table.heldout if run.loss is not None]
    all_c = [*table.c, *(run.c for run in table.heldout)]
    all_n = [*table.n, *(run.n for run in table.heldout)]
    c = np.geomspace(min(all_c) / 2, max(all_c) * 2, _GRID)
    n = np.geomspace(min(all_n) / 1.8, max(all_n) * 1.8, _GRID)
    c_grid, n_grid = np.meshgrid(c, n)
    d_grid = c_grid / (FLOPS_PER_PARAMETER_TOKEN * n_grid)
    loss = law.loss({"n": n_grid.ravel(), "d": d_grid.ravel(), "c": c_grid.ravel()}
                    ).reshape(c_grid.shape)

    measured = [*table.loss, *(run.loss for run in heldout if run.loss is not None)]
    low, high = min(measured) * 0.97, max(measured) * 1.04
    levels = nice_ticks(low, high, n_ticks=8)
    norm = Normalize(low, high)
    lines = axes.contour(c_grid, n_grid, loss, levels=levels, cmap="viridis", norm=norm,
                         linewidths=1.2, zorder=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.scatter(table.c, table.n, c=table.loss, cmap="viridis", norm=norm, s=30,
                 edgecolors=INK, linewidths=0.6, zorder=4)
    for run in heldout:
        axes.scatter([run.c], [run.n], c=np.array([run.loss], dtype=float), cmap="viridis",
                     norm=norm, s=48, marker="D", edgecolors=ACCENT, linewidths=1.6, zorder=5)
    drawn = [pd.DataFrame({"series": "run", "run_id": table.run_id, "c": table.c, "n": table.n,
                           "loss": table.loss})]
    drawn += [pd.DataFrame({"series": ["heldout"], "run_id": [run.run_id], "c": [run.c],
                            "n": [run.n], "loss": [run.loss]}) for run in heldout]
    drawn.append(_frontier(axes, law, c))
    if beside is not None and beside.exponents.get("a") is None:
        beside = None  # its optimum is not determined
    if beside is not None:
        other = np.array([_optimum(beside, beside.point, value)[0] for value in c])
        axes.plot(c, other, ":", color=INK, lw=1.6, zorder=3)
        drawn.append(pd.DataFrame({"series": f"frontier {beside.name}", "run_id": "", "c": c,
                                   "n": other}))
    axes.set_xlim(c[0], c[-1])
    axes.set_ylim(n[0], n[-1])
    # Contour labels are placed above all runs, where every contour is steep.
    height = float(np.sqrt(n[-1] * max(all_n)))
    row = int(np.argmin(np.abs(n - height)))
    crossings = [(float(np.interp(-level, -loss[row], np.log(c))), level) for level in lines.levels
                 if loss[row, -1] < level < loss[row, 0]]
    axes.clabel(lines, [level for _, level in crossings], fmt=lambda value: f"{value:g}",
                fontsize=7.5, manual=[(float(np.exp(x)), n[row]) for x, _ in crossings])
    count_axis(axes.yaxis, *axes.get_ylim())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("training compute C = 6 N D (FLOP)")
    axes.set_ylabel(f"parameters N ({n_label(table)})")
    axes.set_title("Fitted loss, and the efficient frontier")
    bar = figure.colorbar(ScalarMappable(norm, "viridis"), ax=axes, ticks=levels, pad=0.02,
                          aspect=30)
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    bar.set_label("loss (nats per token): lines fitted, points measured")
    bar.outline.set_visible(False)

    handles: list[Artist] = [axes.plot([], [], color=INK, lw=1.8, label="N*(C)")[0]]
    if len(law.samples):
        handles.append(axes.fill_between([], [], color=INK, alpha=0.25, lw=0,
                                         label=f"its {LEVEL:.0%} band"))
    if beside is not None:
        handles += axes.plot([], [], ":", color=INK, lw=1.6, label=f"N*(C) of {beside.name}")
    handles.append(axes.plot([], [], "o", ms=5, color="#33638d", mec=INK, mew=0.6, label="run")[0])
    if heldout:
        handles += axes.plot([], [], "D", ms=6, color="#35b779", mec=ACCENT, mew=1.4,
                             label="held-out run")
    axes.legend(handles=handles, loc="upper left", frameon=True, framealpha=0.85,
                edgecolor="none", facecolor="white")
    return Drawing(figure, pd.concat(drawn, ignore_index=True))


def _frontier(axes: Axes, law: Law, c: Array) -> pd.DataFrame:
    """Draw N*(C) and its band, and return their data."""
    rows = pd.DataFrame({"series": "frontier", "run_id": "", "c": c})
    rows["n"] = [_optimum(law, law.point, value)[0] for value in c]
    rows["loss"] = law.loss({"n": rows["n"].to_numpy(),
                             "d": c / (FLOPS_PER_PARAMETER_TOKEN * rows["n"].to_numpy()),
                             "c": c})
    band = law.band(lambda params: np.column_stack([_optimum(law, params, v) for v in c]))
    if band is not None:
        rows["n_low"], rows["n_high"] = band
        axes.fill_between(c, *band, color=INK, alpha=0.25, lw=0, zorder=2)
    axes.plot(c, rows["n"], color=INK, lw=1.8, zorder=3)
    return rows


def _optimum(law: Law, params: Array, c: float) -> Array:
    sizes = law.form.optimum(params, c)
    assert sizes is not None, f"{law.name} has no optimum"
    return sizes
