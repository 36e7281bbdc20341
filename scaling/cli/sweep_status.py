"""`scaling sweep status` and `log`: the state of each run, and its worker's log."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live
from rich.text import Text

from scaling.cli.options import JsonSwitch
from scaling.cli.sweep_options import (
    Overrides,
    RunsFolder,
    SweepFile,
    check_runs_exist,
    open_index,
)
from scaling.console import (
    PLAIN_LINE_SECONDS,
    clock,
    err,
    fitting_lines,
    out,
    print_json,
    print_lines,
    table_lines,
)
from scaling.errors import UserError
from scaling.runs import RUNS

if TYPE_CHECKING:
    from scaling.sweeps.index import IndexedRun, SweepIndex
    from scaling.sweeps.status import StatusRow, SweepStatus

_MAX_ROWS = 50
"""Rows shown on a terminal without --all."""
_WATCH_SECONDS = 2.0
_FOLLOW_SECONDS = 0.5
_WORKERS_SECONDS = 15.0
"""With --watch, time between two questions to the launchers, such as to Slurm's controller."""
_OTHER_LINES = 7
"""Lines of the display that are not rows: title, header, number of hidden rows, counts, compute,
workers and cursor."""
_COLUMNS = ("run", "state", "step", "%", "loss", "tokens/s", "left", "size", "tokens", "role",
            "log", "note")
"""The last columns are those that a narrow terminal cuts off with --watch."""
TableLayout = Callable[[str, Sequence[str], Sequence[Sequence[str]], Sequence[str]], list[str]]


def status(
    config: SweepFile,
    overrides: Overrides = None,
    runs: RunsFolder = RUNS,
    watch: Annotated[bool, typer.Option(
        "--watch", help="Update the display until all runs are over, or until Ctrl-C.")] = False,
    all_rows: Annotated[bool, typer.Option(
        "--all", help=f"Show every run; by default a terminal shows {_MAX_ROWS}.")] = False,
    json_output: JsonSwitch = False,
) -> None:
    """Show the state of each run, read from the run folders; running and failed runs come first.

    Workers are counted as their launchers report them: processes on this machine, and jobs. Compute
    counts steps that runs share once, like `max_flops`. A run with an invalid file is `not
    readable`; its note names the file.

    Example: `scaling sweep status configs/sweeps/quickstart.yaml --watch`
    """
    from scaling.sweeps.status import status_of

    if watch and json_output:
        raise UserError("--watch: shows a table; leave out either --watch or --json")
    check_runs_exist(runs)
    index = open_index(config, overrides, runs)
    if watch:
        with _until_interrupted():
            _watch(index, all_rows)
        return
    now = status_of(index)
    if json_output:
        print_json({"runs": [row.to_json() for row in now.rows], "states": now.states,
                    "flops_done": now.flops_done, "flops_total": now.flops_total,
                    "max_flops": index.max_flops, "workers": _workers(index)[0]})
        return
    max_rows = None if all_rows or not out.is_terminal else _MAX_ROWS
    print_lines([*_lines(index, now, max_rows), *_worker_line(index)])


def _watch(index: SweepIndex, all_rows: bool) -> None:
    from scaling.sweeps.status import status_of

    if not out.is_terminal:
        while not (now := status_of(index)).over:
            out.print("; ".join(_summary(index, now)), markup=False)
            time.sleep(PLAIN_LINE_SECONDS)
        out.print("; ".join(_summary(index, now)), markup=False)
        return

    def display() -> Text:
        max_rows = max(1, out.height - _OTHER_LINES)
        # One line for each run, because the height is limited.
        lines = _lines(
            index, now, max_rows if all_rows else min(_MAX_ROWS, max_rows), table_lines)
        lines += workers
        return Text("\n".join(lines), no_wrap=True, overflow="ellipsis")

    now, workers, asked = status_of(index), _worker_line(index), time.monotonic()
    with Live(display(), console=out, auto_refresh=False) as live:
        while not now.over:
            time.sleep(_WATCH_SECONDS)
            now = status_of(index)
            if time.monotonic() - asked > _WORKERS_SECONDS:
                workers, asked = _worker_line(index), time.monotonic()
            live.update(display(), refresh=True)


def _lines(
    index: SweepIndex, now: SweepStatus, max_rows: int | None,
    layout: TableLayout = fitting_lines,
) -> list[str]:
    """The lines of the table with at most `max_rows` runs, and of the summary."""
    from scaling.sweeps.status import sort_by_state

    rows = sort_by_state(now.rows)[:max_rows]
    more = len(now.rows) - len(rows)
    cells = [_cells(index, row) for row in rows]
    table = layout(f"{index.sweep}: logs are in {index.logs}", _COLUMNS, cells,
                   ("state", "log", "note"))
    return [*table, *([f"... and {more:,} more; --all shows every run"] if more else []),
            *_summary(index, now)]


