"""Options of the commands that start workers, `scaling sweep run` and `scaling data prepare`: the
launcher and the options that it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling.console import err
from scaling.errors import UserError

if TYPE_CHECKING:
    from scaling.launch.launcher import Launcher

LOCAL = "local"
"""Name of the default launcher."""

_PANEL = "With --launcher slurm"


def _option(text: str, **settings: Any) -> Any:
    return typer.Option(help=text, rich_help_panel=_PANEL, **settings)


LauncherName = Annotated[str, typer.Option(
    "--launcher", metavar="NAME",
    help="Launcher of the workers: local (processes of this machine), slurm (jobs of a cluster), "
         "or one that another package adds.")]
LauncherSettings = Annotated[
    list[str] | None,
    typer.Option("--launcher-option", metavar="KEY=VALUE",
                 help="Option of the launcher, such as partition=cpu; may be repeated."),
]
Partition = Annotated[str | None, _option("Partition; by default the cluster's default.")]
Account = Annotated[str | None, _option("Account to charge; by default the user's default.")]
GpusPerRun = Annotated[int | None, _option("GPUs per run; none by default.", min=0)]
CpusPerRun = Annotated[int | None, _option("Cores per run; one on each node by default.", min=1)]
NodesPerRun = Annotated[int | None, _option("Nodes per run; 1 by default.", min=1)]
Minutes = Annotated[
    int | None,
    typer.Option(
        "--time", min=1, metavar="MINUTES", rich_help_panel=_PANEL,
        help="Wall time of a job in minutes; 60 by default. Its work may take longer.",
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

_FIELDS = {"slurm": "sbatch"}
"""Options whose field in the launcher's options has another name."""


def open_launcher(
    name: str, settings: Sequence[str] | None, options: Mapping[str, object]
) -> Launcher:
    """The launcher of that name.

    Args:
        name: of a launcher.
        settings: values of `--launcher-option`.
        options: values of the options above by their names; those that are None or empty were not
            given.

    Raises:
        UserError: there is no such launcher, or it has no such option, or a value is invalid.
    """
    from scaling.config import override
    from scaling.launch.registry import find_launcher

    kind = find_launcher(name)
    given = {option: value for option, value in options.items() if value not in (None, [])}
    fields = {_FIELDS.get(option, option): value for option, value in given.items()}
    for option, field in zip(given, fields, strict=True):
        if field not in kind.options.model_fields:
            raise UserError(f"--{option.replace('_', '-')}: --launcher {name} has no such option; "
                            "choose --launcher slurm, or leave it out")
    for setting in settings or ():
        if setting.partition("=")[0] in fields:
            raise UserError(f"--launcher-option {setting}: is given by another option too; leave "
                            "one of them out")
    return kind.open(**override(fields, settings or ()))


def show(text: str) -> None:
    """Print a message of a launcher."""
    err.print(text, markup=False)
