"""`best_hyperparameters`: from grids of learning rates and batches to laws of the best ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from scaling.errors import DataError, UserError, option
from scaling.laws import show
from scaling.laws.approaches.tuning import (
    WITHIN,
    WORDS,
    TuningGrid,
    TuningMinimum,
    half_width,
    quadratic_minima,
    tuning_grids,
)
from scaling.laws.arguments import checked
from scaling.laws.fit_runs import as_form, check_read_already
from scaling.laws.fitted import Fit
from scaling.laws.fitting.bootstrap import ResampleUnit
from scaling.laws.fitting.fit_law import RESAMPLES, fit_law
from scaling.laws.fitting.misfit import MIN_SPREAD, dependence
from scaling.laws.fitting.preflight import check_positive
from scaling.laws.forms.form import Form
from scaling.laws.forms.hyperparameters import BATCH, LEARNING_RATE
from scaling.laws.forms.variables import VARIABLES, Counting
from scaling.laws.io import save
from scaling.laws.law import Method
from scaling.laws.read import frame_of, from_frame
from scaling.laws.table import RunsTable

Array = NDArray[np.float64]

_VARIABLE_OF = {LEARNING_RATE: "lr", BATCH: "batch"}
_MAX_SHOWN = 15  # grids in a repr
_MAX_LISTED = 3  # reasons in an error message


@dataclass(frozen=True, repr=False)
class BestHyperparameters:
    """The best learning rate and batch of each N and D, and their power laws.

    Attributes:
        grids: the runs of each N and D.
        minima: the best rate and batch of each grid, in the same order.
        dof: degrees of freedom of their standard errors.
        laws: the fitted laws by variable, `lr` and `batch`; without those that could not be fitted.
        runs: all runs.
        warnings: the grids that are left out, with the reason; laws that could not be fitted.
    """

    grids: tuple[TuningGrid, ...]
    minima: tuple[TuningMinimum, ...]
    dof: float
    laws: Mapping[str, Fit]
    runs: RunsTable
    warnings: tuple[str, ...] = ()

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables that were tuned, of lr and batch."""
        return self.grids[0].variables

    @checked
    def to_frame(self) -> pd.DataFrame:
        """A row for each N and D: `n`, `d`, `c`, the number of `runs` and of those `fitted`; for
        lr and batch the best value, the standard error of its logarithm (`lr_se`) and the ends of
        its 90% interval (`lr_low` and `lr_high`); the `loss` there; whether it is `used`, and the
        `reason` if not. What is not determined is NaN."""
        rows = []
        for grid, minimum in zip(self.grids, self.minima, strict=True):
            row: dict[str, Any] = {"n": grid.n, "d": grid.d, "c": grid.c, "runs": len(grid.loss),
                                   "fitted": int(minimum.near.sum())}
            for i, variable in enumerate(grid.variables):
                x, se = float(minimum.log_x[i]), float(minimum.se[i])
                half = half_width(se, self.dof)
                row |= {variable: np.exp(x), f"{variable}_se": se,
                        f"{variable}_low": np.exp(x - half), f"{variable}_high": np.exp(x + half)}
            rows.append(row | {"loss": minimum.loss, "used": not minimum.problem,
                               "reason": minimum.problem})
        return pd.DataFrame(rows)

    @checked
    def predict(
        self, n: ArrayLike, d: ArrayLike, *, interval: bool = False, level: float | None = None
    ) -> dict[str, Any]:
        """The best learning rate and batch for models of N parameters and D tokens.

        Args:
            n: parameters, as the runs count them: a number or an array.
            d: training tokens: a number or an array.
            interval: also give the intervals of the laws.
            level: coverage of the intervals, 0.9 by default; given alone it asks for them.

        Returns:
            For each fitted law its value, by `lr` and `batch`: what `Fit.predict` returns.

        Raises:
            DataError: no law could be fitted.
            UserError: a number is impossible, or the laws have no resamples.
        """
        if not self.laws:
            raise DataError(f"predict: no law was fitted; {'; '.join(self.warnings)}")
        given = {"n": n, "d": d}
        kind: Literal["confidence", False] = (
            "confidence" if interval or level is not None else False)
        return {variable: fit.predict(interval=kind, level=level, **{
            name: each for name, each in given.items()
            if name in fit.law.form.variables or "c" in fit.law.form.variables})
            for variable, fit in self.laws.items()}

    @checked
    def save(self, path: str | Path) -> None:
        """Write the laws to a JSON file, which `load` and the commands read.

        Raises:
            DataError: no law could be fitted.
            UserError: the file exists and was not written so.
        """
        if not self.laws:
            raise DataError(f"save: no law was fitted; {'; '.join(self.warnings)}")
        save([fit.law for fit in self.laws.values()], Path(path))

    @checked
    def plot(self, variable: str | None = None, ax: Any = None) -> Any:
        """Loss against learning rate or batch for each N and D, with the quadratics and minima.

        Args:
            variable: lr or batch; by default the first that was tuned.
            ax: matplotlib axes to draw into; by default those of a new figure of pyplot.

        Returns:
            The axes.

        Raises:
            UserError: the variable was not tuned.
        """
        from scaling.laws.plots.figures import draw_with_pyplot
        from scaling.laws.plots.tuning import draw_tuning

        return draw_with_pyplot(lambda panels: draw_tuning(
            panels[0], self.grids, self.minima, variable or self.variables[0]), ax)

    def optima_table(self, most: int | None = None) -> show.TextTable:
        """The table of optima as text, of at most this many rows."""
        names = {"lr": "lr*", "batch": "batch*"}
        columns = ["N", "D", "runs"]
        for variable in self.variables:
            columns += [names[variable], "90% interval"]
        rows = []
        for row in self.to_frame()[:most].to_dict("records"):
            cells = [show.short(row["n"]), show.short(row["d"]), f"{row['fitted']}/{row['runs']}"]
            for variable in self.variables:
                as_text = show.short if variable == "batch" else lambda each: show.number(each, 3)
                low, high = row[f"{variable}_low"], row[f"{variable}_high"]
                cells += [as_text(row[variable]),
                          "-" if np.isnan(low) else f"{as_text(low)} to {as_text(high)}"]
            rows.append((*cells, show.number(row["loss"]), "yes" if row["used"] else "no"))
        return show.TextTable((*columns, "loss", "used"), tuple(rows), ("used",))

    def title(self) -> str:
        """One line: the numbers of runs and of optima."""
        used = sum(not minimum.problem for minimum in self.minima)
        tuned = " and ".join(WORDS[v] for v in self.variables)
        return (f"best {tuned} of {used} of {len(self.grids)} pairs of N and D, from "
                f"{self.runs.loss.size} runs")

    def __repr__(self) -> str:
        more = len(self.grids) - _MAX_SHOWN
        return "\n".join([
            self.title(), self.optima_table(_MAX_SHOWN).text(),
            *([f"and {more} more, in .to_frame()"] if more > 0 else []),
            *(show.equation(fit.law) for fit in self.laws.values()),
            *(f"warning: {warning}" for warning in self.warnings[:_MAX_LISTED]),
            *([f"and {len(self.warnings) - _MAX_LISTED} more warnings, in .warnings"]
              if len(self.warnings) > _MAX_LISTED else [])])


