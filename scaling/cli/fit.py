"""`scaling fit`: fit scaling laws to a table of runs."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from scaling.cli import evidence
from scaling.cli.approaches import check_noise, fit_one, grouping, print_approach, split
from scaling.cli.fit_options import (
    EVIDENCE,
    FITS,
    LAWS,
    RESAMPLES,
    BinsOption,
    CColumn,
    ClusterColumn,
    DColumn,
    FinalRows,
    FixOption,
    FrontierOption,
    LossColumns,
    NColumn,
    NConvention,
    OtherColumns,
    ProfileNames,
    Resamples,
    SchedulesFile,
    SmoothRows,
    StrictRuns,
    TieOption,
    WhereOption,
    columns,
    show_list,
)
from scaling.cli.fit_options import forms as forms_of
from scaling.cli.fitted import (
    BootstrapOptions,
    FitResults,
    RunsSource,
    fit_form,
    outcomes_of,
    with_outcome,
)
from scaling.cli.optima import check_optima, fit_optima
from scaling.cli.options import JsonSwitch
from scaling.console import err, out, print_table, print_text, tables_hidden
from scaling.errors import UserError

if TYPE_CHECKING:
    from scaling.laws import Fit, Frontier, Law


def fit(
    runs: Annotated[Path, typer.Argument(
        metavar="RUNS", help="CSV or Parquet table of runs, or a results folder with runs.csv.")],
    law: Annotated[list[str] | None, typer.Option(
        help="Law to fit, or approach-1, approach-2, approach-2-cubic, approach-2-akima; may be "
             "repeated. By default Kaplan's four, Chinchilla, and the q-family that has both.",
        rich_help_panel=LAWS, show_default=False)] = None,
    list_: Annotated[bool, typer.Option(
        "--list", callback=show_list, is_eager=True, rich_help_panel=LAWS,
        help="List all laws with their formula, variables, outcome and source.")] = False,
    fix: FixOption = None,
    tie: TieOption = None,
    n: NColumn = None,
    d: DColumn = None,
    c: CColumn = None,
    loss: LossColumns = None,
    column: OtherColumns = None,
    schedules: SchedulesFile = None,
    where: WhereOption = None,
    cluster: ClusterColumn = None,
    final: FinalRows = False,
    smooth: SmoothRows = 1,
    strict: StrictRuns = False,
    frontier: FrontierOption = None,
    bins: BinsOption = None,
    n_convention: NConvention = None,
    objective: Annotated[Literal["adaptive", "huber", "l1", "squared"] | None, typer.Option(
        help="Objective on residuals of the log-loss; by default each law's own, which is adaptive "
             "for most: Huber's loss with a delta of twice the noise. huber is Hoffmann's.",
        rich_help_panel=FITS, show_default=False)] = None,
    delta: Annotated[float | None, typer.Option(
        help="Residual of the log-loss beyond which the Huber loss is linear, instead of the "
             "adaptive one; 1e-3 with --objective huber.",
        rich_help_panel=FITS, show_default=False)] = None,
    residuals: Annotated[Literal["log", "raw"], typer.Option(
        help="Residuals of the logarithm of the outcome, or of the outcome itself (raw).",
        rich_help_panel=FITS)] = "log",
    bootstrap: Resamples = RESAMPLES,
    by: Annotated[Literal["case", "residual", "size", "cluster", "wild"], typer.Option(
        "--resample", rich_help_panel=FITS,
        help="What a resample draws: runs, residuals, sizes with all of their runs, clusters of "
             "rows, which is the default with --cluster, or a factor for the residuals of each "
             "cluster (wild).")] = "case",
    interval: Annotated[Literal["bca", "percentile"], typer.Option(
        help="Method of the bootstrap intervals.", rich_help_panel=FITS)] = "bca",
    seed: Annotated[int, typer.Option(help="Seed of the resamples.", rich_help_panel=FITS)] = 0,
    noise: Annotated[float | None, typer.Option(
        help="Standard deviation of the log-loss between runs, for approach-2 and --optima; by "
             "default estimated from the runs.", rich_help_panel=FITS, show_default=False)] = None,
    budgets: Annotated[str | None, typer.Option(
        metavar="LIST", help="FLOPs of the budgets of approach-2, such as 1e18,1e19; by default "
                             "runs of about the same compute share one.",
        rich_help_panel=FITS, show_default=False)] = None,
    tolerance: Annotated[float | None, typer.Option(
        help="Largest difference of the logarithm of compute between a run and its budget, for "
             "approach-2; by default 0.02.", rich_help_panel=FITS, show_default=False)] = None,
    optima: Annotated[bool, typer.Option(
        "--optima", rich_help_panel=FITS,
        help="Find the best learning rate and batch of each N and D, in a table with several runs "
             "of each, and fit laws to them: --law step-lr, step-batch, deepseek-lr or "
             "deepseek-batch. Their columns are given as --column lr=COLUMN and "
             "--column batch=COLUMN.")] = False,
    within: Annotated[float | None, typer.Option(
        metavar="FACTOR", rich_help_panel=FITS, show_default=False,
        help="Largest factor between the learning rate and batch of a run and those of the best "
             "run of its N and D, for --optima; by default 4.")] = None,
    profile: ProfileNames = None,
    compare: Annotated[bool, typer.Option(
        "--compare", rich_help_panel=EVIDENCE,
        help="Compare the laws by how well they predict sizes left out of the fit.")] = False,
    rolling: Annotated[Literal["n", "d", "c"] | None, typer.Option(
        rich_help_panel=EVIDENCE, show_default=False,
        help="Fit the runs with small values of this variable and predict the large ones.")] = None,
    sensitivity: Annotated[bool, typer.Option(
        "--sensitivity", rich_help_panel=EVIDENCE,
        help="Fit with other objectives, without the largest losses and without each size, and "
             "test the residuals.")] = False,
    checklist: Annotated[bool, typer.Option(
        "--checklist", rich_help_panel=EVIDENCE,
        help="Print a reporting checklist for each law.")] = False,
    evidence_file: Annotated[Path | None, typer.Option(
        "--evidence", metavar="FILE", rich_help_panel=EVIDENCE, show_default=False,
        help="Write the evidence to this JSON file.")] = None,
    save: Annotated[Path | None, typer.Option(
        "--save", metavar="FILE", help="Write the laws to this JSON file, which other commands "
                                       "read.", show_default=False)] = None,
    json_output: JsonSwitch = False,
) -> None:
    """Fit scaling laws to a table of runs.

    Example: `scaling fit results/quickstart --save results/quickstart/laws.json`

    Example: `scaling fit published.csv --n "Model Size" --c "Training FLOP" --law chinchilla`

    Example: `scaling fit runs.csv --where "tokens > 1e9 and corpus == 'c4'"`

    Example: `scaling fit results/quickstart --strict`

    Example: `scaling fit runs.csv --law chinchilla --fix E=1.69 --tie alpha=beta`

    Example: `scaling fit runs.csv --loss c4_loss --loss code_loss --law chinchilla`

    Example: `scaling fit isoflop.csv --law approach-2 --law approach-2-akima --law chinchilla`

    Example: `scaling fit moe.csv --law NAME --column experts=num_experts`, with a NAME of
    `scaling fit --list`

    Example: `scaling fit grid.csv --optima --column lr=lr --column batch=batch_tokens`

    Example: `scaling fit curves.csv --law multi-power --schedules rates.csv`

    Example: `scaling fit runs.csv --law chinchilla --law kaplan-nd --n-convention total
    --profile alpha --compare --rolling c --sensitivity --checklist`

    Only finished runs of the grid are fitted; diverged, failed, planned and held-out runs are
    counted. Runs that look unhealthy, by their schedule or by curves.csv beside RUNS, are named in
    a warning, and left out with --strict. Any two of N, D and C are enough: C = 6 N D gives the
    third. Without --law, the laws of all runs are also judged by their predictions of larger runs,
    and averaged. A law that cannot be fitted to these runs is reported with the reason, and the
    others are printed and saved; if none can be fitted, the exit status is 1.
    """
    from scaling.laws.fit_runs import best_of, residual_loss
    from scaling.laws.fitting.bootstrap import check_resamples
    from scaling.laws.forms.catalogue import CHOSEN_FROM
    from scaling.laws.frames import read_frame, table_path
    from scaling.laws.health import curves_beside
    from scaling.laws.io import choice_json, laws_output, laws_text
    from scaling.laws.io import save as save_laws
    from scaling.outputs import json_output as json_file
    from scaling.outputs import with_command

    check_resamples(bootstrap, seed)
    requested = evidence.EvidenceOptions(profile or (), compare, rolling, sensitivity, checklist)
    if evidence_file is not None and not any(requested):
        raise UserError(f"--evidence {evidence_file}: nothing to write; ask for --profile, "
                        "--compare, --rolling, --sensitivity or --checklist")
    approaches, named = split(law)
    check_optima(optima, within, {
        **{f"--law {name}": True for name in approaches},
        "--profile": profile, "--compare": compare, "--rolling": rolling,
        "--sensitivity": sensitivity, "--checklist": checklist, "--objective": objective,
        "--delta": delta, "--budgets": budgets, "--tolerance": tolerance,
        "--residuals raw": residuals == "raw", "--cluster": cluster,
        "a second --loss": len(loss or ()) > 1})
    if compare and len(law or ()) < 2:
        raise UserError("--compare: at least two laws are expected, such as --law chinchilla "
                        "--law kaplan-nd")
    if approaches and residuals == "raw":
        raise UserError(f"--residuals raw: {approaches[0]} fits no law of the loss; leave one of "
                        "them out")
    forms = forms_of(named, fix, tie, residuals, schedules) if named or not approaches else []
    other_columns = columns(column, {"lr", "batch"} if optima else {
        v for form in forms for v in form.variables})
    evidence.check(requested, forms)
    check_noise(noise)
    grouped = grouping(approaches, budgets, tolerance)
    path = table_path(runs)
    files = [path, *([schedules] if schedules else [])]
    if evidence_file is not None:
        evidence_output = json_file(evidence_file, "scaling fit --evidence", files)
        evidence_output.check()
    if save is not None:
        inputs = [*files, *([evidence_file] if evidence_file else [])]
        laws_output(save, inputs).check()
    frame = read_frame(path)
    curves = curves_beside(path)
    resampling = BootstrapOptions(bootstrap, seed, by, interval)
    results = FitResults()
    outcomes = outcomes_of(loss)
    sources = {outcome: RunsSource(
        path, frame, {"n": n, "d": d, "c": c, "loss": outcome}, where, n_convention, cluster,
        final, smooth, curves, strict, frontier, bins) for outcome in outcomes}
    if optima:
        fit_optima(sources[outcomes[0]], other_columns, forms if law else None, within, noise,
                   resampling, save, [path], json_output)
        return
    content: dict[str, Any] = {}
    choices = []
    with tables_hidden(json_output):
        of_outcome: dict[str | None, list[Fit]] = {}
        for outcome, source in sources.items():
            label = f" of {outcome}" if len(outcomes) > 1 else ""
            fits = of_outcome[outcome] = []
            for form in forms:
                with results.failures(f"{form.name}{label}"):
                    fitted = fit_form(form, source, resampling, other_columns,
                                      all_sizes=law is None,
                                      robust=residual_loss(form.robust, objective, delta))
                    fitted = with_outcome(fitted, outcome) if label else fitted
                    results.print_input(source.path, fitted.runs)
                    _print_law(fitted.law, results.printed)
                    fits.append(fitted)
            results.laws += fits
            for name in approaches:
                with results.failures(f"{name}{label}"):
                    fitted_line = fit_one(name, source, resampling, noise, grouped, fits)
                    print_approach(fitted_line)
                    results.frontiers.append(fitted_line)
        results.check()
        laws: list[Law | Frontier] = [*(fitted.law for fitted in results.laws), *results.frontiers]
        for fits in of_outcome.values():
            of_all_runs = [each for each in fits if each.law.form.name in CHOSEN_FROM]
            choices.append(best_of(of_all_runs).choice if law is None and of_all_runs else None)
        # A file of laws has one choice.
        choice = choices[0] if len(outcomes) == 1 else None
        if save is not None:
            save_laws(laws, save, inputs, choice=choice)
            err.print(f"wrote {save}", markup=False)
        for (outcome, fits), chosen in zip(of_outcome.items(), choices, strict=True):
            if len(outcomes) > 1 and (chosen is not None or any(requested)):
                out.print(f"outcome: column {outcome}", style="bold", markup=False)
            shown = evidence.show(fits, frame, requested, chosen)
            content |= shown if len(outcomes) == 1 else {str(outcome): shown}
            if chosen is not None:
                evidence.print_result(chosen)
    if evidence_file is not None:
        evidence_output.write(with_command(content, evidence_output.command))
        err.print(f"wrote {evidence_file}", markup=False)
    if json_output:
        print_text(laws_text(laws, ({"evidence": content} if any(requested) else {})
                             | choice_json(laws, choice)))


def _print_law(law: Law, printed: Container[str]) -> None:
    """Print a law, without the warnings in `printed`."""
    from scaling.laws import show

    out.print(show.title(law), style="bold", markup=False)
    for line in (show.run_counts(law), show.convention(law), show.convergence(law)):
        out.print(line, markup=False)
    for table in (show.parameter_table(law), *([show.heldout_table(law)] if law.heldout else [])):
        print_table("", table.columns, table.rows)
    for warning in law.warnings:
        if warning not in printed:
            out.print(f"warning: {warning}", style="yellow", markup=False)
    out.print()