def _cells(index: SweepIndex, row: StatusRow) -> list[str]:
    run, now, log = row.run, row.run_state, row.log
    if log is not None and log.is_relative_to(index.logs):
        log = log.relative_to(index.logs)
    return [
        run.run_id, row.state, f"{now.step}/{run.steps}", f"{now.step / run.steps:.0%}",
        "" if now.loss is None else f"{now.loss:.4f}",
        "" if row.tokens_per_second is None else f"{row.tokens_per_second:,.0f}",
        clock(row.seconds_left), run.size, f"{run.tokens:,}", run.role, str(log or ""),
        " ".join(now.note.split()),
    ]


def _summary(index: SweepIndex, now: SweepStatus) -> list[str]:
    """Lines with the counts of the states and the compute of all runs."""
    counts = ", ".join(f"{count:,} {state}" for state, count in now.states.items())
    compute = (f"{now.flops_done:.3g} of {now.flops_total:.3g} FLOPs done "
               f"({now.flops_done / now.flops_total:.0%})" if now.flops_total else "")
    if index.max_flops is not None:
        compute += f", {now.flops_done / index.max_flops:.0%} of max_flops {index.max_flops:.3g}"
    return [counts, compute]


def _workers(index: SweepIndex) -> tuple[list[dict[str, str]], list[str]]:
    """The workers of the sweep that are queued or running, and the errors of launchers that cannot
    tell."""
    from scaling.launch.registry import launched_groups

    groups, errors = launched_groups(index.sweep, index.logs)
    found, problems = [], [str(error) for error in errors]
    for each in groups:
        try:
            found += [{"launcher": each.kind.name, "worker": worker.worker, "state": worker.state}
                      for worker in each.status()]
        except UserError as error:
            problems.append(str(error))
    return found, problems


def _worker_line(index: SweepIndex) -> list[str]:
    """A line with the number of workers, if there are any, or with the first problem."""
    found, problems = _workers(index)
    counts = Counter(f"{each['state']} ({each['launcher']})" for each in found)
    parts = [f"{count:,} {state}" for state, count in counts.items()] + problems[:1]
    return [f"workers: {', '.join(parts)}"] if parts else []


def log(
    run: Annotated[str, typer.Argument(
        metavar="RUN", help="Identity of a run, or its first digits.")],
    config: SweepFile,
    overrides: Overrides = None,
    runs: RunsFolder = RUNS,
    lines: Annotated[int, typer.Option(
        help="Number of last lines.", min=1, max=1_000_000)] = 40,
    follow: Annotated[bool, typer.Option(
        "--follow", help="Show new lines until the run is over, or until Ctrl-C.")] = False,
) -> None:
    """Show the last log lines of the workers about a run, and the error of a failed run.

    Example: `scaling sweep log 3f2a configs/sweeps/quickstart.yaml --follow`
    """
    from scaling.runs.logs import RunLog
    from scaling.runs.state import UNREADABLE, folder_state, read_failure

    check_runs_exist(runs)
    index = open_index(config, overrides, runs)
    found = _find_run(index, run)
    folder, log_lines = index.folder(found), RunLog(index.logs, found.run_id)
    last = log_lines.new_lines(lines)
    for path in dict.fromkeys(path for path, _ in last):
        err.print(f"from {path}", markup=False)
    for _, line in last:
        out.print(line, markup=False)
    if follow:
        with _until_interrupted():
            over = False
            while not over:
                over = folder_state(folder).over  # the last lines come after the record
                time.sleep(_FOLLOW_SECONDS)
                for _, line in log_lines.new_lines():
                    out.print(line, markup=False)
    now = folder_state(folder)
    if now.state in ("failed", UNREADABLE):
        err.print(f"from {folder.path}", markup=False)
        error = read_failure(folder)[1:] if now.state == "failed" else []
        for line in (error or [now.note])[-lines:]:
            out.print(line, markup=False)
    elif not last and not follow:
        err.print(f"{found.run_id} is {now.state}; no log in {index.logs} mentions it",
                  markup=False)


def _find_run(index: SweepIndex, prefix: str) -> IndexedRun:
    """The run of the sweep whose identity begins with a prefix.

    Raises:
        UserError: there is none, or more than one.
    """
    found = [run for run in index.runs if run.run_id.startswith(prefix)]
    if not found:
        raise UserError(f"{prefix}: no run of {index.sweep} has an identity that begins with it; "
                        "see `scaling sweep status`")
    if len(found) > 1:
        some = ", ".join(run.run_id for run in found[:3])
        raise UserError(f"{prefix}: {len(found)} runs of {index.sweep} begin with it ({some}"
                        f"{', ...' if len(found) > 3 else ''}); give more digits")
    return found[0]


@contextmanager
def _until_interrupted() -> Iterator[None]:
    """Ctrl-C ends only the body of the `with`."""
    try:
        yield
    except KeyboardInterrupt:
        err.print()