@checked
def best_hyperparameters(
    runs: RunsTable | pd.DataFrame | str | Path,
    *,
    n: str | None = None,
    d: str | None = None,
    c: str | None = None,
    lr: str | None = None,
    batch: str | None = None,
    loss: str | None = None,
    counting: Counting | None = None,
    where: str | None = None,
    within: float | None = WITHIN,
    noise: float | None = None,
    laws: Sequence[str | Form] | None = None,
    resamples: int = RESAMPLES,
    resample: ResampleUnit = "case",
    interval: Method = "bca",
    seed: int = 0,
    watch: Callable[[int], None] = lambda done: None,
) -> BestHyperparameters:
    """Find the best learning rate and batch of each N and D, and fit power laws to them.

    `sl.best_hyperparameters(frame, n="params", d="tokens", lr="lr", batch="batch_tokens")`

    The best rate and batch of one N and D are the minimum of a quadratic in their logarithms
    through the runs near the lowest loss; if only one of them varies, of a parabola. Grids without
    a minimum inside them are named in a warning and left out of the laws, which are fitted to the
    optima with equal weights.

    Args:
        runs: several runs at each N and D: a data frame or a file, or a table from `read` with the
            variables `lr` or `batch`.
        n: column of parameters.
        d: column of training tokens.
        c: column of training FLOPs.
        lr: column of peak learning rates; by default that of this package's tables, if there.
        batch: column of batch sizes in tokens; by default that of this package's tables, if there.
        loss: column of the losses in nats per token.
        counting: which parameters N counts; those without embeddings by default, as in the papers.
        where: a condition on the table's columns.
        within: factor of the best run's rate and batch within which runs are fitted, above 1; None
            for all.
        noise: standard deviation of the log-loss between runs; by default estimated from the
            scatter about the quadratics.
        laws: laws of the learning rate and of the batch; by default step-lr and step-batch, or
            deepseek-lr and deepseek-batch where the optima do not determine those.
        resamples: bootstrap resamples of the laws; 0 for no intervals.
        resample: what is resampled: optima ("case"), residuals, or sizes with all of their optima.
        interval: method of the intervals: "bca" or "percentile".
        seed: seed of the resamples.
        watch: called with the number of resamples done for each of the laws.

    Raises:
        UserError: a column is missing, no rate and no batch is given, or a number is impossible.
        DataError: no N and D has a best rate and batch that its runs determine.
    """
    if within is not None and not within > 1:
        raise UserError(f"{option('within=', '--within ')}{within:g}: a factor above 1 is expected,"
                        f" such as {WITHIN:g}")
    if noise is not None and not 0 < noise < 1:
        raise UserError(f"{option('noise=', '--noise ')}{noise:g}: a standard deviation of the "
                        "log-loss is expected, such as 0.003")
    chosen = None if laws is None else [as_form(law) for law in laws]
    for form in chosen or ():
        if form.outcome not in _VARIABLE_OF:
            raise UserError(f"{form.name}: predicts {form.outcome}, where laws of the best "
                            "learning rate or batch are expected, such as step-lr and step-batch")
    if isinstance(runs, RunsTable):
        check_read_already({"n": n, "d": d, "c": c, "lr": lr, "batch": batch, "loss": loss,
                            "counting": counting, "where": where})
        table = runs
    else:
        frame, source = frame_of(runs)
        table = from_frame(frame, source, n=n, d=d, c=c, loss=loss, where=where,
                           counting=counting or ("non-embedding" if n is None else None),
                           extra=tuned_columns(frame, {"lr": lr, "batch": batch}))
    return _of_table(table, within, noise, chosen, {
        "resamples": resamples, "by": resample, "method": interval, "seed": seed, "watch": watch})


