"""Asking the local launchers of a sweep, and workers that have lost theirs, to save and stop."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from scaling.errors import UserError
from scaling.sweeps.local import read_plan
from scaling.training.run_folder import RunFolder

_PROCESSES = Path("/proc")
_MODULE, _PARENT = "scaling.sweeps.worker", "--parent"


@dataclass(frozen=True)
class Worker:
    """A worker process on this machine."""

    pid: int
    launcher: int | None
    """The process that started it, and would start another in its place; None if that is gone."""


def local_workers(plan: Path) -> list[Worker]:
    """The workers on this machine that go through a plan, found by their command lines.

    Raises:
        UserError: this system does not show processes in /proc.
    """
    if not (_PROCESSES / "self" / "cmdline").exists():
        raise UserError(
            f"local workers are found in {_PROCESSES}, which this system does not have; press "
            "Ctrl-C where `scaling sweep run` was started"
        )
    found = []
    for process in sorted(_PROCESSES.glob("[0-9]*"), key=lambda path: int(path.name)):
        try:
            words = (process / "cmdline").read_bytes().decode().split("\0")
            if _MODULE not in words:
                continue
            its_plan = (process / "cwd").readlink() / words[words.index(_MODULE) + 1]
            if its_plan.resolve() != plan.resolve():
                continue
            started_by = _parent(process)
        except (OSError, ValueError, IndexError):
            continue  # it has ended, or is somebody else's
        named = words[words.index(_PARENT) + 1] if _PARENT in words else None
        found.append(Worker(
            int(process.name), started_by if str(started_by) == named else None))
    return found


def _parent(process: Path) -> int:
    for line in (process / "status").read_text(encoding="utf-8").splitlines():
        if line.startswith("PPid:"):
            return int(line.split()[1])
    raise ValueError(f"{process}: names no parent")


def ask_to_stop(workers: list[Worker]) -> dict[int, int]:
    """Ask launchers to stop, who then ask their workers, and workers without one.

    Returns:
        How many of the workers each process that was asked speaks for, by its number.
    """
    asked: dict[int, int] = {}
    for worker in workers:
        pid = worker.launcher or worker.pid
        asked[pid] = asked.get(pid, 0) + 1
    for pid in asked:
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            continue  # it was about to end anyway
        except PermissionError:
            raise UserError(
                f"process {pid} trains this sweep and belongs to another user; ask them to stop it"
            ) from None
    return asked


def held(plan: Path, runs: Path) -> int:
    """How many runs of a plan some process is training, here or elsewhere."""
    entries = read_plan(plan)
    return sum(RunFolder(runs / Path(entry["folder"]).name).locked() for entry in entries)
