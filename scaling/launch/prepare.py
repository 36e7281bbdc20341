"""The tasks of `scaling data prepare` done by the workers of any launcher.

    from scaling.data.prepare import prepare
    from scaling.launch.prepare import LaunchedTasks
    from scaling.launch.registry import find_launcher

    slurm = find_launcher("slurm").open(partition="cpu", time=120)
    prepare(source, "bpe", 32768, out, run_tasks=LaunchedTasks(slurm, workers=16))

Each phase submits workers, which share the file system with this process. The store is the same to
the byte as with one process.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.data.prepare.tasks import LOGS, PieceTask, TaskBatch, piece_of, write_tasks
from scaling.data.prepare.workers import ReportBytes, WorkerDied
from scaling.errors import UserError
from scaling.files import blame
from scaling.launch.launcher import Launcher, WorkerGroup
from scaling.launch.piece_worker import claims_folder, error_path, read_error
from scaling.launch.supervise import JobCounts, Notify, Supervisor
from scaling.launch.worker_plan import TASKS_SUFFIX
from scaling.runs.lease import is_free, lease_seconds
from scaling.training.signals import stop_requests

ENDING_SECONDS = 120.0
"""Longest time to wait until the workers of a phase have ended."""
UNSEEN_SECONDS = 60.0
"""Time after which a task whose files do not match its note is done again. Until then this machine
may not see yet what another one has written (NFS caches directories for 60 s, nfs(5))."""


@dataclass(frozen=True)
class LaunchedTasks:
    """Runs the tasks of each phase by workers of a launcher: `run_tasks` of `prepare`.

    Ctrl-C or SIGTERM cancels the workers, and then has its usual effect. Finished pieces are kept,
    and the same call continues.
    """

    launcher: Launcher
    workers: int | None = None
    """Number of workers; None for the launcher's default."""
    notify: Notify = lambda text: None
    """Called with messages about the workers."""

    def __call__(self, batch: TaskBatch, report_bytes: ReportBytes) -> list[dict[str, Any]]:
        """The results of the tasks, in order.

        Raises:
            UserError: from a task, or the workers cannot be started.
            OSError: from a task.
            WorkerDied: workers died repeatedly.
        """
        group = WorkerGroup(batch.work / LOGS, f"prepare-{batch.kind}", TASKS_SUFFIX)
        phase = _Phase(batch, group, report_bytes)
        try:
            stopped_by = self._run(phase)
        except UserError as error:
            if error is phase.error:
                raise
            raise WorkerDied(str(error)) from None  # not the corpus: finished parts are kept
        if stopped_by:
            self.notify("the workers are cancelled; finished parts are kept, and the same command "
                        "continues")
            signal.raise_signal(stopped_by)
            raise KeyboardInterrupt  # where a handler returns
        return phase.results()

    def _run(self, phase: _Phase) -> int | None:
        lease_seconds()  # checked here once, instead of by each worker
        tasks, group = phase.batch.tasks, phase.group
        count = self.launcher.count_workers(self.workers, len(tasks))
        phase.clear()
        with stop_requests() as requested:
            supervisor = Supervisor(
                self.launcher, group, count, phase.measure, requested, phase.disk_full, "part",
                replace_all=True, notify=self.notify)
            try:
                started = supervisor.start(
                    len(tasks), lambda: write_tasks(phase.batch, group.plan))
                return supervisor.wait(started)
            finally:
                self._stop(supervisor)

    def _stop(self, supervisor: Supervisor) -> None:
        """End the workers: none may write when the work folder becomes the store, or is removed."""
        try:
            if not supervisor.stop(ENDING_SECONDS):
                self.notify(f"some workers of {supervisor.group.name} have not ended yet")
        except UserError as error:
            self.notify(f"the workers of {supervisor.group.name} may go on for a while: {error}")


class _Phase:
    """The progress of a phase, read from the work folder."""

    def __init__(self, batch: TaskBatch, group: WorkerGroup, report_bytes: ReportBytes) -> None:
        self.batch, self.group = batch, group
        self.error: Exception | None = None
        """The error of a task."""
        self._failed, self._report_bytes = error_path(group.plan), report_bytes
        self._results: dict[str, dict[str, Any]] = {}
        self._unseen: dict[str, float] = {}
        """When a task was first found whose files do not match its note."""

    def clear(self) -> None:
        """Remove what an earlier attempt left of these tasks."""
        with blame(self.batch.out):
            self.group.logs.mkdir(exist_ok=True)
            self._failed.unlink(missing_ok=True)
        for task in self.batch.tasks:
            task.step.discard()

    def measure(self) -> JobCounts:
        """Collect the results of tasks that are over.

        Raises:
            Exception: the error of a task.
        """
        self.error = read_error(self._failed, self.group.logs)
        if self.error is not None:
            if isinstance(self.error, OSError) and self.error.filename == os.path.abspath(
                    self.batch.out):
                self.error.filename = str(self.batch.out)  # as the user named it
            raise self.error
        for task in self._left():
            if not task.step.noted():
                continue
            name, result = task.step.name, task.step.load_result()
            if result is not None:
                self._results[name] = result
                self._report_bytes(piece_of(task).size)
            elif time.monotonic() - self._unseen.setdefault(name, time.monotonic()) > (
                    UNSEEN_SECONDS):
                del self._unseen[name]
                task.step.discard()
        left = self._left()
        # A task that is done is noted before its lease is released.
        return JobCounts(len(self._results), len(left), lambda: any(
            is_free(claims_folder(task)) and not task.step.noted() for task in left))

    def results(self) -> list[dict[str, Any]]:
        """The results of all tasks, in order."""
        return [self._results[task.step.name] for task in self.batch.tasks]

    def disk_full(self, log: Path) -> Exception:
        """The error for a worker whose disk is full."""
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.batch.out))

    def _left(self) -> list[PieceTask]:
        return [task for task in self.batch.tasks if task.step.name not in self._results]
