"""`scaling sweep run --launcher slurm`: options and messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling.console import err
from scaling.errors import UserError

if TYPE_CHECKING:
    from scaling.runs.planned import PlannedRun
    from scaling.runs.state import RunState


class Launcher(StrEnum):
    """Launchers of workers."""

    LOCAL = "local"
    SLURM = "slurm"


_PANEL = "With --launcher slurm"


def _option(text: str, **settings: Any) -> Any:
    return typer.Option(help=text, rich_help_panel=_PANEL, **settings)


LauncherOption = Annotated[Launcher, typer.Option(
    "--launcher", help="Launcher of the workers: local processes or Slurm jobs.")]
Partition = Annotated[str | None, _option("Partition; by default the cluster's default.")]
Account = Annotated[str | None, _option("Account to charge; by default the user's default.")]
GpusPerRun = Annotated[int | None, _option("GPUs per run; none by default.", min=0)]
CpusPerRun = Annotated[int | None, _option("Cores per run; one on each node by default.", min=1)]
NodesPerRun = Annotated[int | None, _option("Nodes per run; 1 by default.", min=1)]
Minutes = Annotated[
    int | None,
    typer.Option(
        "--time", min=1, metavar="MINUTES", rich_help_panel=_PANEL,
        help="Wall time of a job in minutes; 60 by default. A run may take longer.",
    ),
]
Wait = Annotated[
    bool | None,
    typer.Option(
        "--wait/--no-wait", rich_help_panel=_PANEL,
        help="Wait until all runs are over (the default), or return once the jobs are queued.",
    ),
]
SbatchOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--slurm", metavar="KEY=VALUE", rich_help_panel=_PANEL,
        help="Further option of sbatch, such as qos=high; may be repeated.",
    ),
]


@dataclass(frozen=True)
class SlurmOptions:
    """The given options; None for one that was not given."""

    partition: str | None
    gpus_per_run: int | None
    cpus_per_run: int | None
    nodes_per_run: int | None
    time: int | None
    account: str | None
    wait: bool | None
    slurm: list[str] | None

    def refuse(self) -> None:
        """Check that no option was given: the local launcher uses none of them.

        Raises:
            UserError: an option was given.
        """
        given = [name for name, value in vars(self).items() if value not in (None, [])]
        if given:
            raise UserError(
                f"--{given[0].replace('_', '-')}: needs Slurm; add --launcher slurm, or leave "
                "it out"
            )

    def train(
        self,
        stage: Sequence[PlannedRun],
        workers: int | None,
        logs: Path,
        name: str,
        requested: Callable[[], int | None],
        watch: Callable[[Sequence[RunState]], None],
        pack: str | int,
    ) -> int | None:
        """Train the runs by Slurm jobs, and wait for them unless `--no-wait` was given.

        Returns:
            The signal that ended the wait, or None.

        Raises:
            UserError: the jobs cannot be submitted.
            typer.Exit: the jobs are queued, with `--no-wait`.
        """
        from scaling.launch.slurm import Request, sbatch_options, submit, wait

        if workers is None:
            raise UserError(
                "--launcher slurm: needs the number of concurrent jobs, such as --workers 4"
            )
        nodes = self.nodes_per_run or 1
        request = Request(
            workers=workers, partition=self.partition, gpus_per_run=self.gpus_per_run or 0,
            cpus_per_run=self.cpus_per_run or nodes, nodes_per_run=nodes,
            minutes=self.time or Request.minutes, account=self.account,
            options=sbatch_options(self.slurm or ()),
        )
        done = submit(stage, request, logs, name, pack)
        if done.there:
            err.print(
                f"{len(done.there)} worker(s) of this sweep are queued or running already "
                f"({', '.join(done.there)})", markup=False,
            )
        err.print(
            f"submitted job {done.job} of {done.workers} worker(s); their output is in "
            f"{logs / name}.slurm" if done.job else "nothing submitted: these are enough",
            markup=False,
        )
        if self.wait is False:
            err.print("`scaling sweep status` shows their progress", markup=False)
            raise typer.Exit
        stopped_by = wait(stage, logs, name, requested, watch)
        if stopped_by:
            err.print("the jobs continue without this command; run it again to wait for them",
                      markup=False)
        return stopped_by
