"""`scaling sweep suggest`: which runs to train next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from scaling.cli.simulate import numbers
from scaling.cli.terminal import err, out, print_json, print_table
from scaling.errors import UserError

if TYPE_CHECKING:
    from scaling.laws.planning.suggest import Suggestion


def suggest(
    runs: Annotated[Path, typer.Argument(
        metavar="RUNS", help="CSV or Parquet table of runs, or a results folder with runs.csv.")],
    target: Annotated[str, typer.Option(
        help="What to narrow: n-star, loss (both at --at), a, or a parameter of the law.")],
    budget: Annotated[float, typer.Option(
        metavar="FLOPS", help="Compute of all new runs together, at 6 N D.")],
    at: Annotated[float | None, typer.Option(
        metavar="FLOPS", help="Budget that n-star and loss are about; no run costs as much.",
        show_default=False)] = None,
    max_flops_per_run: Annotated[float | None, typer.Option(
        metavar="FLOPS", help="Most of one run; by default all of --budget.",
        show_default=False)] = None,
    sizes: Annotated[str | None, typer.Option(
        metavar="LIST", help="N that can be trained, such as 1e7,3e7,1e8; by default any from the "
                             "smallest so far on.", show_default=False)] = None,
    ratios: Annotated[str | None, typer.Option(
        metavar="LOW:HIGH", help="Tokens per parameter; by default those so far, widened fourfold "
                                 "on either side.", show_default=False)] = None,
    max_tokens: Annotated[float | None, typer.Option(
        help="Most tokens of one run, such as the corpus has.", show_default=False)] = None,
    count: Annotated[int, typer.Option("--runs", metavar="K", help="Runs, at most.")] = 8,
    seeds: Annotated[int, typer.Option(help="Runs of the same N and D, at most.")] = 1,
    law: Annotated[str, typer.Option(help="Law to fit.")] = "chinchilla",
    noise: Annotated[float | None, typer.Option(
        help="Standard deviation of the log-loss of runs; by default that of the fit's residuals.",
        show_default=False)] = None,
    n: Annotated[str | None, typer.Option("--n", help="Column of parameters.",
                                          show_default=False)] = None,
    d: Annotated[str | None, typer.Option("--d", help="Column of training tokens.",
                                          show_default=False)] = None,
    c: Annotated[str | None, typer.Option("--c", help="Column of training FLOPs.",
                                          show_default=False)] = None,
    loss: Annotated[str | None, typer.Option("--loss", help="Column of losses, nats per token.",
                                             show_default=False)] = None,
    n_convention: Annotated[Literal["total", "non-embedding"] | None, typer.Option(
        help="Which parameters N counts; by default what the law's paper counts.",
        show_default=False)] = None,
    bootstrap: Annotated[int, typer.Option(
        help="Resamples, whose interval stands beside; 0 for none.")] = 1000,
    json_output: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Propose the runs that narrow the interval of one quantity the most for their compute.

    Example: `scaling sweep suggest results/quickstart --target n-star --at 1e15 --budget 1e13`

    Example: `scaling sweep suggest runs.csv --target loss --at 1e22 --budget 1e20
    --max-flops-per-run 3e19 --sizes 1e8,2e8,4e8,8e8`

    The law is fitted to the runs so far. Intervals before and after are those that the linear
    theory of the fit expects, if the law holds: fit again after the first few runs, and ask again.
    """
    from scaling.laws import fit, form_named, read
    from scaling.laws.planning.fisher import Noise
    from scaling.laws.planning.fisher import target as target_of
    from scaling.laws.planning.suggest import limit
    from scaling.laws.planning.suggest import suggest as suggest_runs

    if bootstrap < 0:
        raise UserError("--bootstrap is a whole number from zero on")
    form = form_named(law)
    aim = target_of(form, target, at)
    span = None if ratios is None else _span(ratios)
    listed = None if sizes is None else numbers(sizes, "--sizes")
    spread = None if noise is None else Noise(noise)
    table = read(runs, n=n, d=d, c=c, loss=loss,
                 counting=n_convention or (None if n else form.counting))
    limit(table, budget, at, max_flops_per_run)  # what is wrong with these is said before the fit
    for note in table.notes:
        err.print(note, markup=False)
    fitted = fit(table, form, resamples=bootstrap)
    found = suggest_runs(
        fitted, table, aim, budget, at=at, most=max_flops_per_run, sizes=listed, ratios=span,
        max_tokens=max_tokens, runs=count, seeds=seeds, noise=spread)
    if json_output:
        print_json(found.to_json() | {"at": at})
    else:
        _print_suggestion(found, at)


def _span(text: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split(":"))
    except ValueError:
        raise UserError(f"--ratios {text}: tokens per parameter as LOW:HIGH are expected, such as "
                        "5:100") from None
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
    print_table(title, ("run", "N", "D", "D/N", "FLOPs", "in all", "90% interval then", "sd"), rows)
    if found.target.log:
        out.print("sd is relative.", markup=False)
    if found.bootstrap_interval is not None:
        out.print(f"now by the bootstrap: {show.span(found.bootstrap_interval)}", markup=False)
    for warning in found.warnings:
        out.print(f"warning: {warning}", style="yellow", markup=False)
