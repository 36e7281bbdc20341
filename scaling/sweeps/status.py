"""Status of a sweep: the state and speed of each run, and the compute done."""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.errors import UserError
from scaling.runs.folder import RunFolder
from scaling.runs.logs import newest_log_by_run
from scaling.runs.state import FAILURE, UNREADABLE, RunState, folder_state, readable_record
from scaling.sweeps.index import IndexedRun, SweepIndex

ORDER = ("running", "failed", UNREADABLE, "diverged", "partial", "new", "done", "over budget")
"""States in the order of display: those that may need attention first."""

_LONGEST_LEFT = 1e9
"""Longest time left, in seconds, that is reported."""

_RECORD = RunFolder(Path()).record_path.name


@dataclass(frozen=True)
class StatusRow:
    """The status of a run."""

    run: IndexedRun
    run_state: RunState
    state: str
    """As in RunState, or "over budget": not over, and outside max_flops."""
    tokens_per_second: float | None
    """For a running run, over the last lines of its metrics; for a run that is over, the mean."""
    log: Path | None
    """The log of its worker (scaling/runs/logs.py)."""

    @property
    def seconds_left(self) -> float | None:
        """Time until a running run is over, at its present speed."""
        if self.state != "running" or not self.tokens_per_second:
            return None
        batch_tokens = self.run.tokens / self.run.steps
        left = (self.run.steps - self.run_state.step) * batch_tokens / self.tokens_per_second
        return left if 0 <= left <= _LONGEST_LEFT else None

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "run_id": self.run.run_id, "role": self.run.role, "tokens": self.run.tokens,
            "state": self.state, "step": self.run_state.step, "steps": self.run.steps,
            "loss": self.run_state.loss, "tokens_per_second": self.tokens_per_second,
            "seconds_left": self.seconds_left, "log": str(self.log) if self.log else None,
            "note": self.run_state.note,
        }


@dataclass(frozen=True)
class SweepStatus:
    """The status of a sweep."""

    rows: list[StatusRow]
    """In the order of the plan."""
    states: dict[str, int]
    """Number of runs in each state, in the order of ORDER."""
    flops_done: float
    """Counted FLOPs done, with steps that runs share counted once."""
    flops_total: float
    """The same when all runs within the budget are over."""

    @property
    def over(self) -> bool:
        """Whether no run is left to train."""
        return all(row.run_state.over or row.state == "over budget" for row in self.rows)


def status_of(index: SweepIndex) -> SweepStatus:
    """The present status of a sweep, from the run folders."""
    existing: set[str] = set()
    with suppress(FileNotFoundError):
        existing.update(os.listdir(index.runs_folder))
    cached = dict(index.records)
    logs = newest_log_by_run(index.logs)
    rows = []
    for run in index.runs:
        run_state, speed = RunState("new", 0, None), None
        if run.run_id in existing:
            run_state, speed = _run_state(index, run)
        state = run_state.state if run_state.over or run.paid_for else "over budget"
        log = logs.get(run.run_id)
        if log is None and run_state.state == "failed":
            log = index.folder(run).path / FAILURE
        rows.append(StatusRow(run, run_state, state, speed, log))
    if index.records != cached:
        index.save()
    counts = Counter(row.state for row in rows)
    within_budget = [row for row in rows if row.run.paid_for]
    return SweepStatus(
        rows, {state: counts[state] for state in ORDER if counts[state]},
        flops_of_steps((row.run, row.run_state.step) for row in within_budget),
        flops_of_steps((row.run, row.run.steps) for row in within_budget),
    )


def sort_by_state(rows: Sequence[StatusRow]) -> list[StatusRow]:
    """The rows by state, in the order of ORDER; a stable sort."""
    return sorted(rows, key=lambda row: ORDER.index(row.state))


def _run_state(index: SweepIndex, run: IndexedRun) -> tuple[RunState, float | None]:
    """The state of a run and its tokens per second, from the cached record if it is unchanged."""
    folder = index.folder(run)
    try:
        # A string path: for thousands of runs, pathlib would take most of the time.
        stat = os.stat(f"{index.runs_folder}/{run.run_id}/{_RECORD}")
    except OSError:  # there is no record, or it is not accessible
        state = folder_state(folder)
        return state, speed(folder) if state.state == "running" else None
    stamp = [stat.st_size, stat.st_mtime_ns]
    cached = index.records.get(run.run_id)
    if cached is None or cached[:2] != stamp:
        if (record := readable_record(folder)) is None:  # removed meanwhile, or not readable
            index.records.pop(run.run_id, None)
            return folder_state(folder), None
        keys = ("status", "steps", "loss", "tokens_per_second")
        cached = [*stamp, *(record.get(key) for key in keys)]
        index.records[run.run_id] = cached
    status, step, loss, per_second = cached[2:]
    return RunState(status, step, loss), per_second


def speed(folder: RunFolder) -> float | None:
    """Tokens per second of a run over the last lines of its metrics, including evaluation and
    waiting; None if there are too few lines."""
    lines: list[dict[str, Any]] = []
    with suppress(UserError, OSError):  # the newest lines are what counts
        lines += (line for line in folder.newest_metrics() if {"seconds", "tokens"} <= line.keys())
    if not lines:
        return None
    last = first = lines[0]
    for line in lines[1:]:
        # A process that resumes from a checkpoint or a trunk repeats earlier steps.
        if not (line["step"] < first["step"] and line["seconds"] < first["seconds"]):
            break
        first = line
    if first is last:
        return None
    speed = float((last["tokens"] - first["tokens"]) / (last["seconds"] - first["seconds"]))
    return speed if math.isfinite(speed) else None


def flops_of_steps(steps: Iterable[tuple[IndexedRun, int]]) -> float:
    """FLOPs of the given number of steps of each run, with steps that a group shares counted once.

    The trunk of a group has been trained to the largest step that any of its runs has reached on
    it.
    """
    groups: defaultdict[int, list[tuple[IndexedRun, int]]] = defaultdict(list)
    for run, done in steps:
        groups[run.group].append((run, done))
    total = 0.0
    for group in groups.values():
        trunk = min((run for run, _ in group), key=lambda r: (-r.steps, r.run_id))
        shared, separate = 0, 0
        for run, done in group:
            on_trunk = done if run is trunk else run.shared_steps
            shared = max(shared, min(done, on_trunk))
            separate += max(0, done - on_trunk)
        total += (shared + separate) * trunk.flops / trunk.steps
    return total
