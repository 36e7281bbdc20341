"""`scaling forecast`: predictions that are sealed before their runs exist, and checked afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from scaling.cli.allocate import check_given, pairs
from scaling.cli.fit_options import columns as extra_columns
from scaling.cli.options import JsonSwitch
from scaling.cli.predict import fits_named, points_of
from scaling.cli.sweep_options import RunsFolder, open_plan
from scaling.console import err, notice, out, print_json, print_table, print_text, tables_hidden
from scaling.errors import UserError
from scaling.runs import RUNS

if TYPE_CHECKING:
    import pandas as pd

    from scaling.laws import Fit
    from scaling.laws.forecasts import ForecastCheck, SealedForecast

_CHECK = "scaling forecast check"

app = typer.Typer(
    help="Seal predictions before their runs exist, and check them afterwards.",
    no_args_is_help=True)


@app.command()
def seal(
    law: Annotated[str, typer.Argument(
        metavar="LAW", help="Name of a published law, a JSON file that `scaling fit` wrote, or a "
                            "results folder with laws.json.")],
    ledger: Annotated[Path, typer.Option(
        metavar="FILE", help="Ledger of forecasts to append to, or a new file.")],
    n: Annotated[list[str] | None, typer.Option(
        "--n", metavar="N", show_default=False,
        help="Number of parameters of the run, as the law counts them; several as 1e8,1e9, or "
             "repeated.")] = None,
    d: Annotated[list[str] | None, typer.Option(
        "--d", metavar="D", show_default=False,
        help="Number of training tokens; one for each N, or one for all.")] = None,
    heldout_of: Annotated[Path | None, typer.Option(
        metavar="SWEEP", show_default=False,
        help="Instead of --n and --d: forecast every held-out run that is not finished, of this "
             "sweep file, runs table or results folder.")] = None,
    form: Annotated[list[str] | None, typer.Option(
        "--law", help="The law to use of a file with several; may be repeated. By default all "
                      "that can predict the run.", show_default=False)] = None,
    given: Annotated[list[str] | None, typer.Option(
        metavar="NAME=VALUE", help="Value of another variable of the law, such as experts=8; may "
                                   "be repeated.", show_default=False)] = None,
    note: Annotated[str, typer.Option(
        metavar="TEXT", help="Text to keep with the forecast.", show_default=False)] = "",
    runs: RunsFolder = RUNS,
    json_output: JsonSwitch = False,
) -> None:
    """Append forecasts to a ledger: law, run, prediction and 90% interval, with a date and a hash.

    Example: `scaling forecast seal results/quickstart --heldout-of configs/sweeps/quickstart.yaml
    --ledger results/quickstart/forecasts.jsonl`

    Example: `scaling forecast seal laws.json --law chinchilla --n 1e9 --d 2e10 --ledger
    forecasts.jsonl`

    Each record has the hash of the one before, so a record that is changed, removed or moved later
    is noticed. A forecast that the ledger has already is not repeated. Keep the last hash outside
    the file, such as in a commit: it shows that no record was removed from the end.
    """
    from scaling.laws.forecasts.ledger import append, check_ledger, check_note
    from scaling.laws.forecasts.outcomes import RunColumns
    from scaling.laws.forecasts.seal import forecast, heldout_forecasts, waiting_runs

    check_note(note)
    values = pairs(given or [], "--given")
    if heldout_of is not None and (n, d, given) != (None, None, None):
        raise UserError("--heldout-of takes the values of the runs from the sweep; leave --n, --d "
                        "and --given out")
    points = points_of(n, d, None) if heldout_of is None else []
    laws = _chosen(law, form)
    check_given(values, [fit.law for _, fit in laws])
    check_ledger(ledger)
    contents: list[dict[str, Any]] = []
    failed: dict[str, UserError] = {}
    frame, source = (None, "") if heldout_of is None else _runs_of(heldout_of, runs)
    if frame is not None and not waiting_runs(frame, source):
        notice(f"{source}: every held-out run is finished, and forecasts are sealed before their "
               "runs; nothing was sealed")
        if json_output:
            print_json({"forecasts": []})
        return
    for name, fit in laws:
        try:
            contents += ([forecast(fit, point | values, note=note, name=name) for point in points]
                         if frame is None else heldout_forecasts(
                             fit, frame, source, RunColumns(), note=note, name=name))
        except UserError as reason:
            failed[name] = reason
    if not contents:
        raise next(iter(failed.values()))
    for name, error in failed.items():
        err.print(f"not sealed: {name}: {str(error).removeprefix(f'{name}: ')}", markup=False)
    began = datetime.now(UTC)
    sealed = append(ledger, contents)
    if json_output:
        print_json({"forecasts": [_row(each, began) for each in sealed]})
        return
    _print_sealed(sealed, ledger, began)


@app.command()
def check(
    ledger: Annotated[Path, typer.Argument(
        metavar="LEDGER", help="Ledger that `scaling forecast seal` wrote.")],
    table: Annotated[Path, typer.Argument(
        metavar="RUNS", help="CSV or Parquet table of runs, or a results folder with runs.csv.")],
    n: Annotated[str | None, typer.Option(
        "--n", metavar="COLUMN", help="Column of parameter counts; by default as in the runs that "
                                      "each law was fitted to.", show_default=False)] = None,
    d: Annotated[str | None, typer.Option(
        "--d", metavar="COLUMN", help="Column of training tokens.", show_default=False)] = None,
    c: Annotated[str | None, typer.Option(
        "--c", metavar="COLUMN", help="Column of training FLOPs.", show_default=False)] = None,
    loss: Annotated[str | None, typer.Option(
        "--loss", metavar="COLUMN", show_default=False,
        help="Column of losses in nats per token, or of another outcome of the law.")] = None,
    column: Annotated[list[str] | None, typer.Option(
        metavar="NAME=COLUMN", show_default=False,
        help="Column of another variable of the laws; may be repeated.")] = None,
    where: Annotated[str | None, typer.Option(
        metavar="EXPR", help="Read only the rows of the grid that satisfy this condition, as when "
                             "the laws were fitted.", show_default=False)] = None,
    n_convention: Annotated[Literal["total", "non-embedding"] | None, typer.Option(
        help="Parameters that N counts; by default those that each law counts.",
        show_default=False)] = None,
    tolerance: Annotated[float, typer.Option(
        help="Largest relative difference between a run's N, D and so on and those of a forecast "
             "without a run_id.")] = 1e-3,
    head: Annotated[str | None, typer.Option(
        metavar="HASH", show_default=False,
        help="Hash of a record, noted when it was sealed, which the ledger has to have still.",
        )] = None,
    runs: RunsFolder = RUNS,
    out_file: Annotated[Path | None, typer.Option(
        "--out", metavar="FILE", help="Write the check to this JSON file.",
        show_default=False)] = None,
    json_output: JsonSwitch = False,
) -> None:
    """Check the forecasts of a ledger against the runs that have finished since.

    Example: `scaling forecast check results/quickstart/forecasts.jsonl results/quickstart`

    Shows the error of each forecast and whether its interval contains the outcome; and of all, the
    coverage, the width and the calibration. A forecast that was sealed after its run began, or by a
    law that was fitted to the run, is named and not scored. When runs began and ended is read from
    the columns started and finished, or from the folder of runs. The exit status is 2 if a record
    was changed, removed or moved; the message names its line.
    """
    from scaling.laws import check_forecasts
    from scaling.laws.frames import table_path
    from scaling.outputs import json_output as json_file
    from scaling.outputs import with_command
    from scaling.runs.state import run_times

    if out_file is not None:
        output = json_file(out_file, _CHECK, [ledger, table_path(table)])
        output.check()
    found = check_forecasts(
        ledger, table, n=n, d=d, c=c, loss=loss, counting=n_convention,
        extra=_columns(column, ledger), where=where, tolerance=tolerance, head=head,
        times=lambda run_id: run_times(runs, run_id))
    text = with_command(found.to_json(), _CHECK)
    with tables_hidden(json_output):
        _print_check(found)
    if out_file is not None:
        output.write(text)
        err.print(f"wrote {out_file}", markup=False)
    if json_output:
        print_text(text)


def _chosen(law: str, names: Sequence[str] | None) -> list[tuple[str, Fit]]:
    """The laws of a file with these names, or all; or a published law."""
    laws = fits_named(law)
    known = [name for name, _ in laws]
    for name in names or ():
        if name not in known:
            raise UserError(f"--law {name}: {law} has {', '.join(known)}; name one of them")
    return [(name, fit) for name, fit in laws if not names or name in names]


def _runs_of(path: Path, runs: Path) -> tuple[pd.DataFrame, str]:
    """The runs of a sweep file, or of a table, with its name in messages."""
    from scaling.laws.frames import read_frame, table_path
    from scaling.sweeps.table import runs_table

    if path.suffix in (".yaml", ".yml"):
        return runs_table(open_plan(path, None, runs)), str(path)
    path = table_path(path)
    return read_frame(path), str(path)


def _columns(column: Sequence[str] | None, ledger: Path) -> dict[str, str | None]:
    """Columns by variable, from --column."""
    from scaling.laws import read_ledger

    if not column:
        return {}
    known = {v for each in read_ledger(ledger) for v in each.variables}
    return {**extra_columns(column, known, "leave it out")}


def _print_sealed(sealed: Sequence[SealedForecast], ledger: Path, began: datetime) -> None:
    from scaling.laws import show

    print_table("", ("law", "run", "N", "D", "predicted", "90% interval", "line", "sealed"), [
        (each.law.name, each.run_id or "any", show.short(each.variables.get("n")),
         show.short(each.variables.get("d")), show.number(each.prediction),
         show.span(each.interval), str(each.line),
         f"{each.date:%Y-%m-%d %H:%M:%S} UTC" + ("" if each.date >= began else ", before"))
        for each in sealed], left=("run", "sealed"))
    last = max(sealed, key=lambda each: each.line)
    out.print(f"line {last.line} of {ledger} has the hash {last.sha256}", markup=False)


def _row(each: SealedForecast, began: datetime) -> dict[str, Any]:
    return {"line": each.line, "date": each.date.isoformat(), "new": each.date >= began,
            "law": each.law.name, "run_id": each.run_id, "variables": dict(each.variables),
            "prediction": each.prediction, "interval": each.interval,
            "quantiles": {str(p): value for p, value in each.quantiles.items()},
            "sha256": each.sha256}


def _print_check(found: ForecastCheck) -> None:
    for part in found.parts():
        if isinstance(part, str):
            out.print(part, markup=False, style="yellow" if part.startswith("warning") else None)
        else:
            print_table("", part.columns, part.rows, part.left_aligned)
