"""Terminal output of all commands: tables, JSON, messages and progress.

Results go to standard output, progress and messages to standard error, so that a pipe gets the
results alone. If standard error is not a terminal, progress is a plain line every few seconds.
"""

from __future__ import annotations

import json
import logging
import textwrap
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TextColumn,
)
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from scaling.outputs import finite

_PIPE_WIDTH = 400  # columns: lines are not wrapped in a pipe


def printable(text: str) -> str:
    """Text that cannot control a terminal: control characters, escape sequences, bidirectional
    marks and lone surrogates are escaped as in Python.

    Names, logs and error messages may come from untrusted files.
    """
    if text.isprintable():  # the common case, and a fast one
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


class _Console(Console):
    """A console that passes all text through `printable`, except rich's own control codes."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def _console(*, stderr: bool = False) -> Console:
    console = _Console(stderr=stderr, highlight=False, emoji=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    return console


out = _console()
err = _console(stderr=True)

PLAIN_LINE_SECONDS = 10.0
"""Interval between progress lines without a terminal."""

_MIN_BAR_WIDTH = 60  # columns of a terminal
_YEAR_SECONDS = 365.25 * 86_400

_RICH_ROWS = 500
"""Most rows of a table that rich lays out: it takes a millisecond a row."""


def notice(text: str) -> None:
    """Print a message on standard error."""
    err.print(text, markup=False)


def warn(text: str) -> None:
    """Print a warning on standard error."""
    err.print(f"warning: {text}", style="yellow", markup=False)


class _Warnings(logging.Handler):
    """Prints log records of this package and of libraries, which may quote untrusted text."""

    def emit(self, record: logging.LogRecord) -> None:
        err.print(self.format(record), markup=False)


def filter_warnings() -> None:
    """Print warnings without a handler of their own through `printable`, like all other text."""
    handler = _Warnings(logging.WARNING)
    handler.setFormatter(logging.Formatter("warning: %(message)s"))
    logging.lastResort = handler
    if not logging.root.handlers:  # else a library may add one with its own format
        logging.root.addHandler(handler)


def print_json(content: Any) -> None:
    """Print JSON on standard output; NaN and infinity become null."""
    out.print(json.dumps(finite(content), indent=2, allow_nan=False), markup=False)


def print_text(text: str) -> None:
    """Print text on standard output without rich's layout."""
    if not out.quiet:
        out.file.write(printable(text))


