"""The style of every figure: colours, axes, ticks and labels, and figures to draw into."""

from __future__ import annotations

import functools
import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

from scaling.laws.show import short

P = ParamSpec("P")

INK, MUTED, GRID = "#1b1f24", "#6b7280", "#e4e7ec"
ACCENT = "#c2410c"  # held-out runs: vermilion, distinguishable from viridis with colour blindness

STYLE: Any = {
    "font.family": "DejaVu Sans", "font.size": 9, "mathtext.fontset": "dejavusans",
    "axes.titlesize": 9.5, "axes.titlelocation": "left", "axes.titleweight": "bold",
    "axes.labelsize": 9, "axes.edgecolor": MUTED, "axes.labelcolor": INK, "axes.linewidth": 0.8,
    "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.grid.which": "major", "grid.color": GRID, "grid.linewidth": 0.7,
    "axes.axisbelow": True, "text.color": INK,
    "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "xtick.labelsize": 8, "ytick.labelsize": 8, "xtick.minor.size": 1.5, "ytick.minor.size": 1.5,
    "legend.frameon": False, "legend.fontsize": 8, "legend.handlelength": 1.8,
    "savefig.dpi": 150, "figure.dpi": 150, "figure.facecolor": "white",
    "svg.fonttype": "path", "svg.hashsalt": "scaling", "path.simplify_threshold": 0.3,
}


Size = tuple[float, float]
"""Width and height of a figure, in inches."""


@dataclass(frozen=True)
class Drawing:
    """A figure and its data, one row per point or line vertex."""

    figure: Figure
    data: pd.DataFrame


def in_style(make: Callable[P, Drawing]) -> Callable[P, Drawing]:
    """Decorator: draw with the style of this package, without changing the global style."""

    @functools.wraps(make)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Drawing:
        with matplotlib.rc_context(STYLE):
            return make(*args, **kwargs)

    return styled


def canvas(
    width: float, height: float, columns: int = 1, rows: int = 1, *, share_y: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure with rows x columns panels, and the panels row by row; width and height in
    inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False, sharey=share_y).flat)


def retitle(drawing: Drawing, title: str) -> None:
    """Replace the title of a figure of one panel; a figure of several gets one above them."""
    titled = [axes for axes in drawing.figure.axes if axes.get_title(loc="left")]
    with matplotlib.rc_context(STYLE):
        if len(titled) == 1:
            _, *below = titled[0].get_title(loc="left").split("\n")
            titled[0].set_title("\n".join([plain(title), *below]), loc="left")
        else:
            drawing.figure.suptitle(plain(title), x=0.01, ha="left", weight="bold",
                                    fontsize=STYLE["axes.titlesize"] + 1)


def set_titles(axes: Axes, title: str, below: str = "", width: int = 90) -> None:
    """The title of a panel, and below it, in small letters, what holds for the panel.

    Args:
        axes: the panel.
        title: the title.
        below: lines below it, wrapped at `width` characters.
    """
    lines = [each for line in below.split("\n") for each in textwrap.wrap(line, width)]
    axes.set_title("\n".join([title, *("" for _ in lines)]), loc="left", fontsize=9.5,
                   weight="bold", color=INK)
    small = axes.set_title("\n".join(lines), loc="center", fontsize=7, weight="normal",
                           color=MUTED)
    small.set(x=0.0, ha="left")


def plain(text: str) -> str:
    """A user's text, such as a column's name, in which a dollar sign begins no formula and every
    other character than printable ones is a space."""
    printable = "".join(each if each.isprintable() else " " for each in text)
    return printable.replace("$", r"\$")


