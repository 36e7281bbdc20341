"""Soak test: a sweep whose processes are killed must give bitwise identical losses.

    python -m benchmarks.soak [--kills 200] [--seed 0] [--json results/benchmarks/soak.json]

The sweep is trained undisturbed, and again in another folder while its workers and launchers get
SIGKILL, at random moments and during writes of checkpoints, of trunks' states and of records.
Launchers that have exited are restarted. After the last kill, the sweep is trained to its end. Then
every run must have exactly one record; all metrics and final losses must be bitwise identical to
those of the undisturbed sweep; no process, temporary file or trunk may be left; and the peak of
disk space may be at most twice that of the undisturbed sweep. The exit status is 1 if one of these
conditions is violated, or if the sweep finished before the last kill: increase --steps then.

Every worker has one core. A launcher has at most as many workers as there are cores; if --workers
is larger, several launchers train the sweep. Requires Linux, for /proc.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.soak_checks import violations
from benchmarks.soak_kills import kill_at_random
from benchmarks.soak_sweep import Training, make_sweep
from scaling.config import SweepConfig, load
from scaling.console import progress
from scaling.errors import UserError
from scaling.files import write_atomically
from scaling.runs.planned import GRID
from scaling.sweeps.plan import make_plan

POLL_SECONDS = 0.25
USER_ERROR = 2
"""Exit status of a launcher that cannot train the sweep."""
MAX_USER_ERRORS = 3
"""Largest number of launchers that exit with this status while no process is killed: after a kill
of their workers, launchers may still count these."""
STALL_SECONDS = 600.0
"""Longest time between two finished runs while no process is killed."""

Report = Callable[[int, str], None]
"""Called with the amount of work that is done, and a text."""


def train_to_end(training: Training, report: Report = lambda *_: None) -> None:
    """Train a sweep until all runs are finished, without kills. Launchers that exit before are
    restarted.

    Raises:
        UserError: a run failed, launchers exit with an error, or no run finishes for too long.
    """
    finished, since = training.n_finished(), time.monotonic()
    earlier = len(training.exit_statuses)
    while not training.poll():
        time.sleep(POLL_SECONDS)
        training.measure_disk()
        if training.n_finished() != finished:
            finished, since = training.n_finished(), time.monotonic()
            report(finished, "runs")
        if failures := training.failure_files():
            raise UserError(f"{failures[0]}: the run failed, where all runs should finish; the "
                            "file states the reason")
        if training.exit_statuses[earlier:].count(USER_ERROR) > MAX_USER_ERRORS:
            log = training.log_path(training.launchers[0])
            lines = log.read_text(encoding="utf-8").splitlines()
            raise UserError(f"{log}: launchers exit with status {USER_ERROR}, where 0 is expected; "
                            f"the last line is: {lines[-1]}")
        if time.monotonic() - since > STALL_SECONDS:
            raise UserError(f"{training.folder}: no run finished in {STALL_SECONDS:.0f} seconds; "
                            "see the logs of the launchers, or choose fewer --steps")
    training.measure_disk()


def soak(
    sweep: Path, folder: Path, *, workers: int, kills: int, mean_seconds: float, seed: int,
) -> dict[str, Any]:
    """Train the undisturbed and the disturbed sweep, and compare them.

    Args:
        sweep: YAML file from `make_sweep`.
        folder: without the folders `undisturbed` and `disturbed`, which are created.
        workers: number of concurrent workers.
        kills: number of kills.
        mean_seconds: mean pause between kills, before `benchmarks.soak_kills.pause_factor`.
        seed: of the kills.

    Returns:
        The figures; `violations` has a message for each violated condition.

    Raises:
        UserError: the undisturbed sweep does not finish.
    """
    # The processes of a training are found by the absolute path of its folder.
    folder = folder.resolve()
    plan = make_plan(load(SweepConfig, sweep), str(sweep), folder / "undisturbed" / "runs")
    steps = {run.run_id: run.run.steps for run in plan.runs_of_role(GRID)}
    planned = len(steps)
    undisturbed = Training(sweep.resolve(), folder / "undisturbed", workers)
    disturbed = Training(sweep.resolve(), folder / "disturbed", workers)
    violated: list[str] = []
    try:
        start = time.monotonic()
        with progress("undisturbed", planned) as bar:
            train_to_end(undisturbed, bar.update)
        first_launch = time.monotonic()
        with progress("disturbed", kills) as bar:
            counts = kill_at_random(
                disturbed, steps, kills, mean_seconds, seed, bar.update)
        last_kill = time.monotonic()
        finished_at_last_kill = disturbed.n_finished()
        with progress("recovery", planned) as bar:
            train_to_end(disturbed, bar.update)
    except UserError as error:
        if not disturbed.launchers[0].process:  # the undisturbed sweep did not finish
            raise
        violated = [str(error)]
    finally:
        undisturbed.stop()
        disturbed.stop()
    return {
        "runs": planned, "records": disturbed.n_finished(),
        "workers": workers, "launchers": len(disturbed.launchers),
        "seed": seed, "mean_seconds": mean_seconds,
        "kills": {"requested": kills, "done": counts.total(), **dict(sorted(counts.items()))},
        "runs_finished_at_last_kill": finished_at_last_kill,
        "launcher_exits": {
            str(status): n for status, n in sorted(Counter(disturbed.exit_statuses).items())},
        "seconds": {"undisturbed": round(first_launch - start),
                    "disturbed": round(last_kill - first_launch),
                    "recovery": round(time.monotonic() - last_kill)},
        "peak_bytes": {"undisturbed": undisturbed.peak_bytes, "disturbed": disturbed.peak_bytes},
        "violations": violated or violations(undisturbed, disturbed, planned),
    }


def main() -> None:
    """Run the soak test, print and write the figures; see the docstring of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="key=value",
                        help="Override a key of the configuration of the sweep.")
    parser.add_argument("--kills", type=int, default=200,
                        help="Number of kills; %(default)s by default.")
    parser.add_argument("--mean-seconds", type=float, default=4.0,
                        help="Mean pause between kills in seconds; %(default)s by default. Pauses "
                             "are adapted to the progress of the runs.")
    parser.add_argument("--workers", type=int, default=3,
                        help="Number of concurrent workers; %(default)s by default.")
    parser.add_argument("--seed", type=int, default=0,
                        help="Random seed of the kills; %(default)s by default.")
    parser.add_argument("--sizes", type=int, default=2,
                        help="Number of model sizes; %(default)s by default.")
    parser.add_argument("--rates", type=int, default=2,
                        help="Number of learning rates; %(default)s by default.")
    parser.add_argument("--seeds", type=int, default=2,
                        help="Number of seeds; %(default)s by default.")
    parser.add_argument("--lengths", type=int, default=5,
                        help="Number of runs that share a trunk; %(default)s by default.")
    parser.add_argument("--steps", type=int, default=2000,
                        help="Steps of the longest run; %(default)s by default.")
    parser.add_argument("--folder", type=Path, metavar="DIR",
                        help="Folder of both sweeps; by default a temporary one.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="Also write the figures to FILE.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        if any((folder / name).exists() for name in ("undisturbed", "disturbed")):
            parser.error(f"--folder {folder}: has the sweeps of an earlier soak test, where a new "
                         "folder is expected; remove it or choose another one")
        sweep = make_sweep(
            folder, arguments.overrides, sizes=arguments.sizes, rates=arguments.rates,
            seeds=arguments.seeds, lengths=arguments.lengths, steps=arguments.steps)
        try:
            figures = soak(sweep, folder, workers=arguments.workers, kills=arguments.kills,
                           mean_seconds=arguments.mean_seconds, seed=arguments.seed)
        except UserError as error:
            parser.error(str(error))
    print(json.dumps(figures, indent=2))
    if arguments.json is not None:
        write_atomically(arguments.json, json.dumps(figures, indent=2) + "\n")
    kills = figures["kills"]
    if figures["violations"] or kills["done"] < kills["requested"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
