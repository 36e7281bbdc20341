"""Training of the runs of a plan by the workers of any launcher."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from scaling.launch.disk_full import disk_full_error
from scaling.launch.jobs import clear_trunks, jobs_of
from scaling.launch.launcher import Launcher, WorkerGroup
from scaling.launch.local import LocalLauncher
from scaling.launch.supervise import JobCounts, Notify, Supervisor
from scaling.launch.worker_plan import write_plan
from scaling.runs.lease import lease_seconds
from scaling.runs.planned import PlannedRun
from scaling.runs.state import RunState, run_state


def train_runs(
    runs: Sequence[PlannedRun],
    workers: int | None,
    logs: Path,
    name: str,
    asked_to_stop: Callable[[], int | None],
    watch: Callable[[Sequence[RunState]], None],
    pack: str | int = "auto",
    launcher: Launcher | None = None,
    *,
    wait: bool = True,
    notify: Notify = lambda text: None,
) -> int | None:
    """Train runs by workers of a launcher until all are over or a stop is asked for.

    A worker that dies is replaced, here or by the launcher, and its run continues from its newest
    checkpoint. Runs that other launchers train are waited for, and taken over if they are released.
    When a stop is asked for, workers save and exit if they are not detached.

    Args:
        runs: in the order in which they are to be claimed.
        workers: number of workers, or None for the launcher's default.
        logs: folder for the plan and the logs of the workers.
        name: of the sweep and stage, for file names, and as the name of jobs.
        asked_to_stop: returns the signal that asked to stop, or None.
        watch: called regularly with the states of the runs.
        pack: number of runs of one shape trained side by side (SweepConfig.pack).
        launcher: by default processes of this machine.
        wait: False to return once the workers are queued; for detached launchers.
        notify: called with messages about workers that go on without this process.

    Returns:
        The signal that asked to stop, or None.

    Raises:
        UserError: SCALING_LEASE_SECONDS is invalid, the disk is full, a log is not a regular file,
            workers cannot be started, one refuses to begin, or they die repeatedly without
            completing a run.
    """
    lease_seconds()  # checked here once, instead of by each worker
    launcher = LocalLauncher() if launcher is None else launcher
    jobs = jobs_of(runs)
    count = launcher.count_workers(workers, len(runs))
    group = WorkerGroup(logs, name)

    def measure() -> JobCounts:
        now = [run_state(p) for p in runs]
        watch(now)
        left = [p for p, s in zip(runs, now, strict=True) if not s.over and _writable(p)]
        return JobCounts(sum(s.over for s in now), len(left),
                         lambda: any(p.folder.free() for p in left))

    supervisor = Supervisor(
        launcher, group, count, measure, asked_to_stop,
        lambda log: disk_full_error(logs.parent, log), "run", notify=notify)
    left = sum(not run_state(p).over and _writable(p) for p in runs)
    if not left:
        return None
    try:
        started = supervisor.start(left, lambda: write_plan(jobs, logs, name, pack, count))
        return supervisor.wait(started) if wait else None
    finally:
        if not launcher.detached:
            supervisor.stop()
        clear_trunks(jobs)


def _writable(planned: PlannedRun) -> bool:
    """Whether this user may write to the folder of a run."""
    path = planned.folder.path
    return not path.exists() or os.access(path, os.W_OK | os.X_OK)
