"""A process that trains runs of a plan, one after the other, until none is left to take.

    python -m scaling.sweeps.worker PLAN --cores 0 [--gpu 0] --parent PID

Workers do not talk to each other. Each goes through the plan in order and takes the first run that
can begin and is neither over nor held (scaling/training/lease.py). It watches those that are held
until their holder gives a sign of life, and takes over what is silent for too long.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from scaling.sweeps.room import ends_without_room

STOPPED = 3
"""Exit status of a worker that was asked to stop."""

PAUSE_SECONDS = 0.5
"""Between two looks at runs that wait for their trunk, or for a sign of their holder."""


def main() -> None:
    """Set the process up for its cores, and only then import JAX."""
    parser = argparse.ArgumentParser()
    parser.add_argument("plan", type=Path)
    parser.add_argument("--cores", required=True)
    parser.add_argument("--gpu")
    parser.add_argument("--parent", type=int, required=True)
    arguments = parser.parse_args()
    keep_to(sorted(int(core) for core in arguments.cores.split(",")), arguments.gpu)
    with ends_without_room():
        sys.exit(STOPPED if _work_for(arguments.parent, arguments.plan) else 0)


def keep_to(cores: list[int], gpu: str | None) -> None:
    """Bind this process to its cores and its GPU."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    set_up_xla(len(cores), on_gpu=gpu is not None)


def set_up_xla(cores: int, *, on_gpu: bool) -> None:
    """Environment variables that JAX reads when it is imported. With one core, XLA gets one
    thread."""
    if not on_gpu:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    flags = os.environ.get("XLA_FLAGS", "")
    if cores == 1:
        flags += " --xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ["XLA_FLAGS"] = flags.strip()


def _work_for(parent: int, plan_path: Path) -> bool:
    """A worker whose parent is gone stops as if asked: nobody would see what it does."""
    from scaling.training.signals import stop_requests

    with stop_requests() as requested:
        return work(plan_path, lambda: requested() is not None or os.getppid() != parent)


def work(
    plan_path: Path, asked_to_stop: Callable[[], bool], cores: int | None = None,
    processes: int = 1,
) -> bool:
    """Train what there is to train; True if asked to stop before the end.

    Several processes that have joined (`scaling.parallel.process.join_processes`) train each run
    together: the first holds the run's lock, and they stop when one of them is asked to.

    Args:
        plan_path: see `scaling.sweeps.local.write_plan`.
        asked_to_stop: asked after every step and before every run.
        cores: how many to use; by default all that this process is bound to.
        processes: how many have joined.

    Raises:
        Exception: whatever ended a run, where several processes train it: one of them may wait
            for another in vain.
    """
    from scaling.config import RunConfig, validate
    from scaling.parallel.process import any_process, leads, start_process, word_of_leader
    from scaling.sweeps.packing import seats_by_shape
    from scaling.sweeps.take import Job, train
    from scaling.sweeps.units import Unit, clear_trunks
    from scaling.training.cores import divide_cores

    plan = json.loads(plan_path.read_text(encoding="utf-8"))
    units = [Unit.read(entry) for entry in plan["runs"]]
    start_process()
    runs = [validate(RunConfig, unit.config, str(unit.folder.path)) for unit in units]
    if plan["pack"] in ("auto", 1):  # a pack has one device
        divide_cores(runs, cores, processes)
    seats = seats_by_shape(runs, plan["pack"], plan["workers"], processes)

    def clear() -> None:
        if leads():
            clear_trunks(units)

    left = [Job(unit, run) for unit, run in zip(units, runs, strict=True)]
    while left:
        # In the order of the plan, and again where branches were waiting for their trunk, or where
        # a run is held by somebody of whom there is no sign.
        waiting, again, idle = [], [], True
        for job in left:
            if any_process(asked_to_stop()):
                return True
            if not word_of_leader(job.unit.ready()):
                waiting.append(job)
                continue
            came = train(job, left, seats, asked_to_stop, clear)
            if came == "stopped":
                return True
            idle &= came == "passed"
            silent = came == "passed" and not (job.unit.over() or job.unit.folder.alive())
            if came == "again" or word_of_leader(silent):
                again.append(job)
        awaited = {job.unit.after for job in waiting}
        left = [job for job in left
                if job in waiting or job in again or job.unit.folder in awaited]
        if left and idle:
            time.sleep(PAUSE_SECONDS)
    return False


if __name__ == "__main__":
    main()
