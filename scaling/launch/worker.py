"""A worker process: works on the jobs of a plan one after the other, until none is left to claim.

    python -m scaling.launch.worker PLAN [--cores 0,1] [--gpu 0] [--parent PID]

Workers do not communicate. Each goes through the plan in order and claims the first job that can
begin, and is neither over nor held by another process (scaling/runs/lease.py). It watches jobs that
are held until their lease is renewed, and takes over those whose lease expires. The jobs of a plan
are runs, or pieces of a corpus (scaling/launch/piece_worker.py).

Exit statuses: 0 if no job is left to claim, STOPPED, REFUSED, and 4 if the disk is full
(scaling/launch/disk_full.py). Launchers that start workers on other machines need no arguments but
the plan.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from scaling.errors import UserError
from scaling.launch.disk_full import exit_if_disk_full

STOPPED = 3
"""Exit status of a worker that was asked to stop."""

REFUSED = 2
"""Exit status of a worker for a user's mistake, which is in the last line of its log."""

PAUSE_SECONDS = 0.5
"""Between two passes over runs that wait for their trunk, or whose lease may expire."""


def main() -> None:
    """Set up the process for its cores, then import JAX."""
    parser = argparse.ArgumentParser()
    parser.add_argument("plan", type=Path)
    parser.add_argument("--cores", help="Cores to use, such as 0,1; by default all.")
    parser.add_argument("--gpu", help="GPU to use; none by default.")
    parser.add_argument("--parent", type=int, help="Process without which the worker stops.")
    arguments = parser.parse_args()
    cores = available_cores()
    if arguments.cores is not None:
        cores = sorted(int(core) for core in arguments.cores.split(","))
    keep_to(cores, arguments.gpu)
    escape_output()
    with exit_if_disk_full():
        try:
            stopped = _work_for(arguments.parent, arguments.plan)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            sys.exit(REFUSED)
        sys.exit(STOPPED if stopped else 0)


def escape_output() -> None:
    """Escape characters that the encoding of the log cannot represent, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def available_cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def keep_to(cores: list[int], gpu: str | None) -> None:
    """Bind this process to its cores and its GPU."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    set_up_xla(len(cores), on_gpu=gpu is not None)


def set_up_xla(cores: int, *, on_gpu: bool) -> None:
    """Set environment variables that JAX reads when it is imported. With one core, XLA gets one
    thread."""
    if not on_gpu:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    flags = os.environ.get("XLA_FLAGS", "")
    if cores == 1:
        flags += " --xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ["XLA_FLAGS"] = flags.strip()


def _work_for(parent: int | None, plan_path: Path) -> bool:
    """Work until asked to stop, or until the parent process, if any, is gone."""
    from scaling.training.signals import stop_requests

    with stop_requests() as requested:
        return work(plan_path, lambda: requested() is not None
                    or parent not in (None, os.getppid()))


def work(
    plan_path: Path, asked_to_stop: Callable[[], bool], cores: int | None = None,
    processes: int = 1,
) -> bool:
    """Work on the jobs of a plan; True if asked to stop before the end.

    Args:
        plan_path: a plan; the end of its name determines the kind of its jobs.
        asked_to_stop: asked at short intervals, such as after every step.
        cores: number of cores to use; by default all that this process is bound to.
        processes: number of processes that have joined to train each run together
            (`scaling.parallel.process.join_processes`).

    Raises:
        UserError: the plan cannot be read, or JAX finds no device.
        Exception: the error of a run that several processes train, which may be out of step.
    """
    from scaling.launch.worker_plan import TASKS_SUFFIX

    if plan_path.name.endswith(TASKS_SUFFIX):
        from scaling.launch.piece_worker import run_pieces

        return run_pieces(plan_path, asked_to_stop)
    return _train_runs(plan_path, asked_to_stop, cores, processes)


def _train_runs(
    plan_path: Path, asked_to_stop: Callable[[], bool], cores: int | None, processes: int
) -> bool:
    """Train the runs of a plan (`scaling.launch.worker_plan.write_plan`) in RUNS/logs.

    Several processes that have joined train each run together: the first holds the run's lease, and
    all stop when one of them is asked to.
    """
    from scaling.launch.claim import train
    from scaling.launch.jobs import clear_trunks
    from scaling.launch.packing import slots_by_shape
    from scaling.launch.worker_plan import read_plan
    from scaling.parallel.cpu_devices import divide_cores
    from scaling.parallel.process import (
        any_process,
        broadcast_from_leader,
        find_devices,
        is_leader,
        start_process,
    )

    plan = read_plan(plan_path)
    jobs = plan.jobs
    start_process()
    runs = [job.run for job in jobs]
    if plan.pack in ("auto", 1):  # a pack is trained on one device
        divide_cores(runs, cores, processes)
    find_devices()
    slots = slots_by_shape(runs, plan.pack, plan.workers, processes)

    def clear() -> None:
        if is_leader():
            clear_trunks(jobs)

    left = list(jobs)
    while left:
        # In the order of the plan; repeated for branches that wait for their trunk, and for runs
        # whose lease may expire.
        waiting, again, idle = [], [], True
        for job in left:
            if any_process(asked_to_stop()):
                return True
            if not broadcast_from_leader(job.ready()):
                waiting.append(job)
                continue
            outcome = train(job, left, slots, asked_to_stop, clear)
            if outcome == "stopped":
                return True
            idle &= outcome == "passed"
            silent = outcome == "passed" and not (job.over() or job.folder.alive())
            if outcome == "again" or broadcast_from_leader(silent):
                again.append(job)
        awaited = {job.after for job in waiting}
        left = [job for job in left
                if job in waiting or job in again or job.folder in awaited]
        if left and idle:
            time.sleep(PAUSE_SECONDS)
    return False


if __name__ == "__main__":
    main()
