"""`scaling fit --optima`: the best learning rate and batch of each N and D, and their laws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scaling.cli.fit_options import SIZES
from scaling.cli.fitted import BootstrapOptions, RunsSource
from scaling.console import err, out, print_table, print_text, progress, tables_hidden
from scaling.errors import DataError, UserError

if TYPE_CHECKING:
    from scaling.laws import BestHyperparameters, Form
    from scaling.laws.forms.variables import Counting

_COUNTING: Counting = "non-embedding"  # what N counts in the papers of these laws


def check_optima(optima: bool, within: float | None, others: Mapping[str, object]) -> None:
    """Check that `--within` is given with `--optima`, and no option that it does not use.

    Args:
        optima: whether `--optima` is given.
        within: the value of `--within`; None if it is not given.
        others: options that only other fits use, which are given if they are true.

    Raises:
        UserError: one is.
    """
    if not optima and within is not None:
        raise UserError(f"--within {within:g}: an option of --optima, which fits the runs near the "
                        "best learning rate and batch; add --optima, or leave it out")
    for name in (name for name, value in others.items() if optima and value):
        raise UserError(f"{name}: is not used with --optima, which fits the best learning rates "
                        "and batches; leave one of them out")


def fit_optima(
    source: RunsSource, columns: Mapping[str, str], forms: Sequence[Form] | None,
    within: float | None, noise: float | None, resampling: BootstrapOptions, save: Path | None,
    inputs: Sequence[Path], json_output: bool,
) -> None:
    """Find the optima, print them and their laws, and write the laws.

    Args:
        source: the runs.
        columns: columns of lr and batch that are given.
        forms: laws of the learning rate and the batch; None for the default ones.
        within: factor about the best run within which runs are fitted; None for the default.
        noise: standard deviation of the log-loss between runs, or None.
        resampling: resamples and their seed.
        save: the file of laws, or None.
        inputs: files that must not be overwritten.
        json_output: whether JSON is printed instead of text.

    Raises:
        DataError, UserError: as `best_hyperparameters`; no law could be fitted.
    """
    from scaling.laws import best_hyperparameters
    from scaling.laws.approaches.tuning import WITHIN
    from scaling.laws.best_hyperparameters import tuned_columns
    from scaling.laws.io import laws_text
    from scaling.laws.io import save as save_laws
    from scaling.laws.show import to_plain

    table = source.table(None if source.columns["n"] else _COUNTING, SIZES, tuned_columns(
        source.frame, {v: columns.get(v) for v in ("lr", "batch")}))
    for note in table.notes:
        err.print(f"{source.path}: {note}", markup=False)
    with progress("optima: resamples", resampling.resamples) as bar:
        best = best_hyperparameters(
            table, within=WITHIN if within is None else within, noise=noise, laws=forms,
            resamples=resampling.resamples, resample=resampling.by, interval=resampling.method,
            seed=resampling.seed, watch=bar.update)
    laws = [fit.law for fit in best.laws.values()]
    with tables_hidden(json_output):
        _print(best)
        if not laws:
            raise DataError("no law was fitted: " + "; ".join(
                warning for warning in best.warnings if "is not fitted" in warning))
        if save is not None:
            save_laws(laws, save, inputs)
            err.print(f"wrote {save}", markup=False)
    if json_output:
        print_text(laws_text(laws, {"optima": to_plain(best.to_frame().to_dict("records"))}))


def _print(best: BestHyperparameters) -> None:
    from scaling.laws import show

    out.print(best.title(), style="bold", markup=False)
    table = best.optima_table()
    print_table("", table.columns, table.rows)
    for fit in best.laws.values():
        law = fit.law
        out.print(show.title(law), style="bold", markup=False)
        out.print(f"{law.n_runs} optima; N {law.convention['n']}, D {law.convention['d']}; "
                  f"{law.form.outcome}", markup=False)
        parameters = show.parameter_table(law)
        print_table("", parameters.columns, parameters.rows)
    for warning in best.warnings:
        out.print(f"warning: {warning}", style="yellow", markup=False)
