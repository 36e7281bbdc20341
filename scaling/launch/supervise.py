"""Workers of any launcher, from their start until their jobs are over: lost workers are replaced,
and a stop request is passed on. What the jobs are, runs (train.py) or pieces of a corpus
(prepare.py), is the caller's concern."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scaling.errors import UserError
from scaling.files import open_regular
from scaling.launch import disk_full
from scaling.launch.launcher import Launcher, WorkerGroup, WorkerStatus, last_line
from scaling.launch.worker import REFUSED, STOPPED

LOST_AT_MOST = 5
"""Most workers that may die in succession without a job being completed."""

_STOP_SECONDS = 0.1  # between two looks for a stop request
_LAST_BYTES = 2**16  # of a worker's log, in which its last line is

Notify = Callable[[str], None]
"""Called with a message for the user."""


@dataclass(frozen=True)
class JobCounts:
    """The progress of the jobs of a plan."""

    over: int
    left: int
    """Jobs that workers can still do."""
    free: Callable[[], bool]
    """Whether one of them is held by no worker."""


@dataclass(frozen=True)
class Supervisor:
    """Starts the workers of one group, and waits for their jobs."""

    launcher: Launcher
    group: WorkerGroup
    workers: int
    """Number of workers of the group, from `Launcher.count_workers`."""
    measure: Callable[[], JobCounts]
    """Returns the present progress; called at every poll."""
    asked_to_stop: Callable[[], int | None]
    """Returns the signal that asked to stop, or None."""
    disk_full_error: Callable[[Path], Exception]
    """Maps the log of a worker whose disk is full to the error to raise."""
    noun: Literal["run", "part"]
    """What a job is called in messages."""
    replace_all: bool = False
    """Whether workers are also replaced if the launcher starts lost ones again by itself; it does
    not if the process was killed, for example when memory ran out."""
    notify: Notify = lambda text: None

    def start(self, left: int, write_plan: Callable[[], object]) -> list[WorkerStatus]:
        """Start the workers that are missing.

        One worker is needed for each job that is left, up to `workers`. Those of earlier commands
        count if the launcher is detached.

        Args:
            left: number of jobs that are left.
            write_plan: writes the plan; called if workers have to be started.

        Returns:
            All workers.

        Raises:
            UserError: workers cannot be started or listed.
        """
        there = self._earlier()
        if there:
            self.notify(f"{len(there)} worker(s) are queued or running already "
                        f"({_names(there)})")
        missing = min(self.workers, left) - len(there)
        if missing <= 0:
            self.notify("nothing submitted: these are enough")
            return there
        write_plan()
        new = self.launcher.submit(self.group, missing, self.workers)
        if self.launcher.detached:
            self.notify(f"submitted {len(new)} worker(s) ({_names(new)}); their output is in "
                        f"{new[0].log if len(new) == 1 else new[0].log.parent}")
        return [*there, *new]

    def _earlier(self) -> list[WorkerStatus]:
        if not self.launcher.detached:
            return []
        return [each for each in self.launcher.status(self.group) if each.state != "ended"]

    def wait(self, started: list[WorkerStatus]) -> int | None:
        """Wait until no job is left, or a stop is asked for; meanwhile replace lost workers. If the
        launcher replaces them itself, wait until no worker is left either.

        A launcher that does not answer is asked again later.

        Args:
            started: the workers.

        Returns:
            The signal that asked to stop, or None.

        Raises:
            UserError: a worker refuses to begin, or workers die repeatedly without completing a
                job.
            Exception: from `measure`, or from `disk_full_error`.
        """
        known = {each.worker: each for each in started}
        replaces = self.replace_all or not self.launcher.requeues
        lost, over_before = 0, self.measure().over
        while True:
            if number := self._pause():
                return number
            ended = self._ended(known)
            now = self.measure()
            if not now.left:
                return None
            lost, over_before = (0 if now.over > over_before else lost), now.over
            if not replaces:
                if not known:
                    return None
                continue
            died = [each for each in ended if self._has_died(each, now)]
            lost += sum(each.exit_status != STOPPED for each in died)
            if lost > LOST_AT_MOST:
                raise UserError(
                    f"workers died {lost} times without completing a {self.noun}"
                    + _exit_status(died[-1]) + f"; see the last one's log, {died[-1].log}"
                )
            missing = min(self.workers, now.left) - len(known)
            # Workers end when others hold all jobs that are left; one may have been released.
            if missing > 0 and (died or now.free()):
                new = self.launcher.submit(self.group, missing, self.workers)
                known |= {each.worker: each for each in new}

    def stop(self, seconds: float | None = None) -> bool:
        """Ask the workers to save and exit, and wait until they have.

        Args:
            seconds: longest time to wait; None for no limit.

        Returns:
            Whether all of them have ended.
        """
        until = None if seconds is None else time.monotonic() + seconds
        self.launcher.cancel(self.group)
        while any(each.state != "ended" for each in self.launcher.status(self.group)):
            if until is not None and time.monotonic() > until:
                return False
            # Not to ask a scheduler ten times a second.
            time.sleep(self.launcher.poll_seconds if self.launcher.detached else _STOP_SECONDS)
        return True

    def _pause(self) -> int | None:
        until = time.monotonic() + self.launcher.poll_seconds
        while (left := until - time.monotonic()) > 0:
            if number := self.asked_to_stop():
                return number
            time.sleep(min(_STOP_SECONDS, left))
        return self.asked_to_stop()

    def _ended(self, known: dict[str, WorkerStatus]) -> list[WorkerStatus]:
        """The workers that have ended since the last call; they are removed from `known`."""
        try:
            reported = {each.worker: each for each in self.launcher.status(self.group)}
        except UserError:
            return []
        living = {name: each for name, each in reported.items() if each.state != "ended"}
        ended = [reported.get(name, each) for name, each in known.items() if name not in living]
        known.clear()
        known.update(living)
        return ended

    def _has_died(self, ended: WorkerStatus, now: JobCounts) -> bool:
        """Whether a worker that has ended should be replaced."""
        if ended.exit_status == disk_full.STATUS:
            raise self.disk_full_error(ended.log)
        if ended.exit_status == REFUSED:
            reason = last_line(_tail(ended.log), f"see {ended.log}")
            raise UserError(f"a worker could not begin: {reason}")
        # Where the exit status is not known, a worker that leaves nothing to do has not died.
        return now.free() if ended.exit_status is None else ended.exit_status != 0


def _tail(log: Path) -> str:
    try:
        with open_regular(log) as file:
            file.seek(-min(file.seek(0, os.SEEK_END), _LAST_BYTES), os.SEEK_END)
            return file.read().decode("utf-8", errors="replace")
    except (OSError, UserError):  # such as the folder of the logs
        return ""


def _exit_status(ended: WorkerStatus) -> str:
    return "" if ended.exit_status is None else f" (exit status {ended.exit_status})"


def _names(workers: list[WorkerStatus]) -> str:
    names = [each.worker for each in workers]
    return ", ".join(names) if len(names) <= 8 else f"{names[0]} to {names[-1]}"
