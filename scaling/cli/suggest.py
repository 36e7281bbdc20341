"""`scaling sweep suggest`: which runs to train next."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from scaling.cli.options import JsonSwitch
from scaling.cli.simulate import numbers
from scaling.cli.sweep_options import (
    Overrides,
    ResultsFolder,
    RunsFolder,
    check_runs_exist,
    open_plan,
    results_folder,
)
from scaling.console import err, out, print_json, print_table, progress
from scaling.errors import DataError, UserError
from scaling.runs import RUNS

if TYPE_CHECKING:
    import pandas as pd

    from scaling.laws.design.suggest import Suggestion

_YAML = (".yaml", ".yml")


def suggest(
    source: Annotated[Path, typer.Argument(
        metavar="SWEEP|RUNS", help="YAML file of a sweep, whose planned runs are candidates; or "
                                   "a CSV or Parquet table of runs, or a results folder.")],
    target: Annotated[str, typer.Option(
        help="Quantity to estimate: n-star, loss (both at --at), a, or a parameter of the law.")],
    budget: Annotated[float, typer.Option(
        metavar="FLOPS", help="Total compute of the new runs, at 6 N D; or their total --cost.")],
    overrides: Overrides = None,
    runs: RunsFolder = RUNS,
    results: ResultsFolder = None,
    candidates: Annotated[Path | None, typer.Option(
        metavar="RUNS", help="Table of the runs to choose from, of which those with status planned "
                             "if it has one; by default a grid.", show_default=False)] = None,
    cost: Annotated[str | None, typer.Option(
        metavar="COLUMN", help="Column with the cost of each candidate, such as flops_counted of a "
                               "sweep.", show_default=False)] = None,
    at: Annotated[float | None, typer.Option(
        metavar="FLOPS", help="Compute budget of n-star and loss; every suggested run costs less.",
        show_default=False)] = None,
    at_n: Annotated[float | None, typer.Option(
        metavar="N", help="Parameters of the run whose loss is the target, instead of --at.",
        show_default=False)] = None,
    at_d: Annotated[float | None, typer.Option(
        metavar="D", help="Training tokens of that run.", show_default=False)] = None,
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
    """Suggest the runs that together narrow the interval of one quantity the most within a budget.

    Example: `scaling sweep suggest configs/sweeps/quickstart.yaml 'seeds=[0,1]' --target loss
    --at-n 1e6 --at-d 2e8 --budget 1e12`

    Example: `scaling sweep suggest results/quickstart --target n-star --at 1e15 --budget 1e13`

    Example: `scaling sweep suggest runs.csv --target loss --at 1e22 --budget 1e20
    --max-flops-per-run 3e19 --sizes 1e8,2e8,4e8,8e8`

    The law is fitted to the finished runs. The intervals before and after come from the linearised
    fit and assume that the law holds: fit again after the first few runs, and ask again.
    """
    from scaling.laws import form_named, read
    from scaling.laws import suggest as suggest_runs

    form = form_named(law)
    is_sweep = source.suffix in _YAML
    _check_options(source, is_sweep, overrides, {
        "--runs": None if runs == RUNS else runs, "--out": results}, {
        "--candidates": candidates, "--sizes": sizes, "--ratio-range": ratio_range,
        "--max-tokens": max_tokens, "--seeds": None if seeds == 1 else seeds, "--n": n, "--d": d,
        "--c": c, "--loss": loss})
    if at is not None and (at_n, at_d) != (None, None):
        raise UserError("--at, --at-n, --at-d: a budget or a run is expected, not both; drop one")
    run_at = {name: value for name, value in (("n", at_n), ("d", at_d)) if value is not None}
    ratios = None if ratio_range is None else _range(ratio_range)
    size_list = None if sizes is None else numbers(sizes, "--sizes")
    known, planned = _of_sweep(source, overrides, runs, results) if is_sweep else (
        source, candidates)
    table = read(known, n=n, d=d, c=c, loss=loss,
                 counting=n_convention or (None if n else form.counting))
    for note in table.notes:
        err.print(note, markup=False)
    with progress(f"{form.name}: resamples", bootstrap) as bar:
        found = suggest_runs(
            table, target, budget, at=run_at or at, candidates=planned, cost=cost,
            max_flops_per_run=max_flops_per_run, sizes=size_list, ratios=ratios,
            max_tokens=max_tokens, max_runs=max_runs, seeds=seeds, noise=noise, law=form,
            resamples=bootstrap, watch=bar.update)
    if json_output:
        print_json(found.to_json() | {"at": run_at or at})
    else:
        _print_suggestion(found, at, run_at, cost)
        if is_sweep and found.runs:
            words = [str(source), *(overrides or [])]
            words += ["--runs", str(runs)] if runs != RUNS else []
            words += ["--out", str(results)] if results is not None else []
            only = " ".join(f"--only {run.run_id}" for run in found.runs)
            out.print(f"train them: scaling sweep run {shlex.join(words)} {only}", markup=False)


def _check_options(
    source: Path, is_sweep: bool, overrides: list[str] | None, of_sweep: dict[str, object],
    of_table: dict[str, object],
) -> None:
    """Check that no option of a sweep is given with a table, nor the other way round."""
    if is_sweep:
        for name, value in of_table.items():
            if value is not None:
                raise UserError(f"{name} {value}: belongs to a table of runs; the candidates of "
                                f"{source} are its planned runs, so change its grids or seeds "
                                "instead")
        return
    if overrides:
        raise UserError(f"{overrides[0]}: overrides belong to a sweep's YAML file, and {source} is "
                        "a table of runs")
    for name, value in of_sweep.items():
        if value is not None:
            count = " (--max-runs is the largest number of runs)" if name == "--runs" else ""
            raise UserError(f"{name} {value}: belongs to a sweep's YAML file{count}, and {source} "
                            "is a table of runs")


def _of_sweep(
    config: Path, overrides: list[str] | None, runs: Path, results: Path | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The finished runs of a sweep, and its planned runs that are within its budgets."""
    from scaling.sweeps.table import known_runs

    plan = open_plan(config, overrides, runs)
    if runs != RUNS:
        check_runs_exist(runs)
    frame = known_runs(plan, results_folder(plan, results))
    is_candidate = ((frame["status"] == "planned") & (frame["role"] == "grid")
                    & ~frame["run_id"].isin(plan.over_budget))
    if not is_candidate.any():
        raise DataError(f"{config}: no run of the grid is left to train, so there is nothing to "
                        "suggest; add sizes, tokens or grids")
    return frame, frame[is_candidate].reset_index(drop=True)


