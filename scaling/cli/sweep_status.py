"""`scaling sweep status` and `log`: where each run stands, and what its worker said."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live
from rich.text import Text

from scaling.cli.sweep_options import (
    RUNS,
    AsJson,
    Overrides,
    RunsFolder,
    SweepFile,
    clock,
    open_index,
)
from scaling.cli.terminal import PLAIN_LINE_SECONDS, err, out, print_json, table_lines
from scaling.errors import UserError

if TYPE_CHECKING:
    from scaling.sweeps.index import Entry, Index
    from scaling.sweeps.status import Row, Status

_ROWS = 50
"""Rows that a terminal shows unless asked for all."""
_WATCH_SECONDS = 2.0
_FOLLOW_SECONDS = 0.5
_AROUND_TABLE = 6
"""Lines of a display that are not rows: title, head, what is left out, counts, compute, cursor."""
_COLUMNS = ("run", "state", "step", "%", "loss", "tokens/s", "left", "size", "tokens", "role",
            "log", "note")
"""What a narrow terminal cuts off stands last."""


def status(
    config: SweepFile,
    overrides: Overrides = None,
    runs: RunsFolder = RUNS,
    watch: Annotated[bool, typer.Option(
        "--watch", help="go on showing it until all runs are over, or Ctrl-C")] = False,
    all_rows: Annotated[bool, typer.Option(
        "--all", help=f"show every run; a terminal gets {_ROWS} of them otherwise")] = False,
    json_output: AsJson = False,
) -> None:
    """Show where each run stands, read from the run folders: first those that train or failed.

    Compute counts steps that runs share once, as `max_flops` does.

    Example: `scaling sweep status configs/sweeps/quickstart.yaml --watch`
    """
    from scaling.sweeps.status import status_of

    if watch and json_output:
        raise UserError("--watch: shows a table; leave it or --json out")
    index = open_index(config, overrides, runs)
    if watch:
        with _until_interrupted():
            _watch(index, all_rows)
        return
    now = status_of(index)
    if json_output:
        print_json({"runs": [row.plain() for row in now.rows], "states": now.states,
                    "flops_done": now.flops_done, "flops_total": now.flops_total,
                    "max_flops": index.max_flops})
        return
    most = None if all_rows or not out.is_terminal else _ROWS
    out.file.write("\n".join(_lines(index, now, most)) + "\n")


def _watch(index: Index, all_rows: bool) -> None:
    from scaling.sweeps.status import status_of

    if not out.is_terminal:
        while not (now := status_of(index)).over:
            out.print("; ".join(_summary(index, now)), markup=False)
            time.sleep(PLAIN_LINE_SECONDS)
        out.print("; ".join(_summary(index, now)), markup=False)
        return

    def display() -> Text:
        most = max(1, out.height - _AROUND_TABLE)
        lines = _lines(index, now, most if all_rows else min(_ROWS, most))
        return Text("\n".join(lines), no_wrap=True, overflow="ellipsis")

    now = status_of(index)
    with Live(display(), console=out, auto_refresh=False) as live:
        while not now.over:
            time.sleep(_WATCH_SECONDS)
            now = status_of(index)
            live.update(display(), refresh=True)


def _lines(index: Index, now: Status, most: int | None) -> list[str]:
    """The table with at most so many runs, and below it what there is to say of all."""
    from scaling.sweeps.status import by_interest

    rows = by_interest(now.rows)[:most]
    more = len(now.rows) - len(rows)
    cells = [_cells(index, row) for row in rows]
    table = table_lines(f"{index.sweep}: logs are in {index.logs}", _COLUMNS, cells,
                        left=("state", "log", "note"))
    return [*table, *([f"... and {more:,} more; --all shows every run"] if more else []),
            *_summary(index, now)]


def _cells(index: Index, row: Row) -> list[str]:
    entry, now, log = row.entry, row.now, row.log
    if log is not None and log.is_relative_to(index.logs):
        log = log.relative_to(index.logs)
    return [
        entry.run_id, row.state, f"{now.step}/{entry.steps}", f"{now.step / entry.steps:.0%}",
        "" if now.loss is None else f"{now.loss:.4f}",
        "" if row.tokens_per_second is None else f"{row.tokens_per_second:,.0f}",
        clock(row.seconds_left), entry.size, f"{entry.tokens:,}", entry.role, str(log or ""),
        " ".join(now.note.split()),
    ]


def _summary(index: Index, now: Status) -> list[str]:
    """What there is to say of all runs together, in lines."""
    counts = ", ".join(f"{count:,} {state}" for state, count in now.states.items())
    compute = (f"{now.flops_done:.3g} of {now.flops_total:.3g} FLOPs done "
               f"({now.flops_done / now.flops_total:.0%})" if now.flops_total else "")
    if index.max_flops is not None:
        compute += f", {now.flops_done / index.max_flops:.0%} of max_flops {index.max_flops:.3g}"
    return [counts, compute]


def log(
    run: Annotated[str, typer.Argument(help="identity of a run, or the first digits of it")],
    config: SweepFile,
    overrides: Overrides = None,
    runs: RunsFolder = RUNS,
    lines: Annotated[int, typer.Option(help="how many of the last lines", min=1)] = 40,
    follow: Annotated[bool, typer.Option(
        "--follow", help="go on showing new lines until the run is over, or Ctrl-C")] = False,
) -> None:
    """Show the last words about a run, of the workers that had it, and why it failed if it did.

    Example: `scaling sweep log 3f2a configs/sweeps/quickstart.yaml --follow`
    """
    from scaling.sweeps.ledger import standing_in, why_failed
    from scaling.sweeps.words import Words

    index = open_index(config, overrides, runs)
    entry = _entry(index, run)
    folder, words = index.folder(entry), Words(index.logs, entry.run_id)
    before = words.more()[-lines:]
    for path in dict.fromkeys(path for path, _ in before):
        err.print(f"from {path}", markup=False)
    for _, line in before:
        out.print(line, markup=False)
    if follow:
        with _until_interrupted():
            over = False
            while not over:
                over = standing_in(folder).over  # the last words come after the record
                time.sleep(_FOLLOW_SECONDS)
                for _, line in words.more():
                    out.print(line, markup=False)
    now = standing_in(folder)
    if now.state == "failed":
        err.print(f"from {folder.path}", markup=False)
        for line in (why_failed(folder)[1:] or [now.note])[-lines:]:
            out.print(line, markup=False)
    elif not before and not follow:
        err.print(f"{entry.run_id} is {now.state}; no worker's log in {index.logs} has words about "
                  "it", markup=False)


def _entry(index: Index, prefix: str) -> Entry:
    """The one run of the sweep whose identity begins so.

    Raises:
        UserError: there is none, or more than one.
    """
    found = [entry for entry in index.entries if entry.run_id.startswith(prefix)]
    if not found:
        raise UserError(f"{prefix}: no run of {index.sweep} has an identity that begins so; see "
                        "`scaling sweep status`")
    if len(found) > 1:
        some = ", ".join(entry.run_id for entry in found[:3])
        raise UserError(f"{prefix}: {len(found)} runs of {index.sweep} begin so ({some}"
                        f"{', ...' if len(found) > 3 else ''}); give more digits")
    return found[0]


@contextmanager
def _until_interrupted() -> Iterator[None]:
    """Ctrl-C ends the body of the `with`, and nothing else."""
    try:
        yield
    except KeyboardInterrupt:
        err.print()
