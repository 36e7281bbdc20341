"""`scaling fit`: from runs to laws."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from scaling.cli.terminal import err, out, print_table
from scaling.errors import UserError

if TYPE_CHECKING:
    from scaling.laws import Law, Robust, RunsTable


def fit(
    runs: Annotated[Path, typer.Argument(
        metavar="RUNS", help="CSV or Parquet table of runs, or a results folder with runs.csv.")],
    law: Annotated[list[str] | None, typer.Option(
        help="Law to fit; may be given again. All by default.", show_default=False)] = None,
    n: Annotated[str | None, typer.Option("--n", help="Column of parameters.",
                                          show_default=False)] = None,
    d: Annotated[str | None, typer.Option("--d", help="Column of training tokens.",
                                          show_default=False)] = None,
    c: Annotated[str | None, typer.Option("--c", help="Column of training FLOPs.",
                                          show_default=False)] = None,
    loss: Annotated[str | None, typer.Option("--loss", help="Column of losses, nats per token.",
                                             show_default=False)] = None,
    n_convention: Annotated[Literal["total", "non-embedding"] | None, typer.Option(
        help="Which parameters N counts; by default what each law's paper counts.",
        show_default=False)] = None,
    objective: Annotated[Literal["huber", "l1", "squared"] | None, typer.Option(
        help="What residuals of the log-loss cost; by default each law's own.",
        show_default=False)] = None,
    delta: Annotated[float | None, typer.Option(
        help="Where Huber's loss turns linear, in log-loss; 1e-3 by default.",
        show_default=False)] = None,
    bootstrap: Annotated[int, typer.Option(help="Resamples; 0 for no intervals.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the resamples.")] = 0,
    json_file: Annotated[Path | None, typer.Option(
        "--json", metavar="FILE", help="Also write the laws to this file.",
        show_default=False)] = None,
) -> None:
    """Fit scaling laws to a table of runs.

    Example: `scaling fit results/quickstart --json results/quickstart/laws.json`

    Example: `scaling fit published.csv --n "Model Size" --c "Training FLOP" --law chinchilla`

    Only finished runs of the grid are fitted; diverged, failed, planned and held-out ones are
    counted. Of N, D and C any two are enough: C = 6 N D gives the third.
    """
    from scaling.laws import FORMS, form_named, read, save
    from scaling.laws import fit as fit_law

    if bootstrap < 0 or seed < 0:
        raise UserError("--bootstrap and --seed are whole numbers from zero on")
    forms = [form_named(name) for name in law] if law else list(FORMS.values())
    tables: dict[str, RunsTable] = {}
    laws: list[Law] = []
    failed: list[UserError] = []
    for form in forms:
        counting = n_convention or (None if n else form.counting)
        if str(counting) not in tables:
            tables[str(counting)] = read(runs, n=n, d=d, c=c, loss=loss, counting=counting)
        table = tables[str(counting)]
        try:
            robust = _robust(form.robust, objective, delta)
            laws.append(fit_law(table, form, robust=robust, resamples=bootstrap, seed=seed))
        except UserError as problem:
            if law:
                raise
            failed.append(problem)
    if not laws:
        raise failed[0]
    for note in next(iter(tables.values())).notes:
        err.print(note, markup=False)
    for fitted in laws:
        _print_law(fitted)
    for reason in failed:
        err.print(f"not fitted: {reason}", markup=False)
    if json_file is not None:
        save(laws, json_file)
        err.print(f"wrote {json_file}", markup=False)


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


def _print_law(law: Law) -> None:
    from scaling.laws import show

    out.print(f"{law.name}: {show.left_side(law.form)} = {law.form.formula}  ({law.form.source})",
              style="bold", markup=False)
    for line in (show.counted(law), show.convention(law), show.evidence(law)):
        out.print(line, markup=False)
    print_table("", ("parameter", "value", "se", "90% interval", "unit"), show.parameters(law))
    if law.heldout:
        print_table("", ("held out", "N", "D", "predicted", "90% interval", "measured", "error"), [
            (run, show.count(row["n"]), show.count(row["d"]), show.number(row["predicted"]),
             show.span(row["interval"]), show.number(row["measured"]),
             show.percent(row["relative_error"]))
            for run, row in law.heldout.items()
        ])
    for warning in law.warnings:
        out.print(f"warning: {warning}", style="yellow", markup=False)
    out.print()
