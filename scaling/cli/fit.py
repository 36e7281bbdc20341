"""`scaling fit`: from runs to laws."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from scaling.cli import evidence
from scaling.cli.approaches import fit_all, show_all, split
from scaling.cli.terminal import err, finite, out, print_table
from scaling.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from scaling.laws import Form, Law, Robust, RunsTable

_SIZES = ("n", "d", "c")  # have options of their own; --column names any other variable
_COLUMNS, _LAWS, _FITS, _EVIDENCE = "Columns and rows", "Laws", "Fit", "Evidence"


def _show_list(wanted: bool) -> None:
    """Print every form and end the command."""
    if not wanted:
        return
    from scaling.laws import FORMS
    from scaling.laws.forms.catalogue import DEFAULT
    from scaling.laws.variables import VARIABLES

    _print_list(("law", "formula", "variables", "outcome", "source"), [
        (name, form.formula, ", ".join(form.variables), form.outcome, form.source)
        for name, form in FORMS.items()
    ])
    out.print()
    _print_list(("variable", "symbol", "unit", "option"), [
        (name, v.symbol, v.unit, f"--{name} COLUMN" if name in _SIZES
         else f"--column {name}=COLUMN" + (f" (by default {v.column})" if v.column else ""))
        for name, v in VARIABLES.items()
    ])
    out.print(f"Without --law: {', '.join(DEFAULT)}.", markup=False)
    raise typer.Exit


def _print_list(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table of words: to the left, and folded where the terminal is narrow."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for place, name in enumerate(columns):
        table.add_column(name, no_wrap=place == 0, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    out.print(table)


def fit(
    runs: Annotated[Path, typer.Argument(
        metavar="RUNS", help="CSV or Parquet table of runs, or a results folder with runs.csv.")],
    law: Annotated[list[str] | None, typer.Option(
        help="Law to fit, or approach-1, approach-2, approach-2-akima; may be given again. By "
             "default Kaplan's four and Chinchilla.",
        rich_help_panel=_LAWS, show_default=False)] = None,
    list_: Annotated[bool, typer.Option(
        "--list", callback=_show_list, is_eager=True, rich_help_panel=_LAWS,
        help="List every law: formula, variables, outcome, source.")] = False,
    fix: Annotated[list[str] | None, typer.Option(
        metavar="NAME=VALUE", help="Hold a parameter of --law at a value; may be given again.",
        rich_help_panel=_LAWS, show_default=False)] = None,
    tie: Annotated[list[str] | None, typer.Option(
        metavar="A=B", help="Keep parameter B of --law equal to A; may be given again.",
        rich_help_panel=_LAWS, show_default=False)] = None,
    n: Annotated[str | None, typer.Option(
        "--n", metavar="COLUMN", help="Column of parameters.", rich_help_panel=_COLUMNS,
        show_default=False)] = None,
    d: Annotated[str | None, typer.Option(
        "--d", metavar="COLUMN", help="Column of training tokens.", rich_help_panel=_COLUMNS,
        show_default=False)] = None,
    c: Annotated[str | None, typer.Option(
        "--c", metavar="COLUMN", help="Column of training FLOPs.", rich_help_panel=_COLUMNS,
        show_default=False)] = None,
    loss: Annotated[str | None, typer.Option(
        "--loss", metavar="COLUMN", rich_help_panel=_COLUMNS, show_default=False,
        help="Column of losses, nats per token, or of what else the law predicts.")] = None,
    column: Annotated[list[str] | None, typer.Option(
        metavar="NAME=COLUMN", rich_help_panel=_COLUMNS, show_default=False,
        help="Column of another variable of --law, as --list names it; may be given again.",
        )] = None,
    where: Annotated[str | None, typer.Option(
        metavar="EXPR", help="Fit only the rows for which this is true.",
        rich_help_panel=_COLUMNS, show_default=False)] = None,
    n_convention: Annotated[Literal["total", "non-embedding"] | None, typer.Option(
        help="Which parameters N counts; by default what each law's paper counts.",
        rich_help_panel=_COLUMNS, show_default=False)] = None,
    objective: Annotated[Literal["huber", "l1", "squared"] | None, typer.Option(
        help="What residuals of the log-loss cost; by default each law's own.",
        rich_help_panel=_FITS, show_default=False)] = None,
    delta: Annotated[float | None, typer.Option(
        help="Where Huber's loss turns linear, in log-loss; 1e-3 by default.",
        rich_help_panel=_FITS, show_default=False)] = None,
    bootstrap: Annotated[int, typer.Option(
        help="Resamples; 0 for no intervals.", rich_help_panel=_FITS)] = 1000,
    by: Annotated[Literal["case", "residual", "size"], typer.Option(
        "--resample", rich_help_panel=_FITS,
        help="What a resample draws: runs, residuals, or sizes with all of their runs.")] = "case",
    interval: Annotated[Literal["bca", "percentile"], typer.Option(
        help="How intervals are made of the resamples.", rich_help_panel=_FITS)] = "bca",
    seed: Annotated[int, typer.Option(help="Of the resamples.", rich_help_panel=_FITS)] = 0,
    noise: Annotated[float | None, typer.Option(
        help="Standard deviation of the log-loss from run to run, for approach-2; by default as "
             "the runs show it.", rich_help_panel=_FITS, show_default=False)] = None,
    profile: Annotated[list[str] | None, typer.Option(
        metavar="NAME", rich_help_panel=_EVIDENCE, show_default=False,
        help="Show the objective along this parameter; may be given again.")] = None,
    compare: Annotated[bool, typer.Option(
        "--compare", rich_help_panel=_EVIDENCE,
        help="Ask which of the laws foretells sizes that it has not seen.")] = False,
    rolling: Annotated[Literal["n", "d", "c"] | None, typer.Option(
        rich_help_panel=_EVIDENCE, show_default=False,
        help="Fit the runs that are small in this variable, and predict the large ones.")] = None,
    sensitivity: Annotated[bool, typer.Option(
        "--sensitivity", rich_help_panel=_EVIDENCE,
        help="Fit with other objectives, without the largest losses and without each size, and "
             "look at the residuals.")] = False,
    checklist: Annotated[bool, typer.Option(
        "--checklist", rich_help_panel=_EVIDENCE,
        help="Answer what a reader of a scaling law has to be told.")] = False,
    evidence_file: Annotated[Path | None, typer.Option(
        "--evidence", metavar="FILE", rich_help_panel=_EVIDENCE, show_default=False,
        help="Also write these to this file, as JSON.")] = None,
    json_file: Annotated[Path | None, typer.Option(
        "--json", metavar="FILE", help="Also write the laws to this file.",
        show_default=False)] = None,
) -> None:
    """Fit scaling laws to a table of runs.

    Example: `scaling fit results/quickstart --json results/quickstart/laws.json`

    Example: `scaling fit published.csv --n "Model Size" --c "Training FLOP" --law chinchilla`

    Example: `scaling fit runs.csv --where "tokens > 1e9 and corpus == 'c4'"`

    Example: `scaling fit runs.csv --law chinchilla --fix E=1.69 --tie alpha=beta`

    Example: `scaling fit isoflop.csv --law approach-2 --law approach-2-akima --law chinchilla`

    Example: `scaling fit moe.csv --law NAME --column experts=num_experts`, with a NAME of
    `scaling fit --list`

    Example: `scaling fit runs.csv --law chinchilla --law kaplan-nd --n-convention total
    --profile alpha --compare --rolling c --sensitivity --checklist`

    Only finished runs of the grid are fitted; diverged, failed, planned and held-out ones are
    counted. Of N, D and C any two are enough: C = 6 N D gives the third.
    """
    from scaling.files import write_atomically
    from scaling.laws import fit as fit_law
    from scaling.laws import from_frame, save
    from scaling.laws.runs.table import file_of, read_frame

    if bootstrap < 0 or seed < 0:
        raise UserError("--bootstrap and --seed are whole numbers from zero on")
    wanted = evidence.Wanted(profile or (), compare, rolling, sensitivity, checklist)
    if evidence_file is not None and not any(wanted):
        raise UserError(f"--evidence {evidence_file}: nothing to write; ask for --profile, "
                        "--compare, --rolling, --sensitivity or --checklist")
    if compare and len(law or ()) < 2:
        raise UserError("--compare: two laws or more are expected, such as --law chinchilla "
                        "--law kaplan-nd")
    approaches, named = split(law)
    forms = _forms(named, fix, tie) if named or not approaches else []
    columns = _columns(column, forms)
    path = file_of(runs)
    frame = read_frame(path)
    tables: dict[tuple[object, ...], RunsTable] = {}
    laws: list[evidence.Fitted] = []
    failed: list[UserError] = []
    for form in forms:
        counting = n_convention or (None if n else form.counting)
        beside = {v: columns.get(v) for v in form.variables if v not in _SIZES}
        needs = _needs(form, frame) if law else _SIZES
        try:
            key = (counting, needs, *beside)
            if key not in tables:
                tables[key] = from_frame(frame, str(path), n=n, d=d, c=c, loss=loss, where=where,
                                         counting=counting, others=beside, needs=needs)
            table = tables[key]
            robust = _robust(form.robust, objective, delta)
            fitted = fit_law(table, form, robust=robust, resamples=bootstrap, seed=seed, by=by,
                             method=interval)
            laws.append(evidence.Fitted(fitted, table, robust))
        except UserError as problem:
            if law:
                raise
            failed.append(problem)
    frontiers = fit_all(
        approaches, path, frame, columns={"n": n, "d": d, "c": c, "loss": loss}, where=where,
        counting=n_convention or (None if n else "total"), noise=noise, resamples=bootstrap,
        seed=seed)
    if not laws and not frontiers:
        raise failed[0]
    said = _print_input(path, tables.values())
    for one in laws:
        _print_law(one.law, said)
    show_all(frontiers)
    for reason in failed:
        err.print(f"not fitted: {reason}", markup=False)
    content = evidence.show(laws, frame, wanted)
    if evidence_file is not None:
        write_atomically(evidence_file, json.dumps(finite(content), indent=2) + "\n")
        err.print(f"wrote {evidence_file}", markup=False)
    if json_file is not None:
        save([*(one.law for one in laws), *frontiers], json_file)
        err.print(f"wrote {json_file}", markup=False)


def _forms(law: Sequence[str], fix: Sequence[str] | None, tie: Sequence[str] | None
           ) -> list[Form]:
    """The forms that are asked for, with their parameters held and tied."""
    from scaling.laws import constrain, form_named
    from scaling.laws.forms.catalogue import DEFAULT

    fixed = {name: _value(name, text) for name, text in _pairs(fix, "--fix", "E=1.69").items()}
    tied = [(first, second) for second, first in
            _pairs([_turned(pair) for pair in tie or ()], "--tie", "alpha=beta").items()]
    if (fixed or tied) and not law:
        raise UserError("--fix and --tie hold parameters of a law: say which one, such as "
                        "--law chinchilla")
    return [constrain(form_named(name), fixed, tied) for name in law or DEFAULT]


def _turned(pair: str) -> str:
    """A=B as B=A: a parameter is tied to one other, and many may be tied to it."""
    first, equals, second = pair.partition("=")
    return f"{second}{equals}{first}"


def _pairs(texts: Sequence[str] | None, option: str, example: str) -> dict[str, str]:
    """NAME=VALUE options as a mapping."""
    found: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise UserError(f"{option} {text}: two names or a name and a value are expected, with "
                            f"an = between them, such as {option} {example}")
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
        raise UserError(f"--fix {name}={text}: {text} is no number; a value is expected, such as "
                        f"{name}=0.35")
    return value


def _columns(column: Sequence[str] | None, forms: Sequence[Form]) -> dict[str, str]:
    """`--column` options, each of a variable that some law has."""
    from scaling.laws.variables import VARIABLES

    found = _pairs(column, "--column", "experts=num_experts")
    for name in found:
        if name in _SIZES:
            raise UserError(f"--column {name}={found[name]}: N, D and C have options of their own; "
                            f"write --{name} {found[name]}")
        if name not in VARIABLES:
            names = ", ".join(v for v in VARIABLES if v not in _SIZES)
            raise UserError(f"--column {name}={found[name]}: no law has a variable {name}; "
                            f"expected is one of {names}")
        if all(name not in form.variables for form in forms):
            raise UserError(f"--column {name}={found[name]}: no law that is fitted has the "
                            f"variable {name}; name one that has with --law (scaling fit --list)")
    return found


def _needs(form: Form, frame: pd.DataFrame) -> tuple[str, ...]:
    """Which of N, D and C to read: the form's own, and others that one of our tables has."""
    from scaling.laws.runs.table import N_COLUMNS
    from scaling.laws.variables import VARIABLES

    ours = {"n": N_COLUMNS[form.counting], "d": VARIABLES["d"].column}
    return tuple(v for v in _SIZES if v in form.variables or ours.get(v) in frame.columns)


