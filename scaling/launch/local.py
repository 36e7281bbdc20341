"""The local launcher: worker processes that share the cores or GPUs of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scaling.errors import UserError
from scaling.files import open_no_follow
from scaling.launch import disk_full
from scaling.launch.jobs import clear_trunks, jobs_of
from scaling.launch.worker import REFUSED, STOPPED
from scaling.launch.worker_plan import write_plan
from scaling.runs.lease import lease_seconds
from scaling.runs.planned import PlannedRun
from scaling.runs.state import RunState, run_state

POLL_SECONDS = 0.5
LOST_AT_MOST = 5
"""Most workers that may die in succession without a run being completed."""

_LAST_BYTES = 2**16  # of a worker's log, in which its last line is


@dataclass
class Share:
    """The cores and GPU of a worker."""

    cores: list[int]
    gpu: str | None
    process: subprocess.Popen[bytes] | None = None


def shares(workers: int | None, runs: int) -> list[Share]:
    """The machine in equal parts: GPUs if there are any, otherwise cores.

    By default there are as many workers as GPUs, or cores; never more than runs. The last bits of a
    run's results may depend on its number of cores, so the split depends on all runs of a stage,
    not on those that are left: an interrupted sweep continues with the same split.

    Raises:
        UserError: more workers than there are cores.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = sorted(affinity(0)) if affinity else list(range(os.cpu_count() or 1))
    gpus = _gpus()
    if workers is not None and workers > len(cores):
        raise UserError(f"--workers {workers}: there are {len(cores)} cores; ask for fewer")
    count = max(1, min(workers or len(gpus) or len(cores), runs))
    each = len(cores) // count
    return [
        Share(cores[i * each : (i + 1) * each], gpus[i % len(gpus)] if gpus else None)
        for i in range(count)
    ]


def _gpus() -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip()]
    devices = Path("/dev").glob("nvidia[0-9]*")
    return sorted(path.name.removeprefix("nvidia") for path in devices)


def launch(
    runs: Sequence[PlannedRun],
    workers: int | None,
    logs: Path,
    name: str,
    asked_to_stop: Callable[[], int | None],
    watch: Callable[[Sequence[RunState]], None],
    pack: str | int = "auto",
) -> int | None:
    """Train the runs in worker processes until all are over or a stop is asked for.

    A worker that dies is replaced, and its run continues from its newest checkpoint. Runs that
    other launchers train are waited for, and taken over if they are released.

    Args:
        runs: in the order in which they are to be claimed.
        workers: number of processes, or None for the default (see `shares`).
        logs: folder for the plan and the logs of the workers.
        name: of the sweep and stage, for file names.
        asked_to_stop: returns the signal that asked to stop, or None.
        watch: called regularly with the states of the runs.
        pack: number of runs of one shape trained side by side (SweepConfig.pack).

    Returns:
        The signal that asked to stop, or None.

    Raises:
        UserError: SCALING_LEASE_SECONDS is invalid, the disk is full, a log is not a regular file,
            a worker refuses to begin, or workers die repeatedly without completing a run.
    """
    lease_seconds()  # checked here once, instead of by each worker
    jobs = jobs_of(runs)
    parts = shares(workers, len(runs))
    plan = write_plan(jobs, logs, name, pack, len(parts))
    log_paths = [logs / f"{name}.worker-{i}.log" for i in range(len(parts))]
    lost, over_before = 0, 0
    now = [run_state(p) for p in runs]
    try:
        while not all(s.over or not _writable(p) for p, s in zip(runs, now, strict=True)):
            if number := asked_to_stop():
                return number
            over = sum(s.over for s in now)
            lost, over_before = (0 if over > over_before else lost), over
            for part, log_path in zip(parts, log_paths, strict=True):
                status = part.process.poll() if part.process else None
                if part.process is None or status not in (None, 0):
                    if status == disk_full.STATUS:
                        raise disk_full.disk_full_error(logs.parent, log_path)
                    if status == REFUSED:
                        raise UserError(f"a worker could not begin: {_last_line(log_path)}")
                    lost += status not in (None, STOPPED)
                    if lost > LOST_AT_MOST:
                        raise UserError(
                            f"workers died {lost} times without completing a run (exit status "
                            f"{status}); see the last one's log, {log_path}"
                        )
                    part.process = _start(part, plan, log_path)
            time.sleep(POLL_SECONDS)
            now = [run_state(p) for p in runs]
            watch(now)
            idle = [part for part in parts if part.process and part.process.poll() == 0]
            if idle and any(p.folder.free() for p, s in zip(runs, now, strict=True)
                            if not s.over and _writable(p)):
                # Workers end when others hold all runs that are left; one has been released.
                idle[0].process = None
    finally:
        _stop(parts)
        clear_trunks(jobs)
    return None


def _last_line(log_path: Path) -> str:
    with log_path.open("rb") as log:
        log.seek(-min(log.seek(0, os.SEEK_END), _LAST_BYTES), os.SEEK_END)
        lines = log.read().decode("utf-8", errors="replace").splitlines()
    return lines[-1].removeprefix("error: ") if lines else f"see {log_path}"


def _writable(planned: PlannedRun) -> bool:
    """Whether this user may write to the folder of a run."""
    path = planned.folder.path
    return not path.exists() or os.access(path, os.W_OK | os.X_OK)


def _start(part: Share, plan: Path, log_path: Path) -> subprocess.Popen[bytes]:
    command = [
        sys.executable, "-m", "scaling.launch.worker", str(plan),
        "--cores", ",".join(map(str, part.cores)), "--parent", str(os.getpid()),
    ]
    if part.gpu is not None:
        command += ["--gpu", part.gpu]
    with open(log_path, "ab", opener=open_no_follow) as log:
        # In a session of its own: Ctrl-C reaches the launcher alone, which asks each worker once.
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )


def _stop(parts: Sequence[Share]) -> None:
    """Ask every worker to save and exit, and wait for it."""
    running = [part.process for part in parts if part.process and part.process.poll() is None]
    for process in running:
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)  # a stopped process does not receive it
    for process in running:
        process.wait()
