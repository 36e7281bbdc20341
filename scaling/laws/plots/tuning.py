"""Loss above its minimum against learning rate or batch size, at each N and D."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from scaling.errors import UserError
from scaling.laws.approaches.tuning import WORDS, TuningGrid, TuningMinimum
from scaling.laws.forms.variables import VARIABLES
from scaling.laws.plots.axes import symbol, variable_axis
from scaling.laws.plots.style import INK, MUTED, labelled_sizes, legend, set_titles, size_colours
from scaling.laws.show import short

_POINTS = 60
_STYLES = ("-", (0, (5, 1.5)), (0, (2, 1.2)), (0, (1, 1.6)), (0, (6, 1.5, 1, 1.5)))
"""Lines of the token counts."""


def draw_tuning(
    axes: Axes, grids: Sequence[TuningGrid], minima: Sequence[TuningMinimum], variable: str
) -> pd.DataFrame:
    """The runs of each N and D that were fitted, the quadratic along the variable at the best value
    of the other one, and its minimum. Losses are drawn above that of the minimum, or above the
    lowest one of a grid without a minimum.

    Args:
        axes: the panel.
        grids: the runs of each N and D.
        minima: of the same grids.
        variable: lr or batch.

    Returns:
        The points, the vertices of the curves, and the minima.

    Raises:
        UserError: the variable was not tuned.
    """
    if variable not in grids[0].variables:
        raise UserError(f"variable={variable!r}: one of {', '.join(grids[0].variables)} is "
                        "expected, whose values differ in the runs")
    place = grids[0].variables.index(variable)
    colour_of = size_colours([grid.n for grid in grids])
    lengths = sorted({grid.d for grid in grids})
    style_of = {d: _STYLES[i % len(_STYLES)] for i, d in enumerate(lengths)}
    drawn = []

    def add(series: str, grid: TuningGrid, log_x: Any, loss: Any) -> tuple[Any, Any]:
        drawn.append(pd.DataFrame({"series": series, "n": grid.n, "d": grid.d,
                                   variable: np.exp(np.atleast_1d(np.asarray(log_x, float))),
                                   "loss": np.atleast_1d(np.asarray(loss, float))}))
        return drawn[-1][variable], drawn[-1]["loss"]

    for grid, minimum in zip(grids, minima, strict=True):
        floor = float(grid.loss.min()) if minimum.problem else minimum.loss
        colour = colour_of[grid.n]
        log_x = grid.log_x[minimum.near, place]
        x, loss = add("run", grid, log_x, grid.loss[minimum.near])
        axes.plot(x, loss - floor, "o", ms=3.5, color=colour, mec="white", mew=0.4, zorder=3)
        if minimum.problem:
            continue
        along = np.linspace(log_x.min(), log_x.max(), _POINTS)
        best = float(minimum.log_x[place])
        curvature = minimum.curvature[place, place]
        x, loss = add("quadratic", grid, along, floor + curvature / 2 * (along - best) ** 2)
        axes.plot(x, loss - floor, color=colour, lw=1.1, ls=style_of[grid.d], zorder=2)
        x, loss = add("minimum", grid, best, floor)
        axes.plot(x, loss - floor, "X", ms=6.5, color=colour, mec=INK, mew=0.6, zorder=4)
    every = pd.concat(drawn, ignore_index=True)
    variable_axis(axes, variable, float(every[variable].min()), float(every[variable].max()))
    if variable == "lr":
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel(f"{VARIABLES[variable].unit} {symbol(variable)}")
    axes.set_ylabel("loss above its minimum (nats per token)")
    set_titles(axes, f"Loss above its minimum against {WORDS[variable]}",
               "curves: quadratics at the best value of the other variable; crosses: minima"
               if len(grids[0].variables) > 1 else "curves: parabolas; crosses: minima")
    legend(axes, [
        *(Line2D([], [], color=colour_of[n], lw=1.6, marker="o", ms=4, mec="white",
                 label=f"N = {short(n)}") for n in labelled_sizes(colour_of)),
        *(Line2D([], [], color=MUTED, lw=1.1, ls=style_of[d], label=f"D = {short(d)}")
          for d in labelled_sizes(lengths, len(_STYLES)))])
    return every