def legend(axes: Axes, handles: Sequence[Any], title: str = "") -> None:
    """A legend to the right of the panel if the figure's layout makes room for it, otherwise at the
    emptiest place in the panel."""
    beside = isinstance(axes.figure.get_layout_engine(), ConstrainedLayoutEngine)
    place: Any = ({"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "borderaxespad": 0.0}
                  if beside else {"loc": "best", "framealpha": 0.85})
    drawn = axes.legend(handles=handles, title=title or None, fontsize=7.5, labelspacing=0.35,
                        handlelength=1.6, **place)
    drawn.set_alignment("left")
    drawn.get_title().set(color=INK, fontsize=7.5)


def size_colours(sizes: Sequence[float]) -> dict[float, Any]:
    """A colour for each size: viridis from dark (small) to green (large), by rank."""
    ordered = sorted(set(sizes))
    positions = np.linspace(0.05, 0.82, len(ordered)) if len(ordered) > 1 else np.array([0.3])
    return {size: colormaps["viridis"](position)
            for size, position in zip(ordered, positions, strict=True)}


def labelled_sizes(sizes: Iterable[float], most: int = 8) -> list[float]:
    """The sizes that are labelled: all, or `most` of them evenly spaced by rank."""
    ordered = sorted(set(sizes))
    indices = np.linspace(0, len(ordered) - 1, min(most, len(ordered))).round().astype(int)
    return [ordered[index] for index in indices]


def scientific(value: float, digits: int = 2) -> str:
    """Mathtext such as 3.1 x 10^8, or the plain number from 0.01 to below 10,000."""
    if not math.isfinite(value) or value == 0:
        return r"\infty" if value else "0"
    if 1e-2 <= abs(value) < 1e4:
        return f"{float(f'{value:.{digits + 1}g}'):g}"  # 1230, not 1.23e+03
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return rf"{mantissa}\times10^{{{int(exponent)}}}"


def loss_axis(axes: Axes, losses: Sequence[float], headroom: float = 1.03) -> None:
    """Make the y axis logarithmic, for losses, with plain numbers as tick labels; if one is zero or
    below, as another outcome than a loss may be, leave the axis linear.

    Args:
        axes: the panel.
        losses: losses that the axis must contain.
        headroom: upper limit of a logarithmic axis, as a multiple of the largest loss.
    """
    if not np.min(losses) > 0:
        return
    axes.set_yscale("log")
    low, high = float(np.min(losses)) * 0.975, float(np.max(losses)) * headroom
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(FixedLocator(nice_ticks(low, high)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(FixedLocator([]))


def count_axis(axis: Axis, low: float, high: float) -> None:
    """Format a logarithmic axis of parameters or tokens: labels such as 12k and 3M, at 1, 2 and 5
    if the axis is short."""
    decades = math.log10(high / low)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.2 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axis.set_minor_formatter(NullFormatter())


def nice_ticks(low: float, high: float, n_ticks: int = 5) -> list[float]:
    """About `n_ticks` round numbers between two limits."""
    raw = (high - low) / n_ticks
    unit = 10 ** math.floor(math.log10(raw))
    step = min((m * unit for m in (1, 2, 2.5, 5, 10)), key=lambda s: abs(s - raw))
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(k * step, 10) for k in range(first, last + 1)]


def spread_labels(
    axes: Axes, x: float, labels: Sequence[tuple[float, str, Any]], gap: float = 0.055
) -> None:
    """Add labels to the right of a panel, each as near to its y as possible without overlaps.

    Args:
        axes: the panel, with its limits set.
        x: position of the labels, as a fraction of the axes.
        labels: y in data units, text, and colour of each.
        gap: smallest distance between two labels, as a fraction of the axes.
    """
    to_axes = axes.transData + axes.transAxes.inverted()
    left = axes.get_xlim()[0]
    by_height = sorted((float(to_axes.transform((left, y))[1]), text, colour)
                       for y, text, colour in labels)
    heights = [y for y, _, _ in by_height]
    for _ in range(200):
        moved = False
        for i in range(len(heights) - 1):
            overlap = gap - (heights[i + 1] - heights[i])
            if overlap > 1e-6:
                heights[i] -= overlap / 2
                heights[i + 1] += overlap / 2
                moved = True
        if not moved:
            break
    for height, (_, text, colour) in zip(heights, by_height, strict=True):
        axes.text(x, height, text, color=colour, transform=axes.transAxes, va="center",
                  ha="left", fontsize=8, clip_on=False)