def _range(text: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split(":"))
    except ValueError:
        raise UserError(f"--ratio-range {text}: tokens per parameter as LOW:HIGH are expected, "
                        "such as 5:100") from None
    return low, high


def _print_suggestion(
    found: Suggestion, at: float | None, run_at: dict[str, float], cost: str | None
) -> None:
    from scaling.laws import show

    point = ", ".join(f"{name.upper()} = {value:.4g}" for name, value in run_at.items())
    where = f" at {point}" if point else "" if at is None else f" at {at:.4g} FLOP"
    title = (f"{found.target.name}{where} by {found.law}: {show.number(found.value)}; noise of "
             f"runs {found.noise.sd:.3g}; N counts {found.counting}; {found.candidates:,} "
             "candidates")
    named = any(run.run_id is not None for run in found.runs)
    columns = [*(["", "run"] if named else ["run"]), "N", "D", "D/N", "FLOPs", "total FLOPs",
               *([] if cost is None else [cost, f"total {cost}"]), "90% interval after", "sd"]
    rows = [("now", *[""] * (len(columns) - 3), show.span(found.interval),
             show.number(found.sd, 3))]
    rows += [(str(place), *([run.run_id or ""] if named else []), show.short(run.n),
              show.short(run.d), show.number(run.d / run.n, 3), f"{run.c:.3g}",
              f"{run.cumulative_flops:.3g}",
              *([] if cost is None else [f"{run.cost:.3g}", f"{run.cumulative_cost:.3g}"]),
              show.span(run.interval), show.number(run.sd, 3))
             for place, run in enumerate(found.runs, start=1)]
    print_table(title, columns, rows)
    if found.target.log:
        out.print("sd is relative.", markup=False)
    if found.bootstrap_interval is not None:
        out.print(f"now, by the bootstrap: {show.span(found.bootstrap_interval)}", markup=False)
    for warning in found.warnings:
        out.print(f"warning: {warning}", style="yellow", markup=False)
