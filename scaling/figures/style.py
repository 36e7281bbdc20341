"""How every figure looks, and how it is written: PNG, SVG, and the numbers that it draws."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
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

from scaling.files import write_atomically
from scaling.laws.show import short

P = ParamSpec("P")

INK, MUTED, GRID = "#1b1f24", "#6b7280", "#e4e7ec"
ACCENT = "#c2410c"  # the held-out run: vermilion, told apart from viridis by every kind of eye

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
    """A figure, and the numbers in it: one row for each point or line vertex."""

    figure: Figure
    data: pd.DataFrame


def in_style(make: Callable[P, Drawing]) -> Callable[P, Drawing]:
    """Run a function that draws under the house style, and leave nobody else's style changed."""

    @functools.wraps(make)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Drawing:
        with matplotlib.rc_context(_STYLE):
            return make(*args, **kwargs)

    return styled


def canvas(
    width: float, height: float, columns: int = 1, *, share_y: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of this many inches with panels side by side."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, columns, squeeze=False, sharey=share_y)[0])


def write(drawing: Drawing, stem: Path) -> list[Path]:
    """Write STEM.png, STEM.svg and STEM.csv; the same drawing gives the same bytes."""
    written = []
    with matplotlib.rc_context(_STYLE):
        # Both pictures share one layout, which is the slow part.
        drawing.figure.draw_without_rendering()
        drawing.figure.set_layout_engine("none")
        for kind, content in (("png", _png(drawing.figure)), ("svg", _svg(drawing.figure))):
            written.append(stem.with_suffix(f".{kind}"))
            write_atomically(written[-1], content)
    written.append(stem.with_suffix(".csv"))
    write_atomically(written[-1], drawing.data.to_csv(index=False, float_format="%.8g"))
    return written


def _png(figure: Figure) -> bytes:
    """A PNG of 256 colours: a third of the bytes, and no difference to be seen."""
    raw, small = io.BytesIO(), io.BytesIO()
    figure.savefig(raw, format="png", metadata={"Software": None})
    Image.open(raw).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
        small, format="png", optimize=True
    )
    return small.getvalue()


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def size_colours(sizes: Sequence[float]) -> dict[float, Any]:
    """A colour for each size: viridis from dark (small) to green (large), by rank."""
    ordered = sorted(set(sizes))
    places = np.linspace(0.05, 0.82, len(ordered)) if len(ordered) > 1 else np.array([0.3])
    return {size: colormaps["viridis"](place)
            for size, place in zip(ordered, places, strict=True)}


def some(sizes: Iterable[float], most: int = 8) -> list[float]:
    """The sizes that get a label: all, or `most` of them evenly by rank."""
    ordered = sorted(set(sizes))
    places = np.linspace(0, len(ordered) - 1, min(most, len(ordered))).round().astype(int)
    return [ordered[place] for place in places]


def scientific(value: float, digits: int = 2) -> str:
    """Mathtext: 3.1 x 10^8, or the plain number where that is shorter."""
    if not math.isfinite(value) or value == 0:
        return r"\infty" if value else "0"
    if 1e-2 <= abs(value) < 1e4:
        return f"{value:.{digits + 1}g}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return rf"{mantissa}\times10^{{{int(exponent)}}}"


def loss_axis(axes: Axes, losses: Sequence[float], room: float = 1.03) -> None:
    """A logarithmic y axis for losses, written as plain numbers.

    Args:
        axes: the panel.
        losses: what must be seen.
        room: how far above the largest loss the axis goes.
    """
    axes.set_yscale("log")
    low, high = float(np.min(losses)) * 0.975, float(np.max(losses)) * room
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(FixedLocator(nice_ticks(low, high)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(FixedLocator([]))


def count_axis(axis: Axis, low: float, high: float) -> None:
    """A logarithmic axis of parameters or tokens: 12k, 3M, with 1, 2 and 5 where there is room."""
    decades = math.log10(high / low)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.2 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axis.set_minor_formatter(NullFormatter())


def nice_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers between two others: as many as wanted, about."""
    raw = (high - low) / wanted
    unit = 10 ** math.floor(math.log10(raw))
    step = min((m * unit for m in (1, 2, 2.5, 5, 10)), key=lambda s: abs(s - raw))
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(k * step, 10) for k in range(first, last + 1)]


def spread_labels(
    axes: Axes, x: float, labels: Sequence[tuple[float, str, Any]], gap: float = 0.055
) -> None:
    """Texts to the right of a panel, each by its y as near as no overlap allows.

    Args:
        axes: their panel, with its limits set.
        x: where they stand, in axes' fractions.
        labels: y in data's units, text, colour.
        gap: least distance between two, in axes' fractions.
    """
    to_axes = axes.transData + axes.transAxes.inverted()
    left = axes.get_xlim()[0]
    wanted = sorted((float(to_axes.transform((left, y))[1]), text, colour)
                    for y, text, colour in labels)
    heights = [y for y, _, _ in wanted]
    for _ in range(200):
        moved = False
        for i in range(len(heights) - 1):
            short_of = gap - (heights[i + 1] - heights[i])
            if short_of > 1e-6:
                heights[i] -= short_of / 2
                heights[i + 1] += short_of / 2
                moved = True
        if not moved:
            break
    for height, (_, text, colour) in zip(heights, wanted, strict=True):
        axes.text(x, height, text, color=colour, transform=axes.transAxes, va="center",
                  ha="left", fontsize=8, clip_on=False)
