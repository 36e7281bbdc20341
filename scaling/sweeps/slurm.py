"""The Slurm launcher: an array of jobs, each a worker that takes runs of the plan.

    runs/logs/NAME.plan.json     what the workers go through
    runs/logs/NAME.slurm.json    the jobs that were submitted for it
    runs/logs/NAME.slurm/        submitit's files, and what each worker printed (*_log.out, *.err)

Slurm is asked for one thing alone: which of the jobs are still queued or running, so that none is
submitted for nothing. Where a run stands is read from its folder. A job that is pre-empted, or
whose wall time ends, saves and is requeued (`scaling.sweeps.slurm_worker`).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from scaling.errors import UserError
from scaling.files import write_atomically
from scaling.sweeps.ledger import Standing, standing
from scaling.sweeps.local import plan_path, write_plan
from scaling.sweeps.plan import PlannedRun
from scaling.sweeps.slurm_worker import QUEUE_SECONDS, SlurmWorker
from scaling.sweeps.units import units_of
from scaling.training.run_folder import read_json

if TYPE_CHECKING:
    from submitit import SlurmExecutor

POLL_SECONDS = 3.0
WARNING_SECONDS = 120
"""How long before the wall time a worker is told to save; at most a quarter of it. Slurm may do so
up to a minute earlier, and a worker that has hardly started would be lost."""
WALL_TIMES = 1000
"""Wall times that one worker may use up; a bound against a job that can never get anything done."""
OURS = {
    "account": "--account", "array": "--workers", "cpus-per-task": "--cpus-per-run",
    "gpus-per-node": "--gpus-per-run", "nodes": "--nodes-per-run", "ntasks-per-node": None,
    "partition": "--partition", "time": "--time", "job-name": None, "output": None, "error": None,
    "open-mode": None, "requeue": None, "signal": None, "wckey": None,
}
"""Options of sbatch that are set here, and by which option of ours."""


@dataclass(frozen=True)
class Request:
    """What to ask Slurm for."""

    workers: int
    """Jobs at once, each of which trains one run at a time."""
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
        UserError: a key is no option's name, or is set by this program.
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
            mend = f"use {OURS[key]}" if OURS[key] else "leave it out"
            raise UserError(f"--slurm {text}: {key} is set by the launcher; {mend}")
        options[key] = value if equals else True
    return options


@dataclass(frozen=True)
class Submission:
    """What `submit` found and did."""

    job: str | None
    """The array that was submitted, or None if the queue had workers enough."""
    workers: int
    """Jobs in that array."""
    there: list[str]
    """Jobs of this plan that were queued or running before."""


def submit(
    runs: Sequence[PlannedRun], request: Request, logs: Path, name: str, pack: str | int = "auto"
) -> Submission:
    """See to it that enough workers for the runs are queued or running.

    That is one for each run that is not over, and no more than asked for; those of earlier
    submissions count.

    Args:
        runs: in the order in which they are to be taken.
        request: what each worker needs.
        logs: folder for the plan, the job ids and what the workers print.
        name: of the sweep and stage, for file names and as the jobs' name.
        pack: how many runs of one shape train side by side (SweepConfig.pack).

    Raises:
        UserError: Slurm or submitit is not there, or sbatch refuses; its words are in the message.
    """
    there = living(logs, name)
    left = sum(not standing(p).over for p in runs)
    missing = min(request.workers, left) - len(there)
    if missing <= 0:
        return Submission(None, 0, there)
    executor, worker = _prepare(request, logs, name)
    write_plan(units_of(runs), logs, name, pack, request.workers)
    job = _sbatch(executor, worker, missing)
    arrays = [*_arrays(there), job]
    write_atomically(_jobs_path(logs, name), json.dumps({"jobs": arrays}) + "\n")
    return Submission(job, missing, there)


def living(logs: Path, name: str) -> list[str]:
    """The jobs of a plan that are queued, running or on their way out, as ARRAY_INDEX, or as a
    number where there was but one.

    Raises:
        UserError: Slurm does not answer.
    """
    path = _jobs_path(logs, name)
    if not path.exists():
        return []
    ours = set(read_json(path)["jobs"])
    lines = _ask("squeue", "--me", "--array", "--noheader", "--format=%F_%K %j").splitlines()
    jobs = [line.replace("_N/A", "").split(maxsplit=1) for line in lines]
    # By name too: a cluster that is set up anew counts from 1 again.
    return [job for job, its in jobs if its == name and job.partition("_")[0] in ours]


def wait(
    runs: Sequence[PlannedRun],
    logs: Path,
    name: str,
    asked_to_stop: Callable[[], int | None],
    watch: Callable[[Sequence[Standing]], None],
) -> int | None:
    """Watch the run folders until all runs are over, no worker is left, or a stop is asked for.

    The workers do not depend on it. A Slurm that does not answer for a while is asked again.

    Returns:
        The signal that asked to stop, or None.
    """
    workers = True
    while workers:
        try:
            workers = bool(living(logs, name))
        except UserError:
            workers = True
        now = [standing(p) for p in runs]
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
    """Cancel what is queued or running for a plan; the workers save what they have.

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


def _arrays(jobs: Sequence[str]) -> list[str]:
    return sorted({job.partition("_")[0] for job in jobs})


def _ask(*command: str) -> str:
    """What a command of Slurm prints."""
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
    """What of a run's GPUs or cores falls to each of its nodes."""
    if count % request.nodes_per_run:
        raise UserError(
            f"--{what}-per-run {count}: cannot be shared evenly by {request.nodes_per_run} nodes; "
            f"choose a multiple of --nodes-per-run"
        )
    return count // request.nodes_per_run


def _prepare(request: Request, logs: Path, name: str) -> tuple[SlurmExecutor, SlurmWorker]:
    """What submits the workers, and a worker."""
    cores = _share(request, "cpus", request.cpus_per_run)
    gpus = _share(request, "gpus", request.gpus_per_run)
    _ask("sbatch", "--version")
    try:
        from submitit import SlurmExecutor
    except ImportError:
        raise UserError("--launcher slurm needs submitit; pip install 'scaling[slurm]'") from None
    folder = logs / f"{name}.slurm"
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


def _sbatch(executor: SlurmExecutor, worker: SlurmWorker, count: int) -> str:
    """Submit so many workers; returns the array's number."""
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
