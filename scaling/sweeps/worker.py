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
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from scaling.sweeps.room import ends_without_room

if TYPE_CHECKING:
    from scaling.sweeps.units import Unit

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
    from scaling.sweeps.units import Unit, clear_trunks
    from scaling.training.cores import divide_cores

    plan = json.loads(plan_path.read_text(encoding="utf-8"))
    units = [Unit.read(entry) for entry in plan["runs"]]
    start_process()
    runs = [validate(RunConfig, unit.config, str(unit.folder.path)) for unit in units]
    divide_cores(runs, cores, processes)
    left = units
    while left:
        # In the order of the plan, and again where branches were waiting for their trunk, or where
        # a run is held by somebody of whom there is no sign.
        waiting, silent, idle = [], [], True
        for unit in left:
            if any_process(asked_to_stop()):
                return True
            if not word_of_leader(unit.ready()):
                waiting.append(unit)
                continue
            came = _train_if_free(unit, asked_to_stop)
            if came == "stopped":
                return True
            idle &= came == "passed"
            if came == "passed" and word_of_leader(not unit.over() and not unit.folder.alive()):
                silent.append(unit)
            if leads() and came == "trained":
                clear_trunks(units)
        awaited = {unit.after for unit in waiting}
        left = [unit for unit in left
                if unit in waiting or unit in silent or unit.folder in awaited]
        if left and idle:
            time.sleep(PAUSE_SECONDS)
    return False


Came = Literal["trained", "passed", "stopped"]
"""What came of a look at a run."""


def _train_if_free(unit: Unit, asked_to_stop: Callable[[], bool]) -> Came:
    """Train one run unless it is over or somebody else's."""
    import jax

    from scaling.config import RunConfig, validate
    from scaling.data.store import TokenStore
    from scaling.parallel.process import leads, word_of_leader
    from scaling.sweeps.ledger import record_failure
    from scaling.training.lease import LeaseLost
    from scaling.training.loop import Stopped, train

    folder = unit.folder
    if word_of_leader(unit.over()):
        return "passed"
    with folder.lock() if leads() else nullcontext() as lease:
        if not word_of_leader(lease is not None and not unit.over()):
            return "passed"
        fence = lease.check if lease is not None else lambda: None
        try:
            run = validate(RunConfig, unit.config, str(folder.path))
            store = TokenStore.open(run.data.store)
            print(f"{folder.path.name}: {run.trained_tokens:,} tokens", flush=True)
            outcome = train(run, store, folder.path, trunk=unit.trunk, fence=fence,
                            asked_to_stop=asked_to_stop)
        except Exception as error:
            try:
                fence()
            except LeaseLost as lost:
                print(lost, flush=True)
                return "passed"
            record_failure(folder, error)
            print(f"{folder.path.name}: failed: {error}", flush=True)
            if jax.process_count() > 1:
                raise
            return "trained"
        if isinstance(outcome, Stopped):
            return "stopped"
        print(f"{folder.path.name}: {outcome['status']} {outcome['loss']}", flush=True)
    return "trained"


if __name__ == "__main__":
    main()
