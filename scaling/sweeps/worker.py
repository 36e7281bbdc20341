"""A process that trains runs of a plan, one after the other, until none is left to take.

    python -m scaling.sweeps.worker PLAN --cores 0 [--gpu 0] --parent PID

Workers do not talk to each other. Each goes through the plan in order and takes the first run that
can begin and is neither over nor locked; the lock is the kernel's, and falls with the process that
holds it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scaling.sweeps.trunks import Unit

STOPPED = 3
"""Exit status of a worker that was asked to stop."""

PAUSE_SECONDS = 0.5
"""Between two looks at runs that all wait for their trunk."""


def main() -> None:
    """Set the process up for its cores, and only then import JAX."""
    parser = argparse.ArgumentParser()
    parser.add_argument("plan", type=Path)
    parser.add_argument("--cores", required=True)
    parser.add_argument("--gpu")
    parser.add_argument("--parent", type=int, required=True)
    arguments = parser.parse_args()
    keep_to(sorted(int(core) for core in arguments.cores.split(",")), arguments.gpu)
    sys.exit(STOPPED if work(arguments.plan, arguments.parent) else 0)


def keep_to(cores: list[int], gpu: str | None) -> None:
    """Bind this process to its cores and its GPU. With one core, XLA gets one thread."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    else:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    flags = os.environ.get("XLA_FLAGS", "")
    if len(cores) == 1:
        flags += " --xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ["XLA_FLAGS"] = flags.strip()


def work(plan_path: Path, parent: int) -> bool:
    """Train what there is to train; True if asked to stop before the end.

    A worker whose parent is gone stops as if asked: nobody would see what it does.
    """
    from scaling.config import RunConfig, validate
    from scaling.parallel.process import start_process
    from scaling.sweeps.trunks import Unit, clear_trunks
    from scaling.training.cores import divide_cores
    from scaling.training.signals import stop_requests

    plan = json.loads(plan_path.read_text(encoding="utf-8"))
    units = [Unit.read(entry) for entry in plan["runs"]]
    start_process()
    divide_cores([validate(RunConfig, unit.config, str(unit.folder.path)) for unit in units])
    with stop_requests() as requested:
        def asked_to_stop() -> bool:
            return requested() is not None or os.getppid() != parent

        # In the order of the plan, beginning anew when branches were waiting for their trunk.
        left = units
        while left:
            waiting = []
            for unit in left:
                if asked_to_stop():
                    return True
                if not unit.ready():
                    waiting.append(unit)
                elif _train_if_free(unit, asked_to_stop):
                    return True
                elif unit.begins is not None:
                    clear_trunks(units)
            if len(waiting) == len(left):
                time.sleep(PAUSE_SECONDS)
            left = waiting
    return False


def _train_if_free(unit: Unit, asked_to_stop: Callable[[], bool]) -> bool:
    """Train one run unless it is over or somebody else's; True if asked to stop meanwhile."""
    from scaling.config import RunConfig, validate
    from scaling.data.store import TokenStore
    from scaling.sweeps.ledger import record_failure
    from scaling.training.loop import Stopped, train

    folder = unit.folder
    with folder.lock() as mine:
        if not mine or unit.over():
            return False
        try:
            run = validate(RunConfig, unit.config, str(folder.path))
            store = TokenStore.open(run.data.store)
            print(f"{folder.path.name}: {run.trained_tokens:,} tokens", flush=True)
            outcome = train(
                run, store, folder.path, trunk=unit.trunk, asked_to_stop=asked_to_stop)
        except Exception as error:
            record_failure(folder, error)
            print(f"{folder.path.name}: failed: {error}", flush=True)
            return False
        if isinstance(outcome, Stopped):
            return True
        print(f"{folder.path.name}: {outcome['status']} {outcome['loss']}", flush=True)
    return False


if __name__ == "__main__":
    main()
