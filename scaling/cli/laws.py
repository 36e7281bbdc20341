"""`scaling fit`, `allocate`, `plot` and `report`: from runs to laws, and what laws are good for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from scaling.cli.terminal import err, finite, out, print_table
from scaling.errors import UserError

if TYPE_CHECKING:
    from scaling.laws import Allocation, Law, Published, Robust, RunsTable

_SECONDS_PER_HOUR = 3600


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


def allocate(
    law: Annotated[list[str], typer.Argument(
        metavar="LAW...", help="Name of a published law, a JSON file that `scaling fit` wrote, or "
                               "a results folder with laws.json.")],
    compute: Annotated[float | None, typer.Option(
        metavar="FLOPS", help="Budget in training FLOPs.", show_default=False)] = None,
    gpu_hours: Annotated[float | None, typer.Option(
        help="Budget in hours of one accelerator; with --gpu.", show_default=False)] = None,
    gpu: Annotated[str | None, typer.Option(
        metavar="NAME", help="Accelerator, such as H100.", show_default=False)] = None,
    mfu: Annotated[float, typer.Option(help="Share of its peak that training reaches.")] = 0.4,
    json_file: Annotated[Path | None, typer.Option(
        "--json", metavar="FILE", help="Also write the allocations to this file.",
        show_default=False)] = None,
) -> None:
    """Say how to spend a budget: parameters, tokens, and the loss to expect.

    Example: `scaling allocate results/quickstart/laws.json --compute 1e15`

    Example: `scaling allocate besiroglu2024 --gpu-hours 1000 --gpu H100 --mfu 0.4`

    Kaplan's and Hoffmann's published allocations stand beside every law.
    """
    from scaling.files import write_atomically
    from scaling.laws import allocate as allocate_law
    from scaling.laws.allocate import side_by_side

    budget = _budget(compute, gpu_hours, gpu, mfu)
    found: list[tuple[str, Law | Published]] = [
        pair for name in law for pair in _laws_called(name)
    ]
    named = [entry for _, entry in found]
    beside = [("", entry) for entry in side_by_side() if entry not in named]
    rows = [allocate_law(entry, budget, source) for source, entry in [*found, *beside]]
    _print_allocations(budget, rows)
    if json_file is not None:
        content = {"compute": budget, "allocations": [row.to_json() for row in rows]}
        write_atomically(json_file, json.dumps(finite(content), indent=2) + "\n")
        err.print(f"wrote {json_file}", markup=False)


def plot(
    results: Annotated[Path, typer.Argument(
        metavar="RESULTS", help="Folder with runs.csv, laws.json, and curves.csv if there is one."
    )],
) -> None:
    """Draw the figures of a results folder into RESULTS/figures.

    Example: `scaling plot results/quickstart`

    Each figure is a PNG, an SVG, and a CSV of the numbers in it. Run `scaling fit` first.
    """
    from scaling.figures import open_results
    from scaling.figures import plot as plot_results

    opened = open_results(results)
    for name in opened.stale:
        err.print(f"warning: {name} was fitted to other numbers than runs.csv now holds; fit again",
                  markup=False)
    written, left_out = plot_results(opened)
    for path in written:
        out.print(str(path), markup=False)
    for name, why in left_out.items():
        err.print(f"{name}: not drawn, {why}", markup=False)


def report(
    results: Annotated[Path, typer.Argument(
        metavar="RESULTS", help="Folder with runs.csv, laws.json, and curves.csv if there is one."
    )],
) -> None:
    """Write RESULTS/report.html: one page, offline, with the figures in it.

    Example: `scaling report results/quickstart`
    """
    from scaling.report import write_report

    out.print(str(write_report(results)), markup=False)


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


def _print_allocations(budget: float, rows: list[Allocation]) -> None:
    from scaling.laws import show

    print_table(
        f"{budget:.4g} training FLOPs",
        ("law", "N*", "90% interval", "D*", "D*/N*", "N counts"),
        [(row.source, show.short(row.n), show.short_span(row.n_interval),
          show.short(row.d), show.number(row.d / row.n if row.d and row.n else None, 3),
          row.counting)
         for row in rows],
    )
    print_table("", ("law", "loss", "90% interval", "a", "90% interval"), [
        (row.source, show.number(row.loss), show.span(row.loss_interval),
         show.number(row.a, 3), show.span(row.a_interval, 3) + ("*" if row.level else ""))
        for row in rows
    ])
    out.print("a is d log N* / d log C.", markup=False)
    for level in sorted({row.level for row in rows if row.level}):
        out.print(f"* the paper's interval, {level:.0%}.", markup=False)
    out.print("Losses of published laws are on their own corpora and tokenizers.", markup=False)
    for row in rows:
        for warning in row.warnings:
            out.print(f"warning: {row.source}: {warning}", style="yellow", markup=False)


def _laws_called(name: str) -> list[tuple[str, Law | Published]]:
    """Published laws by name, or those of a file that divide compute, with what to call them."""
    from scaling.laws import load
    from scaling.laws.published import published_named

    path = Path(name)
    if not path.exists():
        return [("", published_named(name))]
    path = path / "laws.json" if path.is_dir() else path
    laws = load(path)
    able = [law for law in laws if law.form.allocation_exponent(law.point) is not None]
    if not able:
        raise UserError(f"{path}: holds {', '.join(law.name for law in laws)}, none of which says "
                        "how to divide compute; fit chinchilla")
    called = path.resolve().parent.name if path.name == "laws.json" else path.stem
    return [(f"{called}: {law.name}", law) for law in able]


def _budget(
    compute: float | None, gpu_hours: float | None, gpu: str | None, mfu: float
) -> float:
    """Training FLOPs, given as such or as hours of an accelerator."""
    if (compute is None) == (gpu_hours is None):
        raise UserError("give the budget either as --compute FLOPS, or as --gpu-hours H --gpu NAME")
    if compute is not None:
        if gpu is not None:
            raise UserError("--gpu goes with --gpu-hours; --compute needs no accelerator")
        return compute
    if gpu is None:
        raise UserError("--gpu-hours needs --gpu NAME, such as --gpu H100")
    if not 0 < mfu <= 1:
        raise UserError(f"--mfu {mfu:g}: a share of the peak between 0 and 1 is expected")
    from scaling.accounting.hardware import peak_flops

    assert gpu_hours is not None
    return gpu_hours * _SECONDS_PER_HOUR * peak_flops(gpu) * mfu