def tuned_columns(frame: pd.DataFrame, given: Mapping[str, str | None]) -> dict[str, str | None]:
    """The columns of lr and batch: those given, and otherwise those of this package's tables that
    the frame has.

    Raises:
        UserError: there is neither.
    """
    columns = {*map(str, frame.columns)}
    if any(given.values()):
        return {v: column for v, column in given.items() if column is not None}
    found: dict[str, str | None] = {
        v: None for v in given if {v, VARIABLES[v].column} & columns}
    if not found:
        how = option("lr=COLUMN, batch=COLUMN or both",
                     "--column lr=COLUMN, --column batch=COLUMN or both")
        raise UserError(f"no column of learning rates or batches; give {how}")
    return found


def _of_table(
    table: RunsTable, within: float | None, noise: float | None, chosen: list[Form] | None,
    fitting: Mapping[str, Any],
) -> BestHyperparameters:
    variables = tuple(v for v in WORDS if v in table.extra)
    if not variables:
        raise UserError("the table has no lr and no batch; read it with "
                        "extra={'lr': COLUMN}, or give a data frame with lr=COLUMN")
    for v in ("n", "d"):
        if np.isnan(table.values[v]).any():
            raise UserError(f"{v.upper()} of some run is missing, which is needed to compare the "
                            "runs of one N and D; give its column with "
                            f" {option(f'{v}=COLUMN', f'--{v} COLUMN')}")
    if not table.loss.size:
        raise DataError("the table has no finished run")
    check_positive(table, "losses are compared by their ratio")
    warnings = table.warnings
    varied = _varied(tuning_grids(table, variables))
    for variable in variables:
        if varied and variable not in varied:
            warnings += (f"the {WORDS[variable]} does not vary at any N and D: the best "
                         f"{WORDS[varied[0]]} is that for the {WORDS[variable]} of the runs",)
    variables = varied or variables
    grids = tuning_grids(table, variables)
    minima, dof = quadratic_minima(grids, within, noise)
    left_out = tuple(
        f"N = {show.short(grid.n)}, D = {show.short(grid.d)} is left out: {minimum.problem}"
        for grid, minimum in zip(grids, minima, strict=True) if minimum.problem)
    if len(left_out) == len(grids):
        more = len(left_out) - _MAX_LISTED
        raise DataError("no N and D has an optimum that its runs determine: "
                        + "; ".join(left_out[:_MAX_LISTED])
                        + (f"; and {more} more" if more > 0 else ""))
    warnings += left_out
    fits: dict[str, Fit] = {}
    optima = {v: _optima(table, grids, minima, i, len(left_out)) for i, v in enumerate(variables)}
    for form in _default_laws(optima) if chosen is None else chosen:
        variable = _VARIABLE_OF[form.outcome]
        if variable not in optima:
            raise UserError(f"{form.name}: needs runs with several {WORDS[variable]} values at the "
                            "same N and D, which the table does not have")
        if variable in fits:
            raise UserError(f"laws: {fits[variable].law.name} and {form.name} are both of the "
                            f"{WORDS[variable]}; give one of them")
        try:
            law = fit_law(optima[variable], form, **fitting)
        except DataError as reason:
            said = str(reason).removeprefix(f"{form.name}: ")
            warnings += (f"{form.name} is not fitted: {said}",)
            continue
        law = replace(law, warnings=(*law.warnings, *left_out))
        fits[variable] = Fit(law, law.residual_loss, optima[variable])
        warnings += tuple(w for w in law.warnings if w not in warnings)
    return BestHyperparameters(tuple(grids), tuple(minima), dof, fits, table, warnings)


