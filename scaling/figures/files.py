"""Figures as files: PNG, SVG or PDF and the CSV of their data, reproducible byte for byte."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from scaling.laws.plots.style import STYLE, Drawing
from scaling.outputs import Output, csv_output, csv_text

FORMATS = ("png", "svg")
"""Formats that are written by default."""

_WRITER = "scaling plot"


def write(
    drawing: Drawing, stem: Path, formats: Sequence[str] = FORMATS, inputs: Iterable[Path] = ()
) -> list[Path]:
    """Write STEM.csv, and STEM.png and so on for each format, reproducible byte for byte.

    Args:
        drawing: the figure and its data.
        stem: path of the files without their suffix.
        formats: of png, svg and pdf, each once.
        inputs: files that the command reads, which are never overwritten.

    Returns:
        The paths of the files, the CSV last.

    Raises:
        UserError: one of the files is an input, or exists and was not written by this package, or
            is a table with other columns.
    """
    inputs = tuple(inputs)
    figures = [Output(stem.with_name(f"{stem.name}.{name}"), _WRITER, partial(_has, _MARKS[name]),
                      inputs) for name in formats]
    table = csv_output(stem.with_name(f"{stem.name}.csv"), _WRITER,
                       map(str, drawing.data.columns), inputs)
    for output in (*figures, table):
        output.check()
    with matplotlib.rc_context(STYLE):
        # All formats share one layout, which is the slow part.
        drawing.figure.draw_without_rendering()
        drawing.figure.set_layout_engine("none")
        for name, output in zip(formats, figures, strict=True):
            output.write(_CONTENTS[name](drawing.figure))
    table.write(csv_text(drawing.data, float_format="%.8g"))
    return [output.path for output in (*figures, table)]


_MARKS: dict[str, bytes] = {
    "png": b"Software\0scaling", "svg": b"<dc:source>scaling</dc:source>",
    "pdf": b"/Creator (scaling)",
}
"""Metadata that identifies files of this package: PNG text (https://www.w3.org/TR/png/#11keywords),
Dublin Core, and the information dictionary of a PDF (ISO 32000-1, 14.3.3)."""


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


def _pdf(figure: Figure) -> bytes:
    """A PDF without dates, and without the version of the library that wrote it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="pdf", metadata={
        "Creator": "scaling", "Producer": None, "CreationDate": None})
    return buffer.getvalue()


_CONTENTS: dict[str, Callable[[Figure], bytes]] = {"png": _png, "svg": _svg, "pdf": _pdf}
