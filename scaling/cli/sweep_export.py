"""`scaling sweep export`: write the results of a sweep for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scaling.cli.sweep_options import (
    Overrides,
    ResultsFolder,
    RunsFolder,
    SweepFile,
    open_plan,
    results_folder,
)
from scaling.console import notice, out
from scaling.errors import UserError
from scaling.runs import RUNS


def export(
    config: SweepFile,
    overrides: Overrides = None,
    runs: RunsFolder = RUNS,
    results: ResultsFolder = None,
    parquet: Annotated[
        bool, typer.Option("--parquet", help="Also write runs.parquet (needs pyarrow).")
    ] = False,
    wandb: Annotated[
        str | None,
        typer.Option(metavar="PROJECT", help="Also write the finished runs to a W&B project.",
                     show_default=False),
    ] = None,
    tensorboard: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also write TensorBoard event files of all runs.",
                     show_default=False),
    ] = None,
) -> None:
    """Write the runs table and the learning curves to the results folder.

    It can be repeated at any time. Rows of finished runs are never lost: rows of runs that are no
    longer in the folder of runs, or no longer in the sweep, are kept.

    Example: `scaling sweep export configs/sweeps/quickstart.yaml`

    Example: `scaling sweep export configs/sweeps/quickstart.yaml --tensorboard events`
    """
    from scaling.sweeps.plan import check_results
    from scaling.sweeps.table import export as export_tables

    planned = open_plan(config, overrides, runs)
    folder = results_folder(planned, results)
    check_results(planned, folder)
    if not runs.exists():
        raise UserError(f"--runs {runs}: no such folder; the one that `scaling sweep run` used is "
                        "expected")
    for path in export_tables(planned, folder, parquet=parquet, notify=notice):
        out.print(str(path), markup=False)
    if wandb is not None:
        from scaling.sweeps.wandb_export import export_wandb, wandb_mode

        written, before = export_wandb(planned, wandb, folder)
        earlier = f"; {before} were written before" if before else ""
        out.print(f"{written} run(s) written to the W&B project {wandb}{earlier}", markup=False)
        if wandb_mode() == "offline":
            out.print(f"offline, as files in {folder / 'wandb'}; upload them with: wandb sync "
                      f"{folder / 'wandb'}/offline-run-*", markup=False)
    if tensorboard is not None:
        from scaling.sweeps.tensorboard_export import export_tensorboard

        count = export_tensorboard(planned, tensorboard)
        out.print(f"{count} run(s) written; view them with: tensorboard --logdir {tensorboard}",
                  markup=False)
