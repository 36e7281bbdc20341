"""`scaling sweep retry`, `cancel` and `prune`: maintenance of a sweep."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Annotated

import typer

from scaling.cli.options import JsonSwitch
from scaling.cli.sweep_options import (
    Overrides,
    RunsFolder,
    SweepFile,
    check_runs_exist,
    open_plan,
)
from scaling.console import err, out, print_json, progress
from scaling.errors import UserError
from scaling.runs import RUNS

_SAVING_SECONDS = 120.0
"""Time that `cancel` waits for local workers to save."""
_POLL_SECONDS = 0.2


class Keep(StrEnum):
    """Which checkpoints are kept."""

    FINAL = "final"
    NONE = "none"


def retry(config: SweepFile, overrides: Overrides = None, runs: RunsFolder = RUNS) -> None:
    """Mark failed and unreadable runs to be trained again by the next `scaling sweep run`.

    They keep their identity; unreadable files are renamed. A diverged run is a result, not a
    failure, and is not changed.

    Example: `scaling sweep retry configs/sweeps/quickstart.yaml`
    """
    from scaling.runs.state import clear_failure, error_text

    check_runs_exist(runs)
    n_retried, refused = 0, []
    for planned in open_plan(config, overrides, runs).runs:
        try:
            n_retried += clear_failure(planned.folder)
        except (UserError, OSError) as error:
            refused.append(f"{planned.run_id} is not changed: {error_text(error)}")
    out.print(f"{n_retried} failed run(s) will be trained again by `scaling sweep run`",
              markup=False)
    for line in refused:
        err.print(line, markup=False)
    if refused:
        raise typer.Exit(1)


def cancel(config: SweepFile, overrides: Overrides = None, runs: RunsFolder = RUNS) -> None:
    """Stop all workers of a sweep, after they save: processes on this machine, Slurm jobs, and
    those of launchers that other packages add.

    No training is lost: `scaling sweep run` continues from the saved state. Local workers on other
    machines have to be stopped there; the number of their runs is printed.

    Example: `scaling sweep cancel configs/sweeps/quickstart.yaml`
    """
    from scaling.config import SweepConfig, load
    from scaling.launch.cancel import held
    from scaling.launch.registry import launched_groups

    check_runs_exist(runs)
    sweep, logs = load(SweepConfig, config, overrides or ()).name, runs / "logs"
    groups, refusals = launched_groups(sweep, logs)
    stopped = False
    for each in groups:
        try:
            asked = each.cancel()
        except UserError as error:  # stop the others first
            refusals.append(error)
            continue
        stopped |= bool(asked)
        for name in asked:
            out.print(f"{each.group.name}: asked {name} to save and stop", markup=False)
    if refusals:
        raise refusals[0]
    if not stopped:
        out.print(f"{sweep}: no process on this machine and no job trains it", markup=False)
    deadline = time.monotonic() + _SAVING_SECONDS
    while left := sum(len(each.status()) for each in groups if not each.launcher.detached):
        if time.monotonic() > deadline:
            raise UserError(f"{left} worker(s) of {sweep} are still saving; `scaling sweep status` "
                            "shows when none is running any more")
        time.sleep(_POLL_SECONDS)
    plans = {each.group.plan for each in groups}
    if count := sum(held(plan) for plan in plans if plan.exists()):
        err.print(f"{count} run(s) are still being trained: by jobs until they have saved, or by "
                  "local workers on other machines, which have to be stopped there", markup=False)


def prune(
    config: SweepFile,
    overrides: Overrides = None,
    runs: RunsFolder = RUNS,
    keep: Annotated[Keep, typer.Option(
        help="Checkpoints to keep: final keeps the newest one of each done or failed run, none "
        "keeps no checkpoint of a run that is over.")] = Keep.FINAL,
    dry_run: Annotated[bool, typer.Option(
        "--dry-run", help="Only list the checkpoints that would be removed.")] = False,
    json_output: JsonSwitch = False,
) -> None:
    """Remove checkpoints of runs that are over, and states shared by runs (trunks) that none needs.

    Records, metrics and configurations are kept, and so is everything that a process is using or
    that is behind a link. Fine-tuning, and the retry of a failed run, need the newest checkpoint.

    Example: `scaling sweep prune configs/sweeps/quickstart.yaml --dry-run`
    """
    from scaling.runs.state import error_text
    from scaling.sweeps.prune import idle_trunks, old_checkpoints

    check_runs_exist(runs)
    planned = open_plan(config, overrides, runs)
    checkpoints = old_checkpoints(planned, keep_final=keep is Keep.FINAL)
    leftovers = [*checkpoints, *idle_trunks(planned, runs)]
    kept = []
    if not dry_run:
        with progress("removing", len(leftovers)) as bar:
            for count, leftover in enumerate(leftovers, 1):
                try:
                    leftover.remove()
                except (UserError, OSError) as error:
                    kept.append(leftover)
                    err.print(f"{leftover.path} is kept: {error_text(error)}", markup=False)
                bar.update(count)
    leftovers = [leftover for leftover in leftovers if leftover not in kept]
    size = sum(leftover.size for leftover in leftovers)
    if json_output:
        print_json({"removed": not dry_run, "bytes": size,
                    "folders": [str(leftover.path) for leftover in leftovers]})
    else:
        for leftover in leftovers if dry_run else ():
            out.print(f"{leftover.path}  {_bytes(leftover.size)}", markup=False)
        action = "would be removed" if dry_run else "removed"
        out.print(f"{len(leftovers)} folder(s) of checkpoints {action}, {_bytes(size)}",
                  markup=False)
        if dry_run and leftovers:
            err.print("run without --dry-run to remove them", markup=False)
    if kept:
        raise typer.Exit(1)


def _bytes(count: int) -> str:
    """A readable number of bytes: 12.3 MB."""
    size, units = float(count), ["B", "kB", "MB", "GB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.4g} {units[0]}"
