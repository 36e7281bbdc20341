"""The style of every figure, and writing it as PNG, SVG and the CSV of its data."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from scaling.laws.show import short
from scaling.outputs import Output, csv_output, csv_text

P = ParamSpec("P")

INK, MUTED, GRID = "#1b1f24", "#6b7280", "#e4e7ec"
ACCENT = "#c2410c"  # held-out runs: vermilion, distinguishable from viridis with colour blindness

_STYLE: Any = {
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


@dataclass(frozen=True)
class Drawing:
    """A figure and its data, one row per point or line vertex."""

    figure: Figure
    data: pd.DataFrame


def in_style(make: Callable[P, Drawing]) -> Callable[P, Drawing]:
    """Decorator: draw with the style of this package, without changing the global style."""

    @functools.wraps(make)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Drawing:
        with matplotlib.rc_context(_STYLE):
            return make(*args, **kwargs)

    return styled


def canvas(
    width: float, height: float, columns: int = 1, *, share_y: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure with `columns` panels side by side; width and height in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, columns, squeeze=False, sharey=share_y)[0])


def write(drawing: Drawing, stem: Path) -> list[Path]:
    """Write STEM.png, STEM.svg and STEM.csv, reproducible byte for byte.

    Returns:
        The paths of the three files.

    Raises:
        UserError: one of the files exists and was not written by this package, or is a table with
            other columns.
    """
    png, svg = (Output(stem.with_suffix(suffix), _WRITER, partial(_has, mark))
                for suffix, mark in ((".png", _PNG_MARK), (".svg", _SVG_MARK)))
    table = csv_output(stem.with_suffix(".csv"), _WRITER, map(str, drawing.data.columns))
    outputs = (png, svg, table)
    for output in outputs:
        output.check()
    with matplotlib.rc_context(_STYLE):
        # Both formats share one layout, which is the slow part.
        drawing.figure.draw_without_rendering()
        drawing.figure.set_layout_engine("none")
        png.write(_png(drawing.figure))
        svg.write(_svg(drawing.figure))
    table.write(csv_text(drawing.data, float_format="%.8g"))
    return [output.path for output in outputs]


_WRITER = "scaling plot"
_PNG_MARK, _SVG_MARK = b"Software\0scaling", b"<dc:source>scaling</dc:source>"
"""Metadata that identifies files of this package: PNG text (https://www.w3.org/TR/png/#11keywords)
and Dublin Core."""


def _has(mark: bytes, found: bytes) -> bool:
    return mark in found


def _png(figure: Figure) -> bytes:
    """A PNG of 256 colours: a third of the size, without a visible difference."""
    raw, small = io.BytesIO(), io.BytesIO()
    figure.savefig(raw, format="png", metadata={"Software": None})
    info = PngInfo()
    info.add_text("Software", "scaling")
    Image.open(raw).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
        small, format="png", optimize=True, pnginfo=info
    )
    return small.getvalue()


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Source": "scaling"})
    return buffer.getvalue()


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
    """Make the y axis logarithmic, for losses, with plain numbers as tick labels.

    Args:
        axes: the panel.
        losses: losses that the axis must contain.
        headroom: upper limit of the axis, as a multiple of the largest loss.
    """
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
