"""Removal of checkpoints that no run needs. Records, metrics and configurations are kept.

The runs come from a new plan of the sweep's YAML, so no file in the folder of runs can name another
folder for removal. Links are neither removed nor followed.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from scaling.files import remove_below
from scaling.launch.jobs import jobs_of
from scaling.launch.worker_plan import PLAN_SUFFIX, read_plan
from scaling.runs.files import is_run_id
from scaling.runs.planned import GRID, HELDOUT, PlannedRun
from scaling.runs.state import run_state
from scaling.runs.trunk import (
    TRUNKS_FOLDER,
    broken_checkpoints,
    clean_checkpoints,
    holds_only_checkpoints,
)
from scaling.sweeps.plan import Plan


@dataclass(frozen=True)
class Leftover:
    """A folder that may be removed."""

    path: Path
    size: int
    """Total bytes of its files."""

    runs: Path
    """Folder of all runs; nothing outside is removed."""

    @classmethod
    def at(cls, path: Path, runs: Path) -> Leftover:
        """The folder with its present size."""
        size = 0
        for folder, _, names in os.walk(path):  # does not follow links
            with suppress(FileNotFoundError):
                size += sum(os.lstat(os.path.join(folder, name)).st_size for name in names)
        return cls(path, size, runs)

    def remove(self) -> None:
        """Remove it; no error if it no longer exists.

        Raises:
            UserError: a link was created in its path.
            OSError: it cannot be removed; the error names it.
        """
        remove_below(self.runs, self.path)


def old_checkpoints(plan: Plan, *, keep_final: bool) -> list[Leftover]:
    """Checkpoints of runs that are over, except those that a process is using.

    Args:
        plan: of the sweep.
        keep_final: keep the newest checkpoint of every done run, for fine-tuning, and of every
            failed run, for a retry; that of a diverged run is not needed.
    """
    found: list[Leftover] = []
    for planned in plan.runs:
        with suppress(OSError):  # a folder that this user may not list, or that was removed
            found += _of_run(planned, keep_final)
    return found


def _of_run(planned: PlannedRun, keep_final: bool) -> list[Leftover]:
    folder, state = planned.folder, run_state(planned).state
    if state not in ("done", "diverged", "failed") or folder.locked():
        return []
    if not _is_folder(folder.path) or not _is_folder(folder.checkpoints):
        return []
    keep_newest = keep_final and state != "diverged"
    paths = _all_but_newest(folder.checkpoints) if keep_newest else _all(folder.checkpoints)
    return [Leftover.at(path, folder.path.parent) for path in paths]


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _all_but_newest(checkpoints: Path) -> list[Path]:
    return sorted([*clean_checkpoints(checkpoints)[:-1], *broken_checkpoints(checkpoints)])


def _all(checkpoints: Path) -> list[Path]:
    """The folder itself, or all checkpoints in it if it has other content."""
    if holds_only_checkpoints(checkpoints):
        return [checkpoints]
    return [*clean_checkpoints(checkpoints), *broken_checkpoints(checkpoints)]


def idle_trunks(plan: Plan, runs: Path) -> list[Leftover]:
    """Trunk states that no run needs according to this plan and to the plans of all launchers."""
    needed = _needed_states(runs)
    for job in (job for role in (GRID, HELDOUT) for job in jobs_of(plan.runs_of_role(role))):
        if job.trunk is not None and job.begins is not None and not job.over():
            needed.add((job.trunk.path.name, job.begins))
    needed_trunks = {name for name, _ in needed}
    found: list[Leftover] = []
    trunks = runs / TRUNKS_FOLDER
    for path in sorted(trunks.iterdir()) if _is_folder(trunks) else ():
        if not is_run_id(path.name) or not _is_folder(path):
            continue
        with suppress(OSError):  # as above
            idle = [state for state in clean_checkpoints(path)
                    if (path.name, int(state.name)) not in needed]
            unneeded = idle if path.name in needed_trunks else _all(path)
            found += [Leftover.at(p, runs) for p in unneeded]
    return found


def _needed_states(runs: Path) -> set[tuple[str, int]]:
    """(trunk, step) that runs which are not over need, from the plans of launchers. A trunk is
    identified by the name of its folder, because the path may be relative to the working directory
    of the launcher."""
    return {(job.trunk.path.name, job.begins)
            for path in (runs / "logs").glob(f"*{PLAN_SUFFIX}")
            for job in read_plan(path).jobs
            if job.trunk is not None and job.begins is not None and not job.over()}
