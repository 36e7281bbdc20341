"""The Slurm launcher: an array of jobs, each a worker.

    LOGS/NAME.plan.json     the jobs for the workers, such as the runs of a sweep
    LOGS/NAME.slurm.json    the Slurm jobs that were submitted for it
    LOGS/NAME.slurm/        submitit's files, and the output of each worker (*_log.out, *.err)

Slurm is queried only for the jobs that are still queued or running. Whether a run is over is read
from its folder. A job that is pre-empted, or whose wall time ends, saves and is requeued
(`scaling.launch.slurm_worker`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from scaling.config import Config
from scaling.config.base import Count, NonNegativeInt
from scaling.errors import UserError
from scaling.files import read_json, write_atomically
from scaling.launch.launcher import LauncherKind, WorkerGroup, WorkerStatus, last_line
from scaling.launch.slurm_worker import QUEUE_SECONDS, SlurmWorker

if TYPE_CHECKING:
    from submitit import SlurmExecutor

POLL_SECONDS = 3.0
WARNING_SECONDS = 120
"""Time before the end of the wall time at which a worker is told to save; at most a quarter of the
wall time. Slurm may send the signal up to a minute earlier."""
WALL_TIMES = 1000
"""Most times that a job is requeued at the end of its wall time."""
_JOB = re.compile(r"[0-9]{1,18}")
OURS = {
    "account": "--account", "array": "--workers", "cpus-per-task": "--cpus-per-run",
    "gpus-per-node": "--gpus-per-run", "nodes": "--nodes-per-run", "ntasks-per-node": None,
    "partition": "--partition", "time": "--time", "job-name": None, "output": None, "error": None,
    "open-mode": None, "requeue": None, "signal": None, "wckey": None,
}
"""Options of sbatch that are set here, with the option of ours that sets each."""


class SlurmOptions(Config):
    """Resources to request of Slurm."""

    partition: str | None = None
    """Partition; by default the cluster's default."""
    account: str | None = None
    """Account to charge; by default the user's default."""
    time: Annotated[Count, Field(le=10**7)] = 60
    """Wall time of a job in minutes; a run may take longer."""
    gpus_per_run: NonNegativeInt = 0
    """GPUs of a worker, which trains one run at a time."""
    cpus_per_run: Count | None = None
    """Cores of a worker; by default one on each of its nodes."""
    nodes_per_run: Count = 1
    """Nodes of a worker, on which it trains one run together."""
    sbatch: tuple[str, ...] = ()
    """Further options of sbatch, each as key=value, or key for one without a value."""


def sbatch_options(given: Iterable[str]) -> dict[str, str | bool]:
    """Options of sbatch from "key=value", or "key" for one without a value.

    Raises:
        UserError: a key is not the name of an option, or is set by the launcher.
    """
    options: dict[str, str | bool] = {}
    for text in given:
        key, equals, value = text.partition("=")
        key = key.removeprefix("--").replace("_", "-")
        if not re.fullmatch(r"[a-z][a-z0-9-]*", key):
            raise UserError(
                f"--slurm {text}: expected an option of sbatch as key=value, such as qos=high"
            )
        if key in OURS:
            fix = f"use {OURS[key]}" if OURS[key] else "leave it out"
            raise UserError(f"--slurm {text}: {key} is set by the launcher; {fix}")
        options[key] = value if equals else True
    return options


@dataclass(frozen=True)
class SlurmLauncher:
    """Submits arrays of jobs, which go on without this process; each is a worker."""

    options: SlurmOptions = field(default_factory=SlurmOptions)

    detached, requeues = True, True
    poll_seconds = POLL_SECONDS

    def count_workers(self, requested: int | None, jobs: int) -> int:
        """The number that was asked for, which has no default.

        Raises:
            UserError: the number, sbatch or submitit is missing, or an option is invalid.
        """
        if requested is None:
            raise UserError(
                "--launcher slurm: needs the number of concurrent jobs, such as --workers 4"
            )
        _resources(self.options)
        sbatch_options(self.options.sbatch)
        _ask("sbatch", "--version")
        try:
            import submitit  # noqa: F401
        except ImportError:
            raise UserError(
                "--launcher slurm needs submitit; pip install 'scaling[slurm]'") from None
        return requested

    def submit(self, group: WorkerGroup, count: int, total: int) -> list[WorkerStatus]:
        """Submit an array of workers.

        Raises:
            UserError: sbatch refuses, or Slurm does not answer; the message quotes it. Or the
                folder of the workers is not safe.
        """
        there = [each.worker for each in self.status(group)]
        executor, worker = _prepare(self.options, group)
        array, jobs = _sbatch(executor, worker, count)
        arrays = [*_arrays(there), array]
        write_atomically(_jobs_path(group), json.dumps({"jobs": arrays}) + "\n")
        return [WorkerStatus(job, "queued", _log(group, job)) for job in jobs]

    def status(self, group: WorkerGroup, *, others: bool = False) -> list[WorkerStatus]:
        """The jobs that are queued, running or completing, named ARRAY_INDEX, or by a number alone
        if the array had only one.

        Raises:
            UserError: Slurm does not answer, or the file of jobs cannot be read.
        """
        ours = _submitted(_jobs_path(group))
        if not ours:
            return []
        found = []
        lines = _ask("squeue", "--me", "--array", "--noheader", "--format=%F_%K %T %j")
        for line in lines.splitlines():
            words = line.replace("_N/A", "").split(maxsplit=2)
            # By name too: job numbers of a cluster that is set up again begin at 1.
            if len(words) < 3 or words[2] != group.name or words[0].partition("_")[0] not in ours:
                continue
            found.append(WorkerStatus(words[0], "queued" if words[1] == "PENDING" else "running",
                                      _log(group, words[0])))
        return found

    def cancel(self, group: WorkerGroup, *, others: bool = False) -> list[str]:
        """Cancel the jobs that are queued or running; their workers save first.

        Raises:
            UserError: Slurm does not answer, or refuses.
        """
        jobs = [each.worker for each in self.status(group)]
        if jobs:
            _ask("scancel", *_arrays(jobs))
        return [f"job {job}" for job in jobs]


