"""The Slurm launcher: an array of jobs, each a worker that trains runs of the plan.

    runs/logs/NAME.plan.json     the runs, as jobs for workers
    runs/logs/NAME.slurm.json    the Slurm jobs that were submitted for it
    runs/logs/NAME.slurm/        submitit's files, and the output of each worker (*_log.out, *.err)

Slurm is queried only for the jobs that are still queued or running, so that no surplus is
submitted. The state of a run is read from its folder. A job that is pre-empted, or whose wall time
ends, saves and is requeued (`scaling.launch.slurm_worker`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from scaling.errors import UserError
from scaling.files import read_json, write_atomically
from scaling.launch.jobs import jobs_of
from scaling.launch.slurm_worker import QUEUE_SECONDS, SlurmWorker
from scaling.launch.worker_plan import plan_path, write_plan
from scaling.runs.lease import lease_seconds
from scaling.runs.planned import PlannedRun
from scaling.runs.state import RunState, run_state

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


@dataclass(frozen=True)
class Request:
    """Resources to request of Slurm."""

    workers: int
    """Number of jobs, each of which trains one run at a time."""
    partition: str | None = None
    gpus_per_run: int = 0
    cpus_per_run: int = 1
    nodes_per_run: int = 1
    minutes: int = 60
    """Wall time of a job; a run may take longer."""
    account: str | None = None
    options: Mapping[str, str | bool] = field(default_factory=dict)
    """Further options of sbatch, by their long names without dashes in front."""


def sbatch_options(given: Sequence[str]) -> dict[str, str | bool]:
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
class Submission:
    """Result of `submit`."""

    job: str | None
    """The array that was submitted, or None if there were enough workers."""
    workers: int
    """Jobs in that array."""
    there: list[str]
    """Jobs of this plan that were queued or running before."""


def submit(
    runs: Sequence[PlannedRun], request: Request, logs: Path, name: str, pack: str | int = "auto"
) -> Submission:
    """Submit workers for the runs, if fewer than needed are queued or running.

    One worker is needed for each run that is not over, up to the number requested; workers of
    earlier submissions count.

    Args:
        runs: in the order in which they are to be claimed.
        request: resources of the workers.
        logs: folder for the plan, the job ids and the output of the workers.
        name: of the sweep and stage, for file names and as the jobs' name.
        pack: number of runs of one shape trained side by side (SweepConfig.pack).

    Raises:
        UserError: SCALING_LEASE_SECONDS is invalid, Slurm or submitit is not installed, or sbatch
            refuses; the message quotes it.
    """
    lease_seconds()  # checked here once, instead of by each worker
    there = living(logs, name)
    left = sum(not run_state(p).over for p in runs)
    missing = min(request.workers, left) - len(there)
    if missing <= 0:
        return Submission(None, 0, there)
    executor, worker = _prepare(request, logs, name)
    write_plan(jobs_of(runs), logs, name, pack, request.workers)
    job = _sbatch(executor, worker, missing)
    arrays = [*_arrays(there), job]
    write_atomically(_jobs_path(logs, name), json.dumps({"jobs": arrays}) + "\n")
    return Submission(job, missing, there)


def living(logs: Path, name: str) -> list[str]:
    """The jobs of a plan that are queued, running or completing, as ARRAY_INDEX, or as a number if
    there was only one.

    Raises:
        UserError: Slurm does not answer, or the file of jobs cannot be read.
    """
    ours = _submitted(_jobs_path(logs, name))
    if not ours:
        return []
    lines = _ask("squeue", "--me", "--array", "--noheader", "--format=%F_%K %j").splitlines()
    jobs = [line.replace("_N/A", "").split(maxsplit=1) for line in lines if line.strip()]
    # By name too: job numbers of a cluster that is set up again begin at 1.
    return [job for job, *its in jobs if its == [name] and job.partition("_")[0] in ours]


def wait(
    runs: Sequence[PlannedRun],
    logs: Path,
    name: str,
    asked_to_stop: Callable[[], int | None],
    watch: Callable[[Sequence[RunState]], None],
) -> int | None:
    """Watch the run folders until all runs are over, no worker is left, or a stop is asked for.

    The workers do not depend on it. If Slurm does not answer, it is asked again later.

    Returns:
        The signal that asked to stop, or None.
    """
    workers = True
    while workers:
        try:
            workers = bool(living(logs, name))
        except UserError:
            workers = True
        now = [run_state(p) for p in runs]
        watch(now)
        if all(s.over for s in now):
            return None
        asked_until = time.monotonic() + (POLL_SECONDS if workers else 0)
        while time.monotonic() < asked_until:
            if number := asked_to_stop():
                return number
            time.sleep(0.1)
    return None


def cancel(name: str, logs: Path) -> list[str]:
    """Cancel the jobs of a plan that are queued or running; their workers save first.

    Returns:
        The jobs that were cancelled, as ARRAY_INDEX.

    Raises:
        UserError: Slurm does not answer, or refuses.
    """
    jobs = living(logs, name)
    if jobs:
        _ask("scancel", *_arrays(jobs))
    return jobs


def _jobs_path(logs: Path, name: str) -> Path:
    return logs / f"{name}.slurm.json"


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


def _share(request: Request, what: str, count: int) -> int:
    """GPUs or cores of a run on each of its nodes."""
    if count % request.nodes_per_run:
        raise UserError(
            f"--{what}-per-run {count}: cannot be shared evenly by {request.nodes_per_run} nodes; "
            f"choose a multiple of --nodes-per-run"
        )
    return count // request.nodes_per_run


def _prepare(request: Request, logs: Path, name: str) -> tuple[SlurmExecutor, SlurmWorker]:
    """The executor that submits the workers, and a worker."""
    cores = _share(request, "cpus", request.cpus_per_run)
    gpus = _share(request, "gpus", request.gpus_per_run)
    _ask("sbatch", "--version")
    try:
        from submitit import SlurmExecutor
    except ImportError:
        raise UserError("--launcher slurm needs submitit; pip install 'scaling[slurm]'") from None
    folder = _own_folder(logs / f"{name}.slurm")
    executor = SlurmExecutor(folder.absolute(), max_num_timeout=WALL_TIMES)
    wanted = {
        "job_name": name, "partition": request.partition, "account": request.account,
        "time": request.minutes, "nodes": request.nodes_per_run, "ntasks_per_node": 1,
        "cpus_per_task": cores, "gpus_per_node": gpus or None,
        "signal_delay_s": min(WARNING_SECONDS, request.minutes * 60 // 4),
        # srun no longer reads sbatch's --cpus-per-task (Slurm 22.05, release notes).
        "srun_args": [f"--cpus-per-task={cores}", "--kill-on-bad-exit=1"],
        "additional_parameters": {"requeue": True, **request.options},
    }
    executor.update_parameters(**{k: v for k, v in wanted.items() if v is not None})
    plan = str(plan_path(logs, name).absolute())
    return executor, SlurmWorker(plan, cores, on_gpu=gpus > 0, nodes=request.nodes_per_run)


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


def _sbatch(executor: SlurmExecutor, worker: SlurmWorker, count: int) -> str:
    """Submit `count` workers; returns the number of the array."""
    from submitit.core.utils import FailedJobError

    try:
        with executor.batch():
            jobs = [executor.submit(worker) for _ in range(count)]
    except FailedJobError as error:
        raise UserError(
            f"sbatch refused the jobs: {_last_line(error)}; correct the options, or see sinfo for "
            "what there is"
        ) from None
    return str(jobs[0].job_id).partition("_")[0]


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "no message"
