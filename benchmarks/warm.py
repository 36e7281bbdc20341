"""Overhead of a run in a worker that has already compiled its shape.

    python -m benchmarks.warm [--runs 20] [--json results/benchmarks/warm.json]

A worker with one core trains runs of one shape, of two steps each, so that the time between two
records is almost entirely overhead: the lease, the initialisation, a checkpoint, the evaluation on
ten sequences and the record. Prints the seconds of the first run, which include compilation, and
the median and maximum of the others.
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
    """Seconds between consecutive records; the first value is the time from the first
    configuration file, which a run writes before it trains, to the first record.

    Args:
        folder: for the sweep and its runs; empty.
        runs: number of runs.
    """
    sweep = make_sweep(folder, OVERRIDES, sizes=1, rates=1, seeds=runs, lengths=1, steps=STEPS)
    plan = make_plan(load(SweepConfig, sweep), str(sweep), folder / "runs")
    planned = plan.runs_of_role(GRID)
    plan_path = write_plan(jobs_of(planned), folder / "runs/logs", "warm")
    core = min(os.sched_getaffinity(0))
    subprocess.run(
        [sys.executable, "-m", "scaling.launch.worker", str(plan_path), "--cores", str(core),
         "--parent", str(os.getpid())],
        check=True, stdout=subprocess.DEVNULL, env=os.environ | {"SCALING_CACHE": str(folder)})
    start = min(p.folder.config_path.stat().st_mtime for p in planned)
    ends = sorted(p.folder.record_path.stat().st_mtime for p in planned)
    return [after - before for before, after in pairwise([start, *ends])]


def main() -> None:
    """Measure, print and write the figures; see the docstring of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20,
                        help="Number of runs; %(default)s by default.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="Also write the figures to FILE.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        first, *others = measure(Path(folder), arguments.runs)
    figures = {"runs": arguments.runs, "first_seconds": round(first, 3),
               "median_seconds": round(median(others), 3), "max_seconds": round(max(others), 3)}
    print(json.dumps(figures, indent=2))
    if arguments.json is not None:
        write_atomically(arguments.json, json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
