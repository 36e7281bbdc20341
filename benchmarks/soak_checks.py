"""What must hold of a sweep that was killed again and again (soak.py)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.soak_sweep import Training
from scaling.runs.trunk import TRUNKS_FOLDER

OF_THE_PROCESS = {"seconds", "tokens_per_second", "mfu", "finished", "commit",
                  "data_wait_seconds"}
"""What a record or a line of metrics says of the process that trained, not of the run."""
OF_THE_TRUNK = {"trunk", "flops_shared", "flops_own"}
"""What a record says of its trunk: which one, and where it was left, depends on what was over when
a launcher last planned. The sum of FLOPs does not."""
DISK_TIMES = 2.0
"""The most that the disturbed sweep may take of the disk, as a multiple of the undisturbed one's:
what a kill leaves half-written stays until the run is taken up again, one checkpoint beside two."""
GONE_SECONDS = 30.0
"""That a worker may take to notice that its launcher is gone."""


def shortcomings(calm: Training, hurt: Training, planned: int) -> list[str]:
    """All that is wrong with the disturbed sweep, a sentence each; empty if everything holds.

    Args:
        calm: the same sweep, undisturbed.
        hurt: the disturbed one, ended.
        planned: how many runs there are.
    """
    count = len(records(calm))
    few = [] if count == planned else [f"undisturbed: {count} records of {planned} runs"]
    return [*few, *_records(calm, hurt), *_tables(calm, hurt), *_metrics(calm, hurt),
            *_leftovers(calm), *_leftovers(hurt), *_strays(hurt), *_disk(calm, hurt), *_words(hurt)]


def records(training: Training) -> dict[str, dict[str, Any]]:
    """The record of every run, by its folder's name."""
    return {path.parent.name: json.loads(path.read_text(encoding="utf-8"))
            for path in sorted(training.runs.glob("*/record.json"))}


def _records(calm: Training, hurt: Training) -> Iterator[str]:
    whole, there = records(calm), records(hurt)
    for path in hurt.failed():
        yield f"{path.parent.name}: failed: {json.loads(path.read_text())['error']}"
    for missing in whole.keys() - there.keys():
        yield f"{missing}: has no record"
    for more in there.keys() - whole.keys():
        yield f"{more}: has a record, and is no run of the sweep"
    for run_id in whole.keys() & there.keys():
        left, right = whole[run_id], there[run_id]
        if right["run_id"] != run_id or right["status"] != "done":
            yield f"{run_id}: the record is {right['status']}, of {right['run_id']}"
        for key in sorted((left.keys() | right.keys()) - OF_THE_PROCESS - OF_THE_TRUNK):
            if left.get(key) != right.get(key):
                yield f"{run_id}: {key} is {right.get(key)!r}, undisturbed {left.get(key)!r}"
        own, shared = right["flops_own"], right["flops_shared"]
        if own + shared != left["flops_own"] + left["flops_shared"]:
            yield f"{run_id}: FLOPs of its own and of its trunk do not add up"


def _tables(calm: Training, hurt: Training) -> Iterator[str]:
    left, right = (pd.read_csv(t.results / "runs.csv", dtype=str) for t in (calm, hurt))
    if right["run_id"].duplicated().any():
        yield "runs.csv: a run is there twice"
    if not left.equals(right):
        yield "runs.csv: not that of the undisturbed sweep"


def _metrics(calm: Training, hurt: Training) -> Iterator[str]:
    """Losses on the way. A step may be there several times, with the same numbers."""
    for folder in calm.run_folders():
        whole = _lines(folder.metrics_path)
        there = _lines(hurt.runs / folder.path.name / folder.metrics_path.name)
        if whole.keys() != there.keys():
            yield f"{folder.path.name}: metrics of steps {sorted(whole.keys() ^ there.keys())[:5]}"
        for key in sorted(whole.keys() & there.keys()):
            if whole[key] != there[key]:
                yield f"{folder.path.name}: metrics of step {key[0]} differ"


def _lines(path: Path) -> dict[tuple[int, bool], set[str]]:
    """What all whole lines say of each step, by step and whether it is an evaluation."""
    found: dict[tuple[int, bool], set[str]] = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue  # torn by a kill
        kept = {key: value for key, value in line.items() if key not in OF_THE_PROCESS}
        key = line["step"], "eval_loss" in line
        found.setdefault(key, set()).add(json.dumps(kept, sort_keys=True))
    return found


def _leftovers(training: Training) -> Iterator[str]:
    """Half-written files have hidden names, and half-written checkpoints say so in theirs."""
    for path in sorted(training.folder.rglob("*")):
        if path.name.startswith(".") or "tmp" in path.name:
            yield f"{path.relative_to(training.folder.parent)}: left over"
    if (training.runs / TRUNKS_FOLDER).exists() and any((training.runs / TRUNKS_FOLDER).iterdir()):
        yield f"{training.folder.name}: trunks are left over"


def _strays(training: Training) -> Iterator[str]:
    deadline = time.monotonic() + GONE_SECONDS
    while (left := training.processes()) and time.monotonic() < deadline:
        time.sleep(0.2)
    for number in left:
        yield f"process {number} is still there"


def _disk(calm: Training, hurt: Training) -> Iterator[str]:
    if hurt.peak_bytes > DISK_TIMES * calm.peak_bytes:
        yield (f"{hurt.peak_bytes:,} bytes on disk at most, undisturbed {calm.peak_bytes:,}")


def _words(training: Training) -> Iterator[str]:
    """Neither launchers nor workers end with a traceback."""
    for path in [*training.folder.glob("launcher-*.log"), *training.runs.glob("logs/*.log")]:
        if "Traceback" in path.read_text(encoding="utf-8", errors="replace"):
            yield f"{path.relative_to(training.folder.parent)}: holds a traceback"
