"""The local launcher: worker processes that share the cores or GPUs of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from scaling.config import Config
from scaling.errors import UserError
from scaling.files import open_no_follow
from scaling.launch.cancel import Worker, ask_to_stop, local_workers
from scaling.launch.launcher import LauncherKind, WorkerGroup, WorkerStatus
from scaling.launch.worker import available_cores

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Share:
    """The cores and GPU of a worker."""

    cores: list[int]
    gpu: str | None


def shares(workers: int | None, runs: int) -> list[Share]:
    """The machine in equal parts: GPUs if there are any, otherwise cores.

    By default there are as many workers as GPUs, or cores; never more than runs. The last bits of a
    run's results may depend on its number of cores, so the split depends on all runs of a stage,
    not on those that are left: an interrupted sweep continues with the same split.

    Raises:
        UserError: more workers than there are cores.
    """
    cores, gpus = available_cores(), _gpus()
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


class LocalOptions(Config):
    """The local launcher has no options."""


class LocalLauncher:
    """Worker processes of this machine, which stop when this process does.

    RUNS/logs/NAME.worker-I.log is the log of the worker with the I-th share of the machine. A
    worker that replaces another one has the same share.
    """

    detached, requeues = False, False
    poll_seconds = POLL_SECONDS

    def __init__(self, options: LocalOptions | None = None) -> None:
        self._processes: dict[WorkerGroup, dict[int, subprocess.Popen[bytes]]] = {}
        """For each group, the last process of each share."""

    def count_workers(self, requested: int | None, jobs: int) -> int:
        """See `shares`."""
        return len(shares(requested, jobs))

    def submit(self, group: WorkerGroup, count: int, total: int) -> list[WorkerStatus]:
        """Start workers with the first shares that are free.

        Raises:
            UserError: a log is not a regular file.
        """
        processes = self._processes.setdefault(group, {})
        free = [i for i in range(total) if i not in processes or processes[i].poll() is not None]
        parts = shares(total, total)
        for i in free[:count]:
            processes[i] = _start(parts[i], group, _log(group, i))
        return [_status(group, i, processes[i]) for i in free[:count]]

    def status(self, group: WorkerGroup, *, others: bool = False) -> list[WorkerStatus]:
        """See `Launcher.status`.

        Raises:
            UserError: with `others`, this system does not show processes.
        """
        if others:
            return [WorkerStatus(str(worker.pid), "running", group.logs)
                    for worker in _on_this_machine(group) if worker.ours]
        return [_status(group, i, process)
                for i, process in self._processes.get(group, {}).items()]

    def cancel(self, group: WorkerGroup, *, others: bool = False) -> list[str]:
        """See `Launcher.cancel`. With `others`, launchers are asked, which stop their workers.

        Raises:
            UserError: with `others`, this system does not show processes, or another user's process
                works on the plan too.
        """
        if others:
            asked = ask_to_stop(_on_this_machine(group))
            return [f"process {pid} and its {workers} worker(s)" for pid, workers in asked.items()]
        running = [process for process in self._processes.get(group, {}).values()
                   if process.poll() is None]
        for process in running:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
                process.send_signal(signal.SIGCONT)  # a stopped process does not receive it
        return [f"process {process.pid}" for process in running]


LOCAL = LauncherKind("local", "processes of this machine", LocalOptions, LocalLauncher)
"""The entry of the registry."""


def _on_this_machine(group: WorkerGroup) -> list[Worker]:
    return local_workers(group.plan) if group.plan.exists() else []


def _log(group: WorkerGroup, number: int) -> Path:
    return group.logs / f"{group.name}.worker-{number}.log"


def _status(
    group: WorkerGroup, number: int, process: subprocess.Popen[bytes]
) -> WorkerStatus:
    exit_status = process.poll()
    return WorkerStatus(str(process.pid), "running" if exit_status is None else "ended",
                        _log(group, number), exit_status)


def _start(part: Share, group: WorkerGroup, log_path: Path) -> subprocess.Popen[bytes]:
    command = [*group.command(), "--cores", ",".join(map(str, part.cores)),
               "--parent", str(os.getpid())]
    if part.gpu is not None:
        command += ["--gpu", part.gpu]
    with open(log_path, "ab", opener=open_no_follow) as log:
        # In a session of its own: Ctrl-C reaches the launcher alone, which asks each worker once.
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
