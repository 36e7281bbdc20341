"""Figures of a law and its runs: in axes of the caller or of pyplot, or as a `Drawing` for a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from scaling.errors import UserError
from scaling.laws.arguments import a_type
from scaling.laws.law import Law
from scaling.laws.plots.allocation import PANELS, draw_allocation
from scaling.laws.plots.axes import check_converged
from scaling.laws.plots.fitted_law import draw_law
from scaling.laws.plots.isoflop import draw_isoflop
from scaling.laws.plots.parameters import draw_pairs, draw_profile, varying_parameters
from scaling.laws.plots.prediction import predicted_against_measured
from scaling.laws.plots.residuals import draw_residuals, residual_variables
from scaling.laws.plots.style import (
    GRID,
    INK,
    MUTED,
    STYLE,
    Drawing,
    Size,
    canvas,
    retitle,
)
from scaling.laws.plots.surface import loss_surface
from scaling.laws.table import RunsTable

Draw = Callable[[Sequence[Axes]], pd.DataFrame]
"""Draws into panels, and returns the numbers that are drawn."""

FIGURES = {
    "law": "measured outcomes against a variable, and the law with its band",
    "isoflop": "loss against N at fixed compute, and the optima",
    "allocation": "N* and D* against compute, beside published laws",
    "residuals": "residuals in percent against N, D and C",
    "pairs": "pairs of parameters over the resamples",
    "surface": "contours of the loss over compute and N",
    "prediction": "predicted against measured losses",
}
"""Figures of a law, by name, with what they show."""

ONE_PANEL: Size = (6.6, 4.2)


def panels_of(name: str, law: Law, table: RunsTable | None) -> tuple[int, int, Size]:
    """Rows and columns of panels of a figure, and its width and height in inches."""
    if name == "allocation":
        return 1, len(PANELS), (10.2, 3.9)
    if name == "residuals" and table is not None:
        count = len(residual_variables(law, table))
        return 1, count, (0.8 + 3.1 * count, 3.2)
    if name == "pairs":
        count = len(varying_parameters(law))
        return count, count, (1.2 + 1.75 * count, 1.0 + 1.55 * count)
    return 1, 1, ONE_PANEL


def draw_with_pyplot(
    draw: Draw, ax: Any = None, rows: int = 1, columns: int = 1, size: Size = ONE_PANEL,
) -> Any:
    """Draw into axes of the caller, or else into a new figure of pyplot, which notebooks show.

    The caller's axes keep the caller's style; a new figure has this package's, and the resolution
    that is set for all figures. No setting of matplotlib is changed.

    Returns:
        The axes; an array of them, [rows, columns], for several panels.
    """
    if ax is not None:
        own = _one_axes(ax)
        draw([own])
        return own
    import matplotlib.pyplot as plt

    # Outside of the style: the first figure loads the backend, whose settings have to last. That of
    # notebooks becomes interactive, and shows no further figures otherwise.
    figure = plt.figure(figsize=size, layout="constrained", facecolor=STYLE["figure.facecolor"])
    with matplotlib.rc_context(STYLE):
        axes = figure.subplots(rows, columns, squeeze=False)
        for each in axes.flat:
            # Ticks are made when they are first shown, by which time the style has ended.
            each.tick_params(which="both", color=MUTED, labelcolor=INK, labelsize=8,
                             grid_color=GRID, grid_linewidth=STYLE["grid.linewidth"])
            each.tick_params(which="minor", size=STYLE["xtick.minor.size"])
        draw(list(axes.flat))
    return axes[0, 0] if axes.size == 1 else axes[0] if rows == 1 else axes


def _one_axes(ax: Any) -> Axes:
    """The axes of the caller, also from an array that has no others.

    Raises:
        UserError: it is something else.
    """
    one = ax.flat[0] if isinstance(ax, np.ndarray) and ax.size == 1 else ax
    if isinstance(one, Axes):
        return one
    what = f"an array of {ax.size}; give one of them" if isinstance(ax, np.ndarray) else \
        f"{a_type(ax)}; matplotlib.pyplot.subplots() returns a figure and its axes"
    raise UserError(f"ax: one matplotlib axes is expected, not {what}")


def plot_law(
    name: str, law: Law, table: RunsTable | None, ax: Any, options: Mapping[str, Any]
) -> Any:
    """A figure of a law as `draw_with_pyplot` draws it; `options` are those of its function."""
    return draw_with_pyplot(partial(_DRAW[name], law, table, **options), ax,
                            *panels_of(name, law, table))


def law_figure(
    name: str, law: Law, table: RunsTable, *, size: Size | None = None, title: str | None = None,
    **options: Any,
) -> Drawing:
    """A figure of a law and its runs, for a file.

    Args:
        name: one of `FIGURES`, or profile.
        law: the law.
        table: its runs.
        size: width and height in inches; by default what suits the figure.
        title: instead of the figure's own title.
        options: those of the figure's function.

    Raises:
        UserError: the law has no such figure.
        DataError: the fit did not converge.
    """
    if name in ("surface", "prediction"):
        drawing = _whole_figure(name, law, table, size)
    else:
        rows, columns, own_size = panels_of(name, law, table)
        drawing = drawing_of(partial(_DRAW[name], law, table, **options), rows, columns,
                             size or own_size)
    if title is not None:
        retitle(drawing, title)
    return drawing


def drawing_of(
    draw: Draw, rows: int = 1, columns: int = 1, size: Size = ONE_PANEL
) -> Drawing:
    """Draw into a new figure that no window shows."""
    with matplotlib.rc_context(STYLE):
        figure, panels = canvas(*size, columns=columns, rows=rows)
        return Drawing(figure, draw(panels))


def _whole_figure(name: str, law: Law, table: RunsTable, size: Size | None) -> Drawing:
    check_converged(law)
    known = all(np.isfinite(table.values[v]).all() for v in ("n", "d", "c"))
    if not law.form.outcome.startswith("loss") or not known:
        raise UserError(f"{law.name}: this figure needs a law of the loss, and N, D and C of every "
                        "run; name their columns")
    options: dict[str, Any] = {} if size is None else {"inches": size}
    if name == "prediction":
        return predicted_against_measured(table, law, **options)
    if (not {*law.form.variables} <= {"n", "d", "c"} or law.exponents.get("a") is None
            or law.form.optimum(law.point, 1e20) is None):
        raise UserError(f"{law.name}: has no optimal N in closed form that the runs determine, "
                        "which this figure needs; draw isoflop or allocation")
    return loss_surface(table, law, **options)


_DRAW: dict[str, Callable[..., pd.DataFrame]] = {
    "law": lambda law, table, panels, **more: draw_law(panels[0], law, table, **more),
    "isoflop": lambda law, table, panels, **more: draw_isoflop(panels[0], law, table, **more),
    "allocation": lambda law, _, panels, **more: draw_allocation(panels, law, **more),
    "residuals": lambda law, table, panels: draw_residuals(panels, law, table),
    "pairs": lambda law, _, panels: draw_pairs(panels, law),
    "profile": lambda law, _, panels, profile: draw_profile(panels[0], profile, law),
}