SLURM = LauncherKind("slurm", "jobs of Slurm", SlurmOptions, SlurmLauncher)
"""The entry of the registry."""


def _folder(group: WorkerGroup) -> Path:
    return group.logs / f"{group.name}.slurm"


def _log(group: WorkerGroup, job: str) -> Path:
    """The standard error of a job's first task, as submitit names it."""
    return _folder(group) / f"{job}_0_log.err"


def _jobs_path(group: WorkerGroup) -> Path:
    return group.logs / f"{group.name}.slurm.json"


def _submitted(path: Path) -> set[str]:
    """The arrays in a file; none if there is no such file."""
    if not os.path.lexists(path):
        return set()
    fix = "move it away, and see `squeue --me` for jobs that are still there"
    jobs = read_json(path, fix).get("jobs")
    if isinstance(jobs, list) and all(
            isinstance(job, str) and _JOB.fullmatch(job) for job in jobs):
        return set(jobs)
    raise UserError(f"{path}: is not a list of Slurm jobs; {fix}")


def _arrays(jobs: Sequence[str]) -> list[str]:
    return sorted({job.partition("_")[0] for job in jobs})


def _ask(*command: str) -> str:
    """The output of a command of Slurm."""
    if shutil.which(command[0]) is None:
        raise UserError(
            f"{command[0]}: not found; run this on a machine where Slurm's commands are, or use "
            "--launcher local"
        )
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=QUEUE_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"{command[0]}: no answer in {QUEUE_SECONDS:.0f} s; try again when Slurm's controller "
            "is up (scontrol ping)"
        ) from None
    if answer.returncode:
        raise UserError(
            f"{' '.join(command)}: {answer.stderr.strip() or 'no message'}; try again when Slurm "
            "answers (scontrol ping)"
        )
    return answer.stdout


def _resources(options: SlurmOptions) -> tuple[int, int]:
    """Cores and GPUs of a worker on each of its nodes."""
    nodes = options.nodes_per_run
    shares = []
    for what, count in (("cpus", options.cpus_per_run or nodes), ("gpus", options.gpus_per_run)):
        if count % nodes:
            raise UserError(
                f"--{what}-per-run {count}: cannot be shared evenly by {nodes} nodes; choose a "
                "multiple of --nodes-per-run"
            )
        shares.append(count // nodes)
    return shares[0], shares[1]


def _prepare(options: SlurmOptions, group: WorkerGroup) -> tuple[SlurmExecutor, SlurmWorker]:
    """The executor that submits the workers, and a worker."""
    from submitit import SlurmExecutor

    cores, gpus = _resources(options)
    folder = _own_folder(_folder(group))
    executor = SlurmExecutor(folder.absolute(), max_num_timeout=WALL_TIMES)
    wanted = {
        "job_name": group.name, "partition": options.partition, "account": options.account,
        "time": options.time, "nodes": options.nodes_per_run, "ntasks_per_node": 1,
        "cpus_per_task": cores, "gpus_per_node": gpus or None,
        "signal_delay_s": min(WARNING_SECONDS, options.time * 60 // 4),
        # srun no longer reads sbatch's --cpus-per-task (Slurm 22.05, release notes).
        "srun_args": [f"--cpus-per-task={cores}", "--kill-on-bad-exit=1"],
        "additional_parameters": {"requeue": True, **sbatch_options(options.sbatch)},
    }
    executor.update_parameters(**{k: v for k, v in wanted.items() if v is not None})
    plan = str(group.plan.absolute())
    return executor, SlurmWorker(plan, cores, on_gpu=gpus > 0, nodes=options.nodes_per_run)


def _own_folder(path: Path) -> Path:
    """The folder from which jobs unpickle the worker.

    Raises:
        UserError: it belongs to another user, is a link, or is writable for others.
    """
    path.mkdir(mode=0o755, parents=True, exist_ok=True)
    about = path.lstat()
    others_write = about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if stat.S_ISLNK(about.st_mode) or others_write or about.st_uid != os.geteuid():
        raise UserError(f"{path}: jobs run what they find there, and it is a link, or others may "
                        "write to it; move it away, or chmod go-w it")
    return path


def _sbatch(
    executor: SlurmExecutor, worker: SlurmWorker, count: int
) -> tuple[str, list[str]]:
    """Submit `count` workers; returns the number of the array, and the names of its jobs."""
    from submitit.core.utils import FailedJobError

    try:
        with executor.batch():
            jobs = [executor.submit(worker) for _ in range(count)]
    except FailedJobError as error:
        raise UserError(
            f"sbatch refused the jobs: {last_line(str(error), 'no message')}; correct the options, "
            "or see sinfo for what there is"
        ) from None
    names = [str(job.job_id) for job in jobs]
    return names[0].partition("_")[0], names