@contextmanager
def tables_hidden(hidden: bool) -> Iterator[None]:
    """Print nothing on standard output in the body if `hidden`: with `--json` a command then prints
    its JSON alone."""
    before = out.quiet
    out.quiet = before or hidden
    try:
        yield
    finally:
        out.quiet = before


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str] = ()
) -> None:
    """Print a table on standard output: the first column left-aligned, the others right-aligned.

    If the terminal is narrower than the table, each row is printed as several lines, one for each
    column.

    Args:
        title: the first line; omitted if empty.
        columns: column names.
        rows: cells, one sequence for each row.
        left: names of further left-aligned columns, which hold words.
    """
    widths = [max(map(cell_len, map(printable, column)))
              for column in zip(columns, *rows, strict=True)]
    too_wide = out.is_terminal and sum(widths) + 2 * (len(widths) - 1) > out.width
    if len(rows) > _RICH_ROWS or too_wide:
        print_lines(fitting_lines(title, columns, rows, left))
        return
    # As Text: rich would parse brackets in a name as markup.
    shown = Text(title) if title else None
    table = Table(title=shown, title_justify="left", box=None, pad_edge=False)
    for place, name in enumerate(columns):
        is_left = place == 0 or name in left
        table.add_column(Text(name), justify="left" if is_left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    out.print(table)


def print_lines(lines: Iterable[str]) -> None:
    """Print lines on standard output without rich's layout, which takes a millisecond a line."""
    print_text("".join(f"{line}\n" for line in lines))


def table_lines(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str] = ()
) -> list[str]:
    """The lines of a table, laid out without rich, which takes a millisecond a row and shrinks all
    columns on a narrow terminal.

    Args:
        title, columns, rows, left: as in `print_table`.
    """
    rows = [[printable(" ".join(cell.split("\n"))) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    sides = ["<" if place == 0 or name in left else ">" for place, name in enumerate(columns)]
    line = "  ".join(f"{{:{side}{width}}}" for side, width in zip(sides, widths, strict=True))
    return [*([title] if title else []), *(line.format(*r).rstrip() for r in (columns, *rows))]


def fitting_lines(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str] = ()
) -> list[str]:
    """The lines of a table. If it is wider than the terminal, each row becomes several lines: its
    first cell, and below it the other cells with their column names.

    Args:
        title, columns, rows, left: as in `print_table`.
    """
    lines = table_lines(title, columns, rows, left)
    if not out.is_terminal or max(map(cell_len, lines)) <= out.width:
        return lines
    name_width = min(max(map(cell_len, columns[1:]), default=0), out.width // 2)
    cell_width = max(1, out.width - name_width - 4)  # two spaces before the name and the cell
    stacked = _folded(title, out.width) if title else []
    for row in rows:
        stacked += _folded(f"{columns[0]} {row[0]}".strip(), out.width)
        for name, cell in zip(columns[1:], row[1:], strict=True):
            parts = _folded(cell, cell_width)
            stacked += [f"  {label:{name_width}}  {part}".rstrip()
                        for label, part in zip([name[:name_width], *[""] * len(parts)], parts,
                                               strict=False)]
    return stacked


def _folded(text: str, width: int) -> list[str]:
    """Text in lines of at most `width` columns, broken between words where possible."""
    return [part for line in textwrap.wrap(printable(text), width, break_on_hyphens=False)
            for part in chop_cells(line, width)]


def clock(seconds: float | None) -> str:
    """A duration as minutes and seconds, hours and minutes, or years: 3:05, 12h04, 1.5 years; empty
    for None."""
    if seconds is None:
        return ""
    if not seconds < _YEAR_SECONDS:
        return f"{seconds / _YEAR_SECONDS:.3g} years"
    minutes, rest = divmod(round(seconds), 60)
    hours, of_hour = divmod(minutes, 60)
    return f"{hours}h{of_hour:02d}" if hours else f"{minutes}:{rest:02d}"


class Bar:
    """Progress of a task; call `update(done, note)`.

    The time left is estimated from the rate since the first increase of `done`: work of an earlier
    process took none of this time, and neither did the work before the first increase.
    """

    def __init__(self, label: str, total: float, bar: Progress | None, counted: bool) -> None:
        self._label, self._total, self._bar, self._counted = label, total, bar, counted
        self._task = bar.add_task(label, total=total, text="") if bar else None
        self._last = time.monotonic()
        self._initial: float | None = None
        """`done` of the first update."""
        self._start: tuple[float, float] | None = None
        """Time of the first increase, and `done` at that time."""

    def update(self, done: float, note: str = "", total: float | None = None) -> None:
        """Show the progress.

        Args:
            done: the completed amount in the units of the total, including that of earlier
                processes.
            note: further text.
            total: the new total; None if unchanged.
        """
        self._total = self._total if total is None else total
        left = clock(self._seconds_left(done))
        percent = f"{100 * done / self._total if self._total else 100.0:.0f}%"
        if self._bar is not None and self._task is not None:
            amount = f"{done:,.0f} of {self._total:,.0f}" if self._counted else f"{percent:>4}"
            parts = [left and f"{left} left", f"{amount} {note}"]
            self._bar.update(self._task, completed=done, total=self._total,
                             text="  ".join(filter(None, parts)))
        elif time.monotonic() - self._last >= PLAIN_LINE_SECONDS:
            self._last = time.monotonic()
            parts = [f"{percent} {note}".rstrip(), left and f"{left} left"]
            err.print(f"{self._label}: {', '.join(filter(None, parts))}", markup=False)

    def _seconds_left(self, done: float) -> float | None:
        now = time.monotonic()
        if self._initial is None or done < self._initial:  # a run resumed an earlier checkpoint
            self._initial, self._start = done, None
        if self._start is None:
            self._start = (now, done) if done > self._initial else None
            return None
        start_time, start_done = self._start
        if not (done > start_done and now > start_time):
            return None
        return max(0.0, self._total - done) * (now - start_time) / (done - start_done)


@contextmanager
def progress(label: str, total: float, *, counted: bool = True) -> Iterator[Bar]:
    """A progress bar for the body of the `with`; plain lines without a terminal.

    Args:
        label: name of the task.
        total: total amount of work.
        counted: show "3 of 10" instead of a percentage.
    """
    if not err.is_terminal:
        yield Bar(label, total, None, counted)
        return
    columns: tuple[ProgressColumn, ...] = (
        TextColumn("{task.description}", markup=False), BarColumn(bar_width=err.width // 4),
        TextColumn("{task.fields[text]}", markup=False),
    )
    if err.width < _MIN_BAR_WIDTH:  # one column: only its end is cut off
        columns = (TextColumn("{task.description} {task.fields[text]}", markup=False),)
    with Progress(*columns, console=err, transient=True) as bar:
        yield Bar(label, total, bar, counted)
