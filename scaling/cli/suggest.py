"""`scaling sweep suggest`: which runs to train next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from scaling.cli.options import JsonSwitch
from scaling.cli.simulate import numbers
from scaling.console import err, out, print_json, print_table, progress
from scaling.errors import UserError

if TYPE_CHECKING:
    from scaling.laws.design.suggest import Suggestion


def suggest(
    runs: Annotated[Path, typer.Argument(
        metavar="RUNS", help="CSV or Parquet table of runs, or a results folder with runs.csv.")],
    target: Annotated[str, typer.Option(
        help="Quantity to estimate: n-star, loss (both at --at), a, or a parameter of the law.")],
    budget: Annotated[float, typer.Option(
        metavar="FLOPS", help="Total compute of the new runs, at 6 N D.")],
    at: Annotated[float | None, typer.Option(
        metavar="FLOPS", help="Compute budget of n-star and loss; every suggested run costs less.",
        show_default=False)] = None,
    max_flops_per_run: Annotated[float | None, typer.Option(
        metavar="FLOPS", help="Largest compute of one run; by default all of --budget.",
        show_default=False)] = None,
    sizes: Annotated[str | None, typer.Option(
        metavar="LIST", help="Values of N that can be trained, such as 1e7,3e7,1e8; by default any "
                             "from the smallest so far upwards.", show_default=False)] = None,
    ratio_range: Annotated[str | None, typer.Option(
        metavar="LOW:HIGH", help="Tokens per parameter; by default the range so far, widened "
                                 "fourfold on either side.", show_default=False)] = None,
    max_tokens: Annotated[float | None, typer.Option(
        help="Largest number of tokens of one run, such as the size of the corpus.",
        show_default=False)] = None,
    max_runs: Annotated[int, typer.Option(
        help="Largest number of suggested runs, at most 100.")] = 8,
    seeds: Annotated[int, typer.Option(
        help="Largest number of runs of the same N and D, at most 100.")] = 1,
    law: Annotated[str, typer.Option(help="Law to fit.")] = "chinchilla",
    noise: Annotated[float | None, typer.Option(
        help="Standard deviation of the log-loss of runs around the law; by default that of the "
             "residuals.",
        show_default=False)] = None,
    n: Annotated[str | None, typer.Option(
        "--n", metavar="COLUMN", help="Column of parameter counts.", show_default=False)] = None,
    d: Annotated[str | None, typer.Option(
        "--d", metavar="COLUMN", help="Column of training tokens.", show_default=False)] = None,
    c: Annotated[str | None, typer.Option(
        "--c", metavar="COLUMN", help="Column of training FLOPs.", show_default=False)] = None,
    loss: Annotated[str | None, typer.Option(
        "--loss", metavar="COLUMN", help="Column of losses in nats per token.",
        show_default=False)] = None,
    n_convention: Annotated[Literal["total", "non-embedding"] | None, typer.Option(
        help="Parameters that N counts; by default those that the law's paper counts.",
        show_default=False)] = None,
    bootstrap: Annotated[int, typer.Option(
        help="Bootstrap resamples, at most 100,000, for a second interval; 0 for none.")] = 1000,
    json_output: JsonSwitch = False,
) -> None:
    """Suggest runs that narrow the interval of one quantity the most for their compute.

    Example: `scaling sweep suggest results/quickstart --target n-star --at 1e15 --budget 1e13`

    Example: `scaling sweep suggest runs.csv --target loss --at 1e22 --budget 1e20
    --max-flops-per-run 3e19 --sizes 1e8,2e8,4e8,8e8`

    The law is fitted to the runs so far. The intervals before and after come from the linearised
    fit and assume that the law holds: fit again after the first few runs, and ask again.
    """
    from scaling.laws import fit_law, form_named, read
    from scaling.laws.design.fisher import Noise, target_named
    from scaling.laws.design.suggest import check_counts, max_run_flops
    from scaling.laws.design.suggest import suggest as suggest_runs
    from scaling.laws.fitting.bootstrap import check_resamples

    check_resamples(bootstrap, 0)
    check_counts(max_runs, seeds)
    form = form_named(law)
    quantity = target_named(form, target, at)
    ratios = None if ratio_range is None else _range(ratio_range)
    size_list = None if sizes is None else numbers(sizes, "--sizes")
    run_noise = None if noise is None else Noise(noise)
    table = read(runs, n=n, d=d, c=c, loss=loss,
                 counting=n_convention or (None if n else form.counting))
    max_run_flops(table, budget, at, max_flops_per_run)  # report wrong values before the fit
    for note in table.notes:
        err.print(note, markup=False)
    with progress(f"{form.name}: resamples", bootstrap) as bar:
        fitted = fit_law(table, form, resamples=bootstrap, watch=bar.update)
    found = suggest_runs(
        fitted, table, quantity, budget, at=at, max_flops_per_run=max_flops_per_run,
        sizes=size_list, ratios=ratios, max_tokens=max_tokens, runs=max_runs, seeds=seeds,
        noise=run_noise)
    if json_output:
        print_json(found.to_json() | {"at": at})
    else:
        _print_suggestion(found, at)


def _range(text: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split(":"))
    except ValueError:
        raise UserError(f"--ratio-range {text}: tokens per parameter as LOW:HIGH are expected, "
                        "such as 5:100") from None
    return low, high


def _print_suggestion(found: Suggestion, at: float | None) -> None:
    from scaling.laws import show

    where = "" if at is None else f" at {at:.4g} FLOP"
    title = (f"{found.target.name}{where} by {found.law}: {show.number(found.value)}; noise of "
             f"runs {found.noise.sd:.3g}; N counts {found.counting}")
    rows = [("now", "", "", "", "", "", show.span(found.interval), show.number(found.sd, 3))]
    rows += [(str(place), show.short(run.n), show.short(run.d), show.number(run.d / run.n, 3),
              f"{run.c:.3g}", f"{run.cumulative_flops:.3g}", show.span(run.interval),
              show.number(run.sd, 3))
             for place, run in enumerate(found.runs, start=1)]
    print_table(title, ("run", "N", "D", "D/N", "FLOPs", "total FLOPs", "90% interval after", "sd"),
                rows)
    if found.target.log:
        out.print("sd is relative.", markup=False)
    if found.bootstrap_interval is not None:
        out.print(f"now, by the bootstrap: {show.span(found.bootstrap_interval)}", markup=False)
    for warning in found.warnings:
        out.print(f"warning: {warning}", style="yellow", markup=False)
