"""Common arguments of the commands of `scaling sweep`, and functions that open a plan."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scaling.console import err
from scaling.errors import UserError
from scaling.runs import RUNS

if TYPE_CHECKING:
    from scaling.sweeps.index import SweepIndex
    from scaling.sweeps.plan import Plan

SweepFile = Annotated[
    Path, typer.Argument(
        metavar="SWEEP", help="YAML file of a sweep, such as configs/sweeps/quickstart.yaml.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Overrides of the configuration, such as "
                                             "grids.0.tokens=[1e6,2e6]."),
]
RunsFolder = Annotated[
    Path, typer.Option("--runs", metavar="DIR", help="Folder of all runs, shared by all sweeps.")
]
ResultsFolder = Annotated[
    Path | None, typer.Option(
        "--out", metavar="DIR", help="Results folder; by default results/NAME.")
]
Workers = Annotated[
    int | None,
    typer.Option(help="Worker processes, by default one for each GPU, or for each core; or the "
                      "number of jobs that --launcher slurm submits.", min=1),
]


def open_plan(config: Path, overrides: list[str] | None, runs: Path) -> Plan:
    """The plan of a sweep file with overrides."""
    from scaling.config import SweepConfig, load
    from scaling.sweeps.plan import make_plan

    _check_runs(runs)
    return make_plan(load(SweepConfig, config, overrides or ()), str(config), runs)


def open_index(config: Path, overrides: list[str] | None, runs: Path) -> SweepIndex:
    """The index of a sweep file with overrides, read from the cache if possible."""
    from scaling.config import SweepConfig, load
    from scaling.sweeps.index import index_of

    _check_runs(runs)
    return index_of(load(SweepConfig, config, overrides or ()), str(config), runs)


def _check_runs(runs: Path) -> None:
    existing = next(path for path in (runs, *runs.parents) if path.exists())
    if not existing.is_dir():
        raise UserError(f"--runs {runs}: {existing} is a file; a folder of runs is expected, or a "
                        "new one")


def check_runs_exist(runs: Path) -> None:
    """Check that the folder of runs exists, for a command that only reads or cleans up.

    The default folder may be missing, because a sweep creates it when it starts; a message says so.
    With a given folder that is missing, all runs would appear new.

    Raises:
        UserError: the given folder does not exist, or is not a folder.
    """
    if runs.is_dir():
        return
    if os.path.lexists(runs):
        raise UserError(f"--runs {runs}: is not a folder; name the folder of the runs")
    if runs != RUNS:
        raise UserError(f"--runs {runs}: no such folder; name the one that `scaling sweep run` "
                        "used, or create it (mkdir) if it is a new one")
    err.print(f"{runs}: no such folder, so no run has started; if the runs are elsewhere, name "
              "their folder with --runs", markup=False)


def results_folder(plan: Plan, folder: Path | None) -> Path:
    """The results folder of a sweep: the given one, or results/NAME."""
    return folder or Path("results", plan.sweep.name)
