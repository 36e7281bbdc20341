"""What a run costs a warm worker besides its training.

    python -m benchmarks.warm [--runs 20] [--json results/benchmarks/warm.json]

A worker with one core trains runs of one shape, of two steps each: what lies between the records of
two of them is all but training: lease, initialisation, checkpoint, evaluation of ten sequences,
record. Prints the first run's seconds, which hold the compilations, and the median and the largest
of the others'.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from statistics import median

from benchmarks.soak_sweep import make_sweep
from scaling.config import SweepConfig, load
from scaling.files import write_atomically
from scaling.launch.jobs import jobs_of
from scaling.launch.worker_plan import write_plan
from scaling.runs.planned import GRID
from scaling.sweeps.plan import make_plan

OVERRIDES = ["run.schedule.warmup_steps=0", "run.checkpoint.every_seconds=60"]
STEPS = 2


def measure(folder: Path, runs: int) -> list[float]:
    """Seconds from one record to the next; the first from the worker's beginning to train."""
    sweep = make_sweep(folder, OVERRIDES, sizes=1, rates=1, seeds=runs, lengths=1, steps=STEPS)
    stage = make_plan(load(SweepConfig, sweep), str(sweep), folder / "runs").stage(GRID)
    plan = write_plan(jobs_of(stage), folder / "runs/logs", "warm")
    core = min(os.sched_getaffinity(0))
    subprocess.run(
        [sys.executable, "-m", "scaling.launch.worker", str(plan), "--cores", str(core),
         "--parent", str(os.getpid())],
        check=True, stdout=subprocess.DEVNULL, env=os.environ | {"SCALING_CACHE": str(folder)})
    began = min(p.folder.config_path.stat().st_mtime for p in stage)
    ended = sorted(p.folder.record_path.stat().st_mtime for p in stage)
    return [after - before for before, after in pairwise([began, *ended])]


def main() -> None:
    """Measure, print, and write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        first, *others = measure(Path(folder), arguments.runs)
    figures = {"runs": arguments.runs, "first_seconds": round(first, 3),
               "median_seconds": round(median(others), 3), "most_seconds": round(max(others), 3)}
    print(json.dumps(figures, indent=2))
    if arguments.json is not None:
        write_atomically(arguments.json, json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