def _varied(grids: Sequence[TuningGrid]) -> tuple[str, ...]:
    """The variables with several values at some N and D."""
    return tuple(v for i, v in enumerate(grids[0].variables)
                 if any(len(np.unique(grid.log_x[:, i])) > 1 for grid in grids))


def _optima(
    table: RunsTable, grids: Sequence[TuningGrid], minima: Sequence[TuningMinimum], i: int,
    left_out: int,
) -> RunsTable:
    """The table that a law of the i-th variable is fitted to: a row for each optimum, with the best
    value as its outcome."""
    used = [(grid, minimum) for grid, minimum in zip(grids, minima, strict=True)
            if not minimum.problem]
    n, d, c = (np.array([getattr(grid, v) for grid, _ in used]) for v in ("n", "d", "c"))
    return RunsTable(
        n, d, c, np.exp([minimum.log_x[i] for _, minimum in used]),
        tuple(f"N = {show.short(grid.n)}, D = {show.short(grid.d)}" for grid, _ in used), (),
        {"without_an_optimum": left_out},
        {v: table.convention[v] for v in ("n", "d", "c")}, (), source=table.source,
        columns={v: table.columns[v] for v in ("n", "d", "c") if v in table.columns},
        rows=np.empty(0, dtype=np.intp))


def _default_laws(optima: Mapping[str, RunsTable]) -> list[Form]:
    """The Step law of each variable if the optima can determine it, or else DeepSeek's, of C."""
    forms = []
    for variable, table in optima.items():
        step = as_form(f"step-{variable}")
        x = step.coordinates(table.values)
        several = all(np.ptp(column) > MIN_SPREAD for column in x.T)
        apart = several and dependence(step, x)[1] >= MIN_SPREAD
        forms.append(step if apart else as_form(f"deepseek-{variable}"))
    return forms
