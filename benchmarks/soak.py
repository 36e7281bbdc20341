"""A sweep whose processes are killed at random moments gives the same losses to the last bit.

    python -m benchmarks.soak [--kills 200] [--seed 0] [--json results/benchmarks/soak.json]

The sweep is trained undisturbed, then again in another folder while workers and launchers get
SIGKILL: at random moments, and as soon as one is seen to write a checkpoint, a trunk's state or a
record. A launcher that has died is started again. Then the sweep is left alone to finish. Every
record must be there once, every loss on the way and at the end the undisturbed one's to the last
bit; no process may be left, nothing half-written, no trunk; the disk may hold twice as much as
undisturbed, at most. Exit status 1 says that something does not hold, or that the sweep was over
before all kills were dealt out: give it more --steps.

Every worker has one core; a launcher starts as many as there are cores, and another launcher trains
beside it if that is too few. key=value is laid over the sweep. Needs /proc.
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

from benchmarks.soak_checks import shortcomings
from benchmarks.soak_kills import kill_at_random
from benchmarks.soak_sweep import Training, make_sweep
from scaling.config import SweepConfig, load
from scaling.console import progress
from scaling.errors import UserError
from scaling.files import write_atomically
from scaling.runs.planned import GRID
from scaling.sweeps.plan import make_plan

LOOK_SECONDS = 0.25
USER_ERROR, GIVEN_UP_AT_MOST = 2, 3
"""Exit status of a launcher that gives up, and how often that may be while nobody kills: one whose
workers were killed may still count them."""
STUCK_SECONDS = 600.0
"""Without another run getting done, after which a sweep that is left alone is given up."""

Said = Callable[[int, str], None]


def leave_alone(training: Training, said: Said = lambda *_: None) -> None:
    """Train a sweep to its end; launchers that end before are started again.

    Raises:
        UserError: it comes to no end.
    """
    over, since, before = training.over(), time.monotonic(), len(training.exits)
    while not training.tend():
        time.sleep(LOOK_SECONDS)
        training.measure_disk()
        if training.over() != over:
            over, since = training.over(), time.monotonic()
            said(over, "runs")
        if training.failed():
            raise UserError(f"{training.failed()[0]}: the run failed")
        if training.exits[before:].count(USER_ERROR) > GIVEN_UP_AT_MOST:
            words = training.output(training.launchers[0]).read_text(encoding="utf-8")
            raise UserError(f"launchers give up: {words.splitlines()[-1]}")
        if time.monotonic() - since > STUCK_SECONDS:
            raise UserError(f"{training.folder}: no run got done in {STUCK_SECONDS:.0f} seconds")
    training.measure_disk()


def soak(
    sweep: Path, folder: Path, *, workers: int, kills: int, mean_seconds: float, seed: int,
) -> dict[str, Any]:
    """The undisturbed sweep, the disturbed one, and what is wrong with it.

    Args:
        sweep: YAML, from `make_sweep`.
        folder: new; gets a folder for each.
        workers: how many train at once.
        kills: how many processes are killed.
        mean_seconds: between kills, if runs and kills keep step (`benchmarks.soak_kills.pace`).
        seed: of the kills.

    Returns:
        The figures, and under `wrong` a sentence for all that does not hold.
    """
    # Processes are found by the folder in their command line.
    folder = folder.resolve()
    plan = make_plan(load(SweepConfig, sweep), str(sweep), folder / "undisturbed" / "runs")
    planned = len(plan.runs_of_role(GRID))
    calm = Training(sweep.resolve(), folder / "undisturbed", workers)
    hurt = Training(sweep.resolve(), folder / "disturbed", workers)
    wrong: list[str] = []
    try:
        start = time.monotonic()
        with progress("undisturbed", planned) as bar:
            leave_alone(calm, bar.update)
        between = time.monotonic()
        with progress("disturbed", kills) as bar:
            counts = kill_at_random(
                hurt, planned, kills, mean_seconds, seed, bar.update)
        alone = time.monotonic()
        over = hurt.over()
        with progress("left alone", planned) as bar:
            leave_alone(hurt, bar.update)
    except UserError as error:
        if not hurt.launchers[0].process:  # nothing has been disturbed yet
            raise
        wrong = [str(error)]
    finally:
        calm.stop()
        hurt.stop()
    return {
        "runs": planned, "records": hurt.over(),
        "workers": workers, "launchers": len(hurt.launchers),
        "seed": seed, "mean_seconds": mean_seconds,
        "kills": {"asked": kills, "delivered": counts.total(), **dict(sorted(counts.items()))},
        "runs_over_after_the_last_kill": over,
        "launcher_exits": {str(k): n for k, n in sorted(Counter(hurt.exits).items())},
        "seconds": {"undisturbed": round(between - start), "disturbed": round(alone - between),
                    "left_alone": round(time.monotonic() - alone)},
        "peak_bytes": {"undisturbed": calm.peak_bytes, "disturbed": hurt.peak_bytes},
        "wrong": wrong or shortcomings(calm, hurt, planned),
    }


def main() -> None:
    """Soak, print, and write the figures; see the head of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--mean-seconds", type=float, default=4.0,
                        help="between kills, if the runs keep step with them")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the kills")
    parser.add_argument("--sizes", type=int, default=2)
    parser.add_argument("--rates", type=int, default=2, help="learning rates")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--lengths", type=int, default=5, help="runs that share a trunk")
    parser.add_argument("--steps", type=int, default=2000, help="of the longest run")
    parser.add_argument("--folder", type=Path, help="new; by default a temporary one")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        if any((folder / name).exists() for name in ("undisturbed", "disturbed")):
            parser.error(f"--folder {folder}: a soak has been there; choose a new one")
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
    if figures["wrong"] or kills["delivered"] < kills["asked"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
