"""Stopping the local launchers of a sweep, and workers whose launcher is gone."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from scaling.errors import UserError
from scaling.launch.launcher import WORKER_MODULE
from scaling.launch.worker_plan import read_plan

_PROCESSES = Path("/proc")
_PARENT = "--parent"


@dataclass(frozen=True)
class Worker:
    """A worker process on this machine."""

    pid: int
    launcher: int | None
    """The process that started it, and would replace it; None if that process is gone."""
    ours: bool = True
    """Whether both belong to this user; command lines of other users' processes are not trusted."""


def local_workers(plan: Path) -> list[Worker]:
    """The workers of a plan that local launchers have started on this machine, found by their
    command lines.

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
            if WORKER_MODULE not in words:
                continue
            its_plan = (process / "cwd").readlink() / words[words.index(WORKER_MODULE) + 1]
            if its_plan.resolve() != plan.resolve():
                continue
            named = words[words.index(_PARENT) + 1]  # other launchers start workers without it
            started_by = _parent(process)
            launcher = started_by if str(started_by) == named and started_by > 1 else None
            ours = all(_PROCESSES.joinpath(str(pid)).stat().st_uid == os.getuid()
                       for pid in (int(process.name), launcher) if pid is not None)
        except (OSError, RuntimeError, ValueError, IndexError):
            continue  # it has ended, belongs to another user, or is another launcher's
        found.append(Worker(int(process.name), launcher, ours))
    return found


def _parent(process: Path) -> int:
    for line in (process / "status").read_text(encoding="utf-8").splitlines():
        if line.startswith("PPid:"):
            return int(line.split()[1])
    raise ValueError(f"{process}: names no parent")


def ask_to_stop(workers: list[Worker]) -> dict[int, int]:
    """Ask launchers to stop, which stop their workers, and workers without a launcher.

    Returns:
        Number of workers that each signalled process stops, by its process id.

    Raises:
        UserError: another user's process trains the sweep too. This user's have been asked.
    """
    asked: dict[int, int] = {}
    for worker in workers:
        if worker.ours:
            pid = worker.launcher or worker.pid
            asked[pid] = asked.get(pid, 0) + 1
    others = [worker.pid for worker in workers if not worker.ours]
    for pid in asked:
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            continue  # it was about to end anyway
        except PermissionError:
            others.append(pid)
    if others:
        raise UserError(f"process {others[0]} trains this sweep and belongs to another user; ask "
                        "them to stop it. All processes of yours have been asked")
    return asked


def held(plan: Path) -> int:
    """Number of runs of a plan that a process is training, on any machine."""
    return sum(job.folder.locked() for job in read_plan(plan).jobs)