def _robust(own: Robust, objective: str | None, delta: float | None) -> Robust:
    """The objective that is asked for; `--delta` alone leaves laws without a delta as they are."""
    from scaling.laws import Robust

    kind = objective or own.kind
    if delta is None:
        return Robust(kind)  # type: ignore[arg-type]
    if not 0 < delta < float("inf"):
        raise UserError(f"--delta {delta:g}: a positive number is expected, such as 1e-3")
    if objective in ("l1", "squared"):
        raise UserError(f"--delta belongs to the huber objective; {objective} has none")
    return Robust("huber", delta) if kind == "huber" else own


def _print_input(path: Path, tables: Iterable[RunsTable]) -> set[str]:
    """Notes and warnings of the tables, each once; the warnings are returned."""
    notes = dict.fromkeys(note for table in tables for note in table.notes)
    warnings = dict.fromkeys(warning for table in tables for warning in table.warnings)
    for note in notes:
        err.print(f"{path}: {note}", markup=False)
    for warning in warnings:
        out.print(f"warning: {path}: {warning}", style="yellow", markup=False)
    return {*warnings}


def _print_law(law: Law, said: set[str]) -> None:
    """One law, without the warnings that were said already."""
    from scaling.laws import show

    out.print(f"{law.name}: {show.left_side(law.form)} = {law.form.formula}  ({law.form.source})",
              style="bold", markup=False)
    for line in (show.counted(law), show.convention(law), show.evidence(law)):
        out.print(line, markup=False)
    print_table("", show.PARAMETER_COLUMNS, show.parameters(law))
    if law.heldout:
        print_table("", ("held out", "N", "D", "predicted", "90% interval", "measured", "error"), [
            (run, show.count(row["n"]), show.count(row["d"]), show.number(row["predicted"]),
             show.span(row["interval"]), show.number(row["measured"]),
             show.percent(row["relative_error"]))
            for run, row in law.heldout.items()
        ])
    for warning in law.warnings:
        if warning not in said:
            out.print(f"warning: {warning}", style="yellow", markup=False)
    out.print()
