"""`scaling sweep export`: a sweep's results for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scaling.cli.sweep_options import (
    RUNS,
    Overrides,
    Results,
    RunsFolder,
    SweepFile,
    open_plan,
    results_folder,
)
from scaling.cli.terminal import out


def export(
    config: SweepFile,
    overrides: Overrides = None,
    runs: RunsFolder = RUNS,
    results: Results = None,
    parquet: Annotated[
        bool, typer.Option("--parquet", help="also write runs.parquet (needs pyarrow)")
    ] = False,
    wandb: Annotated[
        str | None,
        typer.Option(metavar="PROJECT", help="also write the finished runs to a W&B project"),
    ] = None,
    tensorboard: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="also write event files of all runs for TensorBoard"),
    ] = None,
) -> None:
    """Write the runs table and the learning curves into the results folder.

    Again whenever you like: what is there is replaced, or left if it would be the same.

    Example: `scaling sweep export configs/sweeps/quickstart.yaml`

    Example: `scaling sweep export configs/sweeps/quickstart.yaml --tensorboard events`
    """
    from scaling.sweeps.plan import claim_results
    from scaling.sweeps.table import export as export_tables

    planned = open_plan(config, overrides, runs)
    folder = results_folder(planned, results)
    claim_results(planned, folder)
    for path in export_tables(planned, folder, parquet=parquet):
        out.print(str(path), markup=False)
    if wandb is not None:
        from scaling.sweeps.wandb_export import export_wandb

        written, before = export_wandb(planned, wandb, folder)
        there = f"; {before} were there already" if before else ""
        out.print(f"{written} run(s) written to the W&B project {wandb}{there}", markup=False)
    if tensorboard is not None:
        from scaling.sweeps.tensorboard_export import export_tensorboard

        count = export_tensorboard(planned, tensorboard)
        out.print(f"{count} run(s) written; see them with: tensorboard --logdir {tensorboard}",
                  markup=False)
