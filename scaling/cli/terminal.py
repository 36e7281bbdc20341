"""What every command shares at the terminal: tables, progress and JSON, and where they go.

Results go to standard output, progress and messages to standard error, so that a pipe sees
results alone. Where standard error is no terminal, progress becomes a plain line now and then.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

_PIPE_WIDTH = 400  # a pipe gets whole lines, however long they are


def _console(*, stderr: bool = False) -> Console:
    console = Console(stderr=stderr, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    return console


out = _console()
err = _console(stderr=True)

PLAIN_LINE_SECONDS = 10.0
"""Between two lines about work that goes on, where there is no terminal."""

_RICH_ROWS = 500
"""Rows up to which a table is laid out by rich."""


def print_json(content: Any) -> None:
    """JSON on standard output; NaN and infinity become null."""
    out.print(json.dumps(finite(content), indent=2, allow_nan=False), markup=False)


def finite(content: Any) -> Any:
    """A copy in which numbers that JSON cannot write are None."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    if isinstance(content, float) and not -float("inf") < content < float("inf"):
        return None
    return content


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on standard output: the first column to the left, numbers to the right."""
    if len(rows) > _RICH_ROWS:
        out.file.write("\n".join(table_lines(title, columns, rows)) + "\n")
        return
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for place, name in enumerate(columns):
        table.add_column(name, justify="left" if place == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    out.print(table)


def table_lines(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str] = ()
) -> list[str]:
    """The same without rich, whose layout takes a millisecond a row and makes all columns narrower
    where the terminal is narrow.

    Args:
        title: the first line; none if empty.
        columns: their names.
        rows: their cells.
        left: names of columns that are words, and stand to the left as the first does.
    """
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    sides = ["<" if place == 0 or name in left else ">" for place, name in enumerate(columns)]
    line = "  ".join(f"{{:{side}{width}}}" for side, width in zip(sides, widths, strict=True))
    return [*([title] if title else []), *(line.format(*r).rstrip() for r in (columns, *rows))]


class Bar:
    """Progress of one piece of work: `update(done, note)`."""

    def __init__(self, label: str, total: float, bar: Progress | None) -> None:
        self._label, self._total, self._bar = label, total, bar
        self._task = bar.add_task(label, total=total, note="") if bar else None
        self._last = time.monotonic()

    def update(self, done: float, note: str = "") -> None:
        """Say how far the work is, in the units of the total."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, note=note)
        elif time.monotonic() - self._last >= PLAIN_LINE_SECONDS:
            self._last = time.monotonic()
            percent = 100 * done / self._total if self._total else 100.0
            err.print(f"{self._label}: {percent:.0f}% {note}".rstrip(), markup=False)


@contextmanager
def progress(label: str, total: float) -> Iterator[Bar]:
    """A progress bar for the body of the `with`; plain lines where there is no terminal."""
    if not err.is_terminal:
        yield Bar(label, total, None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=err, transient=True) as bar:
        yield Bar(label, total, bar)
