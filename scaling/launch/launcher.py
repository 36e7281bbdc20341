"""The launcher protocol: what the commands ask of the local launcher, of Slurm's and of those that
other packages add.

A launcher starts identical workers, reports which of them are queued or running, and asks them to
stop. It neither divides the jobs nor knows their state: workers claim jobs by leases on a shared
file system (scaling/runs/lease.py), and the folders of the jobs hold their state.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from scaling.config import Config, validate
from scaling.launch.worker_plan import PLAN_SUFFIX

WORKER_MODULE = "scaling.launch.worker"


@dataclass(frozen=True)
class WorkerGroup:
    """Identical workers that share the jobs of one plan; all run the same command."""

    logs: Path
    """Folder of the plan and of the logs of the workers, which all machines share."""
    name: str
    """Name of the sweep and stage: file names in `logs` begin with it, and jobs have it."""
    suffix: str = PLAN_SUFFIX
    """End of the plan's file name, by which a worker knows the kind of its jobs."""

    @property
    def plan(self) -> Path:
        """Path of the plan: the file of jobs."""
        return self.logs / f"{self.name}{self.suffix}"

    def command(self) -> list[str]:
        """The command of a worker, to be run in the working folder of this process.

        SIGTERM asks the worker to save and exit. Its exit statuses are in scaling/launch/worker.py.
        """
        return [sys.executable, "-m", WORKER_MODULE, str(self.plan)]


@dataclass(frozen=True)
class WorkerStatus:
    """A worker as its launcher sees it."""

    worker: str
    """The launcher's name for it, such as a process id or a job number."""
    state: Literal["queued", "running", "ended"]
    log: Path
    """Its log, or the folder of the logs."""
    exit_status: int | None = None
    """Exit status of a worker that has ended, if the launcher knows it."""


class Launcher(Protocol):
    """Starts, lists and stops workers."""

    @property
    def detached(self) -> bool:
        """Whether workers go on when the command that started them ends. Otherwise the command
        stops them, and only its own workers count for it."""

    @property
    def requeues(self) -> bool:
        """Whether the launcher itself starts a lost worker again. Otherwise the command that waits
        for the workers replaces it."""

    @property
    def poll_seconds(self) -> float:
        """Time between two calls of `status` while a command waits."""

    def count_workers(self, requested: int | None, jobs: int) -> int:
        """Number of workers for some jobs.

        Args:
            requested: number that the user asked for; None for the launcher's default.
            jobs: number of jobs that they share, those that are over included.

        Raises:
            UserError: workers cannot be started: more than there are cores, an invalid option, or a
                missing program.
        """

    def submit(self, group: WorkerGroup, count: int, total: int) -> list[WorkerStatus]:
        """Start workers; the plan of the group has been written.

        The standard output and error of a worker go to the file NAME.worker-ID.log in the folder
        of the logs, with the name of the group and an ID that the launcher chooses: `scaling sweep
        log` and `status` read files of this name.

        Args:
            group: the group to which they belong.
            count: number of workers to start now.
            total: number of workers of the whole group, as returned by `count_workers`.

        Raises:
            UserError: the workers cannot be started.
        """

    def status(self, group: WorkerGroup, *, others: bool = False) -> list[WorkerStatus]:
        """The workers of a group that are queued or running. One that has ended may be reported
        with its exit status; one that is not reported has ended.

        Args:
            group: the group.
            others: list the workers that any process on this machine has started, not those of this
                object. A detached launcher always lists all workers.

        Raises:
            UserError: they cannot be listed, such as when a scheduler does not answer.
        """

    def cancel(self, group: WorkerGroup, *, others: bool = False) -> list[str]:
        """Ask the workers that `status` lists to save and exit, without waiting for them.

        Returns:
            What has been asked, for a message: processes or jobs.

        Raises:
            UserError: some of them cannot be asked; all others have been.
        """


@dataclass(frozen=True)
class LauncherKind:
    """One entry of the list of launchers."""

    name: str
    """The name that `--launcher` takes."""
    text: str
    """What its workers are, for messages."""
    options: type[Config]
    """Its options. All have defaults, because `scaling sweep status` and `cancel` pass none."""
    make: Callable[[Any], Launcher]
    """Maps valid options to a launcher."""

    def open(self, **options: Any) -> Launcher:
        """The launcher with some options.

        Raises:
            UserError: an option is unknown or invalid.
        """
        return self.make(validate(self.options, options, f"--launcher {self.name}"))


def last_line(text: str, otherwise: str) -> str:
    """The last line of an error message or a log that is not blank; `otherwise` if there is none.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else otherwise
