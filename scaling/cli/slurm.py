"""`scaling sweep run --launcher slurm`: its options, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling.cli.terminal import err
from scaling.errors import UserError

if TYPE_CHECKING:
    from scaling.sweeps.ledger import Standing
    from scaling.sweeps.plan import PlannedRun


class Launcher(StrEnum):
    """What starts the workers."""

    LOCAL = "local"
    SLURM = "slurm"


_PANEL = "With --launcher slurm"


def _option(text: str, **settings: Any) -> Any:
    return typer.Option(help=text, rich_help_panel=_PANEL, **settings)


Which = Annotated[Launcher, typer.Option("--launcher", help="what starts the workers")]
Partition = Annotated[str | None, _option("partition; by default the cluster's default")]
Account = Annotated[str | None, _option("account that is charged")]
GpusPerRun = Annotated[int | None, _option("GPUs of a run; by default none", min=0)]
CpusPerRun = Annotated[int | None, _option("cores of a run; by default 1 on each node", min=1)]
NodesPerRun = Annotated[int | None, _option("nodes of a run; by default 1", min=1)]
Minutes = Annotated[
    int | None,
    typer.Option(
        "--time", min=1, rich_help_panel=_PANEL,
        help="wall time of a job in minutes, by default 60; a run may take longer",
    ),
]
Wait = Annotated[
    bool | None,
    typer.Option(
        "--wait/--no-wait", rich_help_panel=_PANEL,
        help="watch until all runs are over, as by default, or leave once the jobs are queued",
    ),
]
Further = Annotated[
    list[str] | None,
    typer.Option(
        "--slurm", metavar="KEY=VALUE", rich_help_panel=_PANEL,
        help="further option of sbatch, such as qos=high; may be given again",
    ),
]


@dataclass(frozen=True)
class SlurmOptions:
    """The options as given; None for one that was not."""

    partition: str | None
    gpus_per_run: int | None
    cpus_per_run: int | None
    nodes_per_run: int | None
    time: int | None
    account: str | None
    wait: bool | None
    slurm: list[str] | None

    def refuse(self) -> None:
        """The local launcher has no use for any of them.

        Raises:
            UserError: one was given.
        """
        given = [name for name, value in vars(self).items() if value not in (None, [])]
        if given:
            raise UserError(
                f"--{given[0].replace('_', '-')}: only for Slurm; add --launcher slurm, or leave "
                "it out"
            )

    def train(
        self,
        stage: Sequence[PlannedRun],
        workers: int | None,
        logs: Path,
        name: str,
        requested: Callable[[], int | None],
        watch: Callable[[Sequence[Standing]], None],
        pack: str | int,
    ) -> int | None:
        """Have the runs trained by Slurm; waits unless told not to.

        Returns:
            The signal that asked to stop waiting, or None.

        Raises:
            UserError: the jobs cannot be submitted.
            typer.Exit: the jobs are queued, and the user does not want to wait.
        """
        from scaling.sweeps.slurm import Request, sbatch_options, submit, wait

        if workers is None:
            raise UserError(
                "--launcher slurm: say how many jobs may train at once, such as --workers 4"
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
            f"submitted job {done.job} of {done.workers} worker(s); they print into "
            f"{logs / name}.slurm" if done.job else "nothing submitted: these will do",
            markup=False,
        )
        if self.wait is False:
            err.print("`scaling sweep status` shows how far they are", markup=False)
            raise typer.Exit
        stopped_by = wait(stage, logs, name, requested, watch)
        if stopped_by:
            err.print("the jobs go on without this command; it may be run again", markup=False)
        return stopped_by
