"""The file of jobs that a launcher hands to its workers: RUNS/logs/NAME.ROLE.plan.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scaling.errors import UserError
from scaling.files import clear_half_written, read_json, write_atomically
from scaling.launch.jobs import Job
from scaling.runs.files import is_count

PLAN_SUFFIX, TASKS_SUFFIX = ".plan.json", ".tasks.json"
"""Ends of the file names of plans: of runs, and of pieces of a corpus
(scaling/data/prepare/tasks.py)."""


def plan_path(logs: Path, name: str) -> Path:
    """Path of the plan of a sweep and role."""
    return logs / f"{name}{PLAN_SUFFIX}"


def write_plan(
    jobs: Sequence[Job], logs: Path, name: str, pack: str | int = "auto", workers: int = 1
) -> Path:
    """Write the plan of a sweep and role, replacing an earlier one.

    Raises:
        UserError: the file that is there is not a plan.
    """
    path = plan_path(logs, name)
    if path.exists():
        read_plan(path)
    content = {"pack": pack, "workers": workers, "runs": [job.plain() for job in jobs]}
    write_atomically(path, json.dumps(content) + "\n")
    clear_half_written(path)
    return path


@dataclass(frozen=True)
class WorkerPlan:
    """The content of a plan."""

    jobs: list[Job]
    pack: str | int
    workers: int


def read_plan(path: Path) -> WorkerPlan:
    """Read a plan in RUNS/logs; its runs are in RUNS, whatever their paths.

    Raises:
        UserError: it is not a plan, or one of another version.
    """
    fix = "move it away, and the next `scaling sweep run` writes another"
    content = read_json(path, fix)
    runs, pack = content.get("runs"), content.get("pack", "auto")
    workers = content.get("workers", 1)
    try:
        if not isinstance(runs, list) or not is_count(workers):
            raise ValueError("a list of runs and a count of workers are expected")
        if pack != "auto" and not (is_count(pack) and pack > 0):
            raise ValueError("pack is neither auto nor a positive number")
        jobs = [Job.read(run, path.parent.parent) for run in runs]
    except ValueError as error:
        raise UserError(f"{path}: is not a plan of this version ({error}); {fix}") from None
    return WorkerPlan(jobs, pack, workers)
