"""Checks of a sweep whose processes were killed (soak.py), against the same sweep undisturbed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.soak_sweep import Training
from scaling.runs.trunk import TRUNKS_FOLDER

PROCESS_KEYS = {"seconds", "tokens_per_second", "mfu", "finished", "commit", "data_wait_seconds"}
"""Keys of records and metrics that depend on the training process, and may differ."""
TRUNK_KEYS = {"trunk", "flops_shared", "flops_own"}
"""Keys of a record that describe its trunk. The trunk and the step of the branch depend on the runs
that were finished when a launcher last planned, and may differ; the sum of FLOPs does not."""
MAX_DISK_RATIO = 2.0
"""Largest peak of disk space of the disturbed sweep, relative to the undisturbed one. A run keeps
two checkpoints, and a killed process leaves a partial third until the run is resumed."""
EXIT_SECONDS = 30.0
"""Time for workers to notice that their launcher is dead, and to exit."""


def violations(undisturbed: Training, disturbed: Training, planned: int) -> list[str]:
    """Run all checks.

    Args:
        undisturbed: the finished sweep without kills.
        disturbed: the finished sweep with kills.
        planned: number of runs of the sweep.

    Returns:
        One message per violated condition; empty if all hold.
    """
    both = undisturbed, disturbed
    count = len(records(undisturbed))
    missing = [] if count == planned else [f"undisturbed: {count} records of {planned} runs"]
    return [*missing, *_records(*both), *_tables(*both), *_metrics(*both), *_disk(*both),
            *_temporary_files(undisturbed), *_temporary_files(disturbed), *_processes(disturbed),
            *_tracebacks(disturbed)]


def records(training: Training) -> dict[str, dict[str, Any]]:
    """The record of every finished run, by the name of its folder."""
    return {path.parent.name: json.loads(path.read_text(encoding="utf-8"))
            for path in sorted(training.runs.glob("*/record.json"))}


def _records(undisturbed: Training, disturbed: Training) -> Iterator[str]:
    """Records are equal except for PROCESS_KEYS and TRUNK_KEYS, and FLOPs have the same sum."""
    expected, found = records(undisturbed), records(disturbed)
    for path in disturbed.failure_files():
        yield f"{path.parent.name}: failed: {json.loads(path.read_text())['error']}"
    for run_id in expected.keys() - found.keys():
        yield f"{run_id}: has no record"
    for run_id in found.keys() - expected.keys():
        yield f"{run_id}: has a record, but is not a run of the sweep"
    for run_id in expected.keys() & found.keys():
        left, right = expected[run_id], found[run_id]
        if right["run_id"] != run_id or right["status"] != "done":
            yield (f"{run_id}: its record has status {right['status']} and run_id "
                   f"{right['run_id']}, where done and {run_id} are expected")
        for key in sorted((left.keys() | right.keys()) - PROCESS_KEYS - TRUNK_KEYS):
            if left.get(key) != right.get(key):
                yield f"{run_id}: {key} is {right.get(key)!r}, undisturbed {left.get(key)!r}"
        total = right["flops_own"] + right["flops_shared"]
        expected_total = left["flops_own"] + left["flops_shared"]
        if total != expected_total:
            yield (f"{run_id}: flops_own and flops_shared add up to {total:,}, undisturbed to "
                   f"{expected_total:,}")


def _tables(undisturbed: Training, disturbed: Training) -> Iterator[str]:
    """The tables of runs are equal."""
    left, right = (
        pd.read_csv(t.results / "runs.csv", dtype=str) for t in (undisturbed, disturbed))
    if right["run_id"].duplicated().any():
        yield "runs.csv: a run has several rows"
    if not left.equals(right):
        yield "runs.csv: differs from the table of the undisturbed sweep"


def _metrics(undisturbed: Training, disturbed: Training) -> Iterator[str]:
    """Metrics are equal, step by step. A resumed run repeats steps, with the same values."""
    for folder in undisturbed.run_folders():
        run_id = folder.path.name
        expected = _lines(folder.metrics_path)
        found = _lines(disturbed.runs / run_id / folder.metrics_path.name)
        if different := sorted(expected.keys() ^ found.keys()):
            steps = ", ".join(str(step) for step, _ in different[:5])
            yield f"{run_id}: only one of the sweeps has metrics of steps {steps}"
        for key in sorted(expected.keys() & found.keys()):
            if expected[key] != found[key]:
                yield f"{run_id}: metrics of step {key[0]} differ"


def _lines(path: Path) -> dict[tuple[int, bool], set[str]]:
    """Distinct lines of metrics as JSON without PROCESS_KEYS, by step and whether they belong to an
    evaluation. Partial lines, which killed processes leave, are ignored."""
    found: dict[tuple[int, bool], set[str]] = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        kept = {key: value for key, value in line.items() if key not in PROCESS_KEYS}
        key = line["step"], "eval_loss" in line
        found.setdefault(key, set()).add(json.dumps(kept, sort_keys=True))
    return found


def _temporary_files(training: Training) -> Iterator[str]:
    """No partial file, partial checkpoint or trunk is left. The names of partial files begin with a
    dot, and those of partial checkpoints contain "tmp"."""
    for path in sorted(training.folder.rglob("*")):
        if path.name.startswith(".") or "tmp" in path.name:
            yield f"{path.relative_to(training.folder.parent)}: a temporary file is left over"
    if (training.runs / TRUNKS_FOLDER).exists() and any((training.runs / TRUNKS_FOLDER).iterdir()):
        yield f"{training.folder.name}: trunks are left over"


def _processes(training: Training) -> Iterator[str]:
    """All processes have exited."""
    deadline = time.monotonic() + EXIT_SECONDS
    while (left := training.pids()) and time.monotonic() < deadline:
        time.sleep(0.2)
    for pid in left:
        yield f"process {pid} is still running"


def _disk(undisturbed: Training, disturbed: Training) -> Iterator[str]:
    """The peak of disk space is limited."""
    limit = MAX_DISK_RATIO * undisturbed.peak_bytes
    if disturbed.peak_bytes > limit:
        yield (f"a peak of {disturbed.peak_bytes:,} bytes on disk, where at most {limit:,.0f} are "
               f"expected, {MAX_DISK_RATIO:g} times the peak of the undisturbed sweep")


def _tracebacks(training: Training) -> Iterator[str]:
    """No launcher and no worker has printed a traceback."""
    for path in [*training.folder.glob("launcher-*.log"), *training.runs.glob("logs/*.log")]:
        if "Traceback" in path.read_text(encoding="utf-8", errors="replace"):
            yield f"{path.relative_to(training.folder.parent)}: contains a traceback"
