"""Options of commands that fit laws to a table, and their parsing: forms and columns; the list of
laws."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from scaling.console import out, print_table
from scaling.errors import UserError

if TYPE_CHECKING:
    from scaling.laws import Form
    from scaling.laws.forms.wrapped import Residuals

SIZES = ("n", "d", "c")
"""Variables with options of their own; --column is for all others."""

COLUMNS, LAWS, FITS, EVIDENCE = "Columns and rows", "Laws", "Fit", "Evidence"
"""Panels of options in the help."""

FixOption = Annotated[list[str] | None, typer.Option(
    metavar="NAME=VALUE", help="Fix a parameter of --law at a value; may be repeated.",
    rich_help_panel=LAWS, show_default=False)]
TieOption = Annotated[list[str] | None, typer.Option(
    metavar="A=B", help="Tie parameter B of --law to parameter A; may be repeated.",
    rich_help_panel=LAWS, show_default=False)]
NColumn = Annotated[str | None, typer.Option(
    "--n", metavar="COLUMN", help="Column of parameter counts.", rich_help_panel=COLUMNS,
    show_default=False)]
DColumn = Annotated[str | None, typer.Option(
    "--d", metavar="COLUMN", help="Column of training tokens.", rich_help_panel=COLUMNS,
    show_default=False)]
CColumn = Annotated[str | None, typer.Option(
    "--c", metavar="COLUMN", help="Column of training FLOPs.", rich_help_panel=COLUMNS,
    show_default=False)]
LossColumns = Annotated[list[str] | None, typer.Option(
    "--loss", metavar="COLUMN", rich_help_panel=COLUMNS, show_default=False,
    help="Column of losses in nats per token, or of another outcome of the law; may be repeated, "
         "to fit the laws to each.")]
LossColumn = Annotated[str | None, typer.Option(
    "--loss", metavar="COLUMN", rich_help_panel=COLUMNS, show_default=False,
    help="Column of losses in nats per token, or of another outcome of the law.")]
OtherColumns = Annotated[list[str] | None, typer.Option(
    metavar="NAME=COLUMN", rich_help_panel=COLUMNS, show_default=False,
    help="Column of another variable of --law (names in `scaling fit --list`); may be repeated.")]
WhereOption = Annotated[str | None, typer.Option(
    metavar="EXPR", help="Fit only the rows that satisfy this condition.",
    rich_help_panel=COLUMNS, show_default=False)]
ClusterColumn = Annotated[str | None, typer.Option(
    "--cluster", metavar="COLUMN", rich_help_panel=COLUMNS, show_default=False,
    help="Column that tells which rows are of one run: resamples draw whole runs.")]
SchedulesFile = Annotated[Path | None, typer.Option(
    "--schedules", metavar="FILE", rich_help_panel=COLUMNS, show_default=False,
    help="CSV or Parquet table of learning rate schedules for multi-power and functional: columns "
         "schedule, step (from 1) and rate, which is linear between rows.")]
FinalRows = Annotated[bool, typer.Option(
    "--final", rich_help_panel=COLUMNS,
    help="Fit only the last row of each run, in a table of checkpoints.")]
SmoothRows = Annotated[int, typer.Option(
    "--smooth", metavar="K", rich_help_panel=COLUMNS,
    help="Average the loss of the last K rows of each run, with --final.")]
StrictRuns = Annotated[bool, typer.Option(
    "--strict", rich_help_panel=COLUMNS,
    help="Leave out unhealthy runs, which are otherwise named in a warning: runs that diverged "
         "late, cooled down too briefly, warmed up for too long, or have a training curve that is "
         "not like the others.")]
FrontierOption = Annotated[Literal["pareto", "binned"] | None, typer.Option(
    "--frontier", rich_help_panel=COLUMNS, show_default=False,
    help="Fit only the runs of the lowest loss for their compute: those that no run of as much "
         "compute or less surpasses, or the best one of each of --bins bins of log C.")]
BinsOption = Annotated[int | None, typer.Option(
    "--bins", metavar="K", rich_help_panel=COLUMNS, show_default=False,
    help="Number of bins of --frontier binned; 10 by default.")]
NConvention = Annotated[Literal["total", "non-embedding"] | None, typer.Option(
    help="Parameters that N counts; by default those that each law's paper counts.",
    rich_help_panel=COLUMNS, show_default=False)]
RESAMPLES = 1000
Resamples = Annotated[int, typer.Option(
    help="Bootstrap resamples, at most 100,000; 0 for no intervals.", rich_help_panel=FITS)]
ProfileNames = Annotated[list[str] | None, typer.Option(
    metavar="NAME", rich_help_panel=EVIDENCE, show_default=False,
    help="Show the profile of the objective along this parameter; may be repeated.")]


def show_list(requested: bool) -> None:
    """Print all forms and end the command."""
    if not requested:
        return
    from scaling.laws.approaches.frontier import APPROACHES
    from scaling.laws.forms.catalogue import DEFAULT, NAMED
    from scaling.laws.forms.variables import VARIABLES

    law_columns = ("law", "formula", "variables", "outcome", "source")
    print_table("", law_columns, [
        (name, form.formula, ", ".join(form.variables), form.outcome, form.source)
        for name, form in NAMED.items()
    ], left=law_columns)
    out.print()
    print_table("", ("approach", "method"), list(APPROACHES.items()), left=("method",))
    out.print()
    columns = ("variable", "symbol", "unit", "option")
    print_table("", columns, [
        (name, v.symbol, v.unit, f"--{name} COLUMN" if name in SIZES
         else f"--column {name}=COLUMN" + (f" (by default {v.column})" if v.column else ""))
        for name, v in VARIABLES.items()
    ], left=columns)
    out.print(f"Without --law: {', '.join(DEFAULT)}.", markup=False)
    raise typer.Exit


def forms(
    law: Sequence[str], fix: Sequence[str] | None, tie: Sequence[str] | None,
    residuals: Residuals = "log", schedules: Path | None = None,
) -> list[Form]:
    """The forms of `--law`, with the parameters of `--fix` and `--tie` constrained, and with the
    learning rate schedules of `--schedules`."""
    from scaling.laws import constrain, form_named, schedule_law
    from scaling.laws.forms.catalogue import DEFAULT
    from scaling.laws.forms.schedule_laws import SCHEDULE_FORMS
    from scaling.laws.forms.wrapped import of_raw_outcome

    if schedules is not None and not {*law} & {*SCHEDULE_FORMS}:
        raise UserError(f"--schedules {schedules}: no fitted law is of learning rate schedules; "
                        f"choose one with --law {' or --law '.join(SCHEDULE_FORMS)}")

    fixed = {name: _value(name, text) for name, text in _pairs(fix, "--fix", "E=1.69").items()}
    tied = [(first, second) for second, first in
            _pairs([_swapped(pair) for pair in tie or ()], "--tie", "alpha=beta").items()]
    if (fixed or tied) and not law:
        raise UserError("--fix and --tie constrain parameters of a law: name the law, such as "
                        "--law chinchilla")
    every = [schedule_law(name, schedules) if schedules is not None and name in SCHEDULE_FORMS
             else form_named(name) for name in law or DEFAULT]
    every = [of_raw_outcome(form) for form in every] if residuals == "raw" else every
    return [constrain(form, fixed, tied) for form in every]


def _swapped(pair: str) -> str:
    """A=B as B=A: a parameter is tied to one other, to which many may be tied."""
    first, equals, second = pair.partition("=")
    return f"{second}{equals}{first}"


def _pairs(texts: Sequence[str] | None, option: str, example: str) -> dict[str, str]:
    """NAME=VALUE options as a dictionary."""
    found: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise UserError(f"{option} {text}: two names, or a name and a value, are expected with "
                            f"= between them, such as {option} {example}")
        if name in found:
            raise UserError(f"{option}: {name} is given twice; once is expected")
        found[name] = value
    return found


def _value(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise UserError(f"--fix {name}={text}: a finite number is expected, such as {name}=0.35")
    return value


def columns(
    column: Sequence[str] | None, variables: Collection[str],
    fix: str = "choose one that has it with --law (scaling fit --list)",
) -> dict[str, str]:
    """Columns by variable, from `--column`.

    Args:
        column: the values of the option.
        variables: those of the laws, one of which each has to be.
        fix: the end of the message about another variable.

    Raises:
        UserError: a value is not NAME=COLUMN, or names another variable.
    """
    from scaling.laws.forms.variables import VARIABLES

    found = _pairs(column, "--column", "experts=num_experts")
    for name in found:
        if name in SIZES:
            raise UserError(f"--column {name}={found[name]}: N, D and C have options of their own; "
                            f"use --{name} {found[name]}")
        if name not in VARIABLES:
            names = ", ".join(v for v in VARIABLES if v not in SIZES)
            raise UserError(f"--column {name}={found[name]}: no law has a variable {name}; "
                            f"one of {names} is expected")
        if name not in variables:
            raise UserError(f"--column {name}={found[name]}: no fitted law has the variable "
                            f"{name}; {fix}")
    return found
