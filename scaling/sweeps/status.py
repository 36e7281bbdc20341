"""Where all runs of a sweep stand, how fast those are that train, and what is paid already."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.sweeps.index import Entry, Index
from scaling.sweeps.ledger import FAILURE, Standing, result, standing_in
from scaling.sweeps.words import logs_of_runs
from scaling.training.run_folder import RunFolder

ORDER = ("running", "failed", "diverged", "partial", "new", "done", "over budget")
"""States, those first that somebody may want to look at."""

_RECORD = RunFolder(Path()).record_path.name


@dataclass(frozen=True)
class Row:
    """What is known of a run now."""

    entry: Entry
    now: Standing
    state: str
    """As in Standing, or "over budget": not over, and max_flops does not pay for it."""
    tokens_per_second: float | None
    """Of a running one over the last lines of its metrics, of one that is over on the whole."""
    log: Path | None
    """Where its worker's words are; see `scaling.sweeps.words`."""

    @property
    def seconds_left(self) -> float | None:
        """Until a running one is over, at its present speed."""
        if self.state != "running" or not self.tokens_per_second:
            return None
        batch_tokens = self.entry.tokens / self.entry.steps
        return (self.entry.steps - self.now.step) * batch_tokens / self.tokens_per_second

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "run_id": self.entry.run_id, "role": self.entry.role, "tokens": self.entry.tokens,
            "state": self.state, "step": self.now.step, "steps": self.entry.steps,
            "loss": self.now.loss, "tokens_per_second": self.tokens_per_second,
            "seconds_left": self.seconds_left, "log": str(self.log) if self.log else None,
            "note": self.now.note,
        }


@dataclass(frozen=True)
class Status:
    """Where a sweep stands."""

    rows: list[Row]
    """In the plan's order."""
    states: dict[str, int]
    """How many runs are in each state, in the order of ORDER."""
    flops_done: float
    """Counted FLOPs of what is trained, steps that runs share counted once."""
    flops_total: float
    """The same when all runs are over that the budget pays for."""

    @property
    def over(self) -> bool:
        """Whether there is nothing left to do."""
        return all(row.now.over or row.state == "over budget" for row in self.rows)


def status_of(index: Index) -> Status:
    """Where the runs of a sweep stand now, by their folders."""
    there: set[str] = set()
    with suppress(FileNotFoundError):
        there.update(os.listdir(index.runs))
    known = dict(index.remembered)
    logs = logs_of_runs(index.logs)
    rows = []
    for entry in index.entries:
        now, speed = Standing("new", 0, None), None
        if entry.run_id in there:
            now, speed = _standing(index, entry)
        state = now.state if now.over or entry.paid_for else "over budget"
        log = logs.get(entry.run_id)
        if log is None and now.state == "failed":
            log = index.folder(entry).path / FAILURE
        rows.append(Row(entry, now, state, speed, log))
    if index.remembered != known:
        index.save()
    counts = Counter(row.state for row in rows)
    paid_for = [row for row in rows if row.entry.paid_for]
    return Status(
        rows, {state: counts[state] for state in ORDER if counts[state]},
        _flops((row.entry, row.now.step) for row in paid_for),
        _flops((row.entry, row.entry.steps) for row in paid_for),
    )


def by_interest(rows: Sequence[Row]) -> list[Row]:
    """The rows by state, in the order of ORDER, and within a state as they are."""
    return sorted(rows, key=lambda row: ORDER.index(row.state))


def _standing(index: Index, entry: Entry) -> tuple[Standing, float | None]:
    folder = index.folder(entry)
    try:
        # A path as text: of thousands of runs, pathlib would take longer than all else.
        stat = os.stat(f"{index.runs}/{entry.run_id}/{_RECORD}")
    except FileNotFoundError:
        now = standing_in(folder)
        return now, speed(folder) if now.state == "running" else None
    stamp = [stat.st_size, stat.st_mtime_ns]
    kept = index.remembered.get(entry.run_id)
    if kept is None or kept[:2] != stamp:
        if (record := result(folder)) is None:  # gone again, or not readable
            index.remembered.pop(entry.run_id, None)
            return standing_in(folder), None
        kept = [*stamp, *(record.get(k) for k in ("status", "steps", "loss", "tokens_per_second"))]
        index.remembered[entry.run_id] = kept
    state, step, loss, per_second = kept[2:]
    return Standing(state, step, loss), per_second


def speed(folder: RunFolder) -> float | None:
    """Tokens a second of a run over the last lines of its metrics, evaluations and waiting
    included; None where these do not tell."""
    lines = [line for line in folder.newest_metrics() if {"seconds", "tokens"} <= line.keys()]
    if not lines:
        return None
    last = first = lines[0]
    for line in lines[1:]:
        # A process that goes on from a checkpoint, or from a trunk, begins an earlier line again.
        if not (line["step"] < first["step"] and line["seconds"] < first["seconds"]):
            break
        first = line
    if first is last:
        return None
    return float((last["tokens"] - first["tokens"]) / (last["seconds"] - first["seconds"]))


def _flops(steps: Iterable[tuple[Entry, int]]) -> float:
    """What so many steps of each run cost, those that a family shares counted once.

    A family has been at its trunk as far as any of its runs, alone or together, has come along it.
    """
    families: defaultdict[int, list[tuple[Entry, int]]] = defaultdict(list)
    for entry, done in steps:
        families[entry.family].append((entry, done))
    total = 0.0
    for family in families.values():
        trunk = min((entry for entry, _ in family), key=lambda e: (-e.steps, e.run_id))
        common, apart = 0, 0
        for entry, done in family:
            along = done if entry is trunk else entry.shared_steps
            common = max(common, min(done, along))
            apart += max(0, done - along)
        total += (common + apart) * trunk.flops / trunk.steps
    return total
