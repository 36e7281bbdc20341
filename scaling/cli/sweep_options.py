"""Arguments that the commands of `scaling sweep` share, and how they open a plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from scaling.sweeps.index import Index
    from scaling.sweeps.plan import Plan

SweepFile = Annotated[
    Path, typer.Argument(help="YAML of a sweep, such as configs/sweeps/quickstart.yaml")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="key=value laid over it, such as grids.0.tokens=[1e6,2e6]"),
]
RunsFolder = Annotated[
    Path, typer.Option("--runs", help="where run folders are; all sweeps share them")
]
Results = Annotated[
    Path | None, typer.Option("--out", help="results folder; by default results/NAME")
]
Workers = Annotated[
    int | None,
    typer.Option(help="worker processes; by default one for each GPU, or each core", min=1),
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
RUNS = Path("runs")


def open_plan(config: Path, overrides: list[str] | None, runs: Path) -> Plan:
    """The plan of a sweep's YAML with overrides laid over it."""
    from scaling.config import SweepConfig, load
    from scaling.sweeps.plan import make_plan

    return make_plan(load(SweepConfig, config, overrides or ()), str(config), runs)


def open_index(config: Path, overrides: list[str] | None, runs: Path) -> Index:
    """The runs of a sweep's YAML with overrides laid over it, planned before if possible."""
    from scaling.config import SweepConfig, load
    from scaling.sweeps.index import index_of

    return index_of(load(SweepConfig, config, overrides or ()), str(config), runs)


def results_folder(plan: Plan, folder: Path | None) -> Path:
    """Where a sweep's results go: where the user says, or results/NAME."""
    return folder or Path("results", plan.sweep.name)


def clock(seconds: float | None) -> str:
    """Minutes and seconds, or from an hour on hours and minutes: 3:05, 12h04."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, of_hour = divmod(minutes, 60)
    return f"{hours}h{of_hour:02d}" if hours else f"{minutes}:{rest:02d}"
