"""`scaling sweep retry`, `cancel` and `prune`: what is done about a sweep besides training it."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Annotated

import typer

from scaling.cli.sweep_options import (
    RUNS,
    AsJson,
    Overrides,
    RunsFolder,
    SweepFile,
    open_index,
    open_plan,
)
from scaling.cli.terminal import err, out, print_json, progress
from scaling.errors import UserError

_SAVING_SECONDS = 120.0
"""How long `cancel` waits for local workers to save."""
_PAUSE_SECONDS = 0.2


class Keep(StrEnum):
    """Which checkpoints stay."""

    FINAL = "final"
    NONE = "none"


def retry(config: SweepFile, overrides: Overrides = None, runs: RunsFolder = RUNS) -> None:
    """Let failed runs be tried again by the next `run`, under the same identity.

    A diverged run is a result, not a failure, and stays.

    Example: `scaling sweep retry configs/sweeps/quickstart.yaml`
    """
    from scaling.sweeps.ledger import forgive

    index = open_index(config, overrides, runs)
    forgiven = sum(forgive(index.folder(entry)) for entry in index.entries)
    out.print(f"{forgiven} failed run(s) will be tried again by `scaling sweep run`", markup=False)


def cancel(config: SweepFile, overrides: Overrides = None, runs: RunsFolder = RUNS) -> None:
    """Ask all that trains a sweep, on this machine and by Slurm, to save and stop.

    What is trained is not lost: `scaling sweep run` goes on from there. Launchers on other
    machines are to be stopped there; what they train is counted.

    Example: `scaling sweep cancel configs/sweeps/quickstart.yaml`
    """
    from scaling.config import SweepConfig, load
    from scaling.sweeps import slurm
    from scaling.sweeps.cancel import ask_to_stop, held, local_workers
    from scaling.sweeps.local import plan_path
    from scaling.sweeps.planning.planned import GRID, HELDOUT

    sweep, logs = load(SweepConfig, config, overrides or ()).name, runs / "logs"
    names = [f"{sweep}.{role}" for role in (GRID, HELDOUT)]
    plans = [plan for name in names if (plan := plan_path(logs, name)).exists()]
    stopped = False
    for plan in plans:
        for pid, workers in ask_to_stop(local_workers(plan)).items():
            stopped = True
            out.print(f"{plan}: asked process {pid} to stop, and with it {workers} worker(s)",
                      markup=False)
    for name in names:
        if jobs := slurm.cancel(name, logs):
            stopped = True
            out.print(f"{name}: cancelled Slurm's jobs {', '.join(jobs)}, which save what they "
                      "have", markup=False)
    if not stopped:
        out.print(f"{sweep}: nothing trains it on this machine or by Slurm", markup=False)
    deadline = time.monotonic() + _SAVING_SECONDS
    while left := sum(len(local_workers(plan)) for plan in plans):
        if time.monotonic() > deadline:
            raise UserError(f"{left} worker(s) of {sweep} are still saving; `scaling sweep status` "
                            "shows when nothing is running any more")
        time.sleep(_PAUSE_SECONDS)
    if count := sum(held(plan, runs) for plan in plans):
        err.print(f"{count} run(s) are still being trained: by Slurm's jobs until they have saved, "
                  "or by launchers on other machines, which are to be stopped there", markup=False)


def prune(
    config: SweepFile,
    overrides: Overrides = None,
    runs: RunsFolder = RUNS,
    keep: Annotated[Keep, typer.Option(
        help="final: the newest checkpoint of each run that is done or failed; none: no checkpoint "
        "of a run that is over")] = Keep.FINAL,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would go")] = False,
    json_output: AsJson = False,
) -> None:
    """Remove checkpoints of runs that are over, and trunks' states that no run waits for.

    Records, metrics and configurations stay, and whatever a process is working on. Fine-tuning
    needs a run's newest checkpoint, and so does a failed run that is tried again.

    Example: `scaling sweep prune configs/sweeps/quickstart.yaml --dry-run`
    """
    from scaling.sweeps.prune import idle_trunks, old_checkpoints

    checkpoints = old_checkpoints(
        open_index(config, overrides, runs), keep_final=keep is Keep.FINAL)
    leftovers = [*checkpoints, *idle_trunks(open_plan(config, overrides, runs), runs)]
    if not dry_run:
        with progress("removing", len(leftovers)) as bar:
            for count, leftover in enumerate(leftovers, 1):
                leftover.remove()
                bar.update(count)
    size = sum(leftover.size for leftover in leftovers)
    if json_output:
        print_json({"removed": not dry_run, "bytes": size,
                    "folders": [str(leftover.path) for leftover in leftovers]})
        return
    for leftover in leftovers if dry_run else ():
        out.print(f"{leftover.path}  {_bytes(leftover.size)}", markup=False)
    said = "would be removed" if dry_run else "removed"
    out.print(f"{len(leftovers)} folder(s) of checkpoints {said}, {_bytes(size)}", markup=False)
    if dry_run and leftovers:
        err.print("without --dry-run they go", markup=False)


def _bytes(count: int) -> str:
    """A number of bytes for people: 12.3 MB."""
    size, units = float(count), ["B", "kB", "MB", "GB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.4g} {units[0]}"
