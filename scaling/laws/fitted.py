"""`Fit`: a law with the runs that it was fitted to, as used in a notebook.

    import scaling.laws as sl
    fit = sl.fit(frame, "chinchilla", n="params", d="tokens")
    fit.predict(n=1e9, d=2e10, interval=True)

`scaling fit` and the other commands are a thin layer over it.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from scaling.errors import DataError, UserError
from scaling.laws import show
from scaling.laws.allocation.allocate import Allocation, allocate
from scaling.laws.allocation.budgets import AllocationBudget
from scaling.laws.arguments import checked
from scaling.laws.form_choice import FormChoice
from scaling.laws.forms.losses import ResidualLoss
from scaling.laws.io import save
from scaling.laws.law import LEVEL, Interval, Law, check_level
from scaling.laws.prediction import (
    IntervalKind,
    by_variable,
    columns_of,
    ends_of,
    inputs_of,
    interval_asked_for,
)
from scaling.laws.table import RunsTable
from scaling.laws.values import broadcast

if TYPE_CHECKING:
    from scaling.laws.evidence import Profile, Residuals, Rolling

Array = NDArray[np.float64]

_MOST_WARNINGS = 3  # in a repr


@dataclass(frozen=True, repr=False)
class Fit:
    """A law and the runs that it was fitted to. Nothing in it can be changed.

    Attributes:
        law: form, parameters, uncertainty and convergence evidence.
        objective: the loss of the residuals that was minimised.
        table: the runs; None for a law that was published or loaded from a file.
        choice: how the form was chosen from several by what they predict; None if it was named.
    """

    law: Law
    objective: ResidualLoss
    table: RunsTable | None = None
    choice: FormChoice | None = None

    @property
    def runs(self) -> RunsTable:
        """The runs.

        Raises:
            UserError: the law was loaded without them.
        """
        if self.table is None:
            raise UserError(f"{self.law.name}: was loaded without its runs; fit it to them again")
        return self.table

    @property
    def params(self) -> Mapping[str, float]:
        """The parameters, by the names of the law's paper."""
        return self.law.params

    @property
    def se(self) -> Mapping[str, float | None]:
        """Standard errors by the bootstrap; None for a parameter that is not determined."""
        return self.law.se

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the runs do not determine, and what looks wrong in them."""
        return self.law.warnings

    @checked
    def intervals(self, level: float = LEVEL) -> dict[str, Interval | None]:
        """Bootstrap intervals of the parameters and of the exponents a and b of the optimum.

        Args:
            level: coverage, above 0 and below 1.

        Returns:
            The ends by name; None for what the runs do not determine.

        Raises:
            UserError: the fit has no resamples, or the level is not a share.
        """
        self._check_resamples()
        check_level(level)
        names = [*self.law.intervals]
        exponents = self.law.form.allocation_exponent

        def quantities(params: Array) -> Array:
            a = exponents(params)
            every = dict(zip(self.law.form.parameters, params.T, strict=True)) | (
                {} if a is None else {"a": a, "b": 1 - a})
            return np.stack([every[name] for name in names], axis=-1)

        band = self.law.band(quantities, level)
        assert band is not None
        return {name: None if self.law.intervals[name] is None else (float(low), float(high))
                for name, low, high in zip(names, *band, strict=True)}

    @checked
    def to_frame(self) -> pd.DataFrame:
        """The parameters and the exponents a and b as a data frame with the columns `value`, `se`,
        `low` and `high` (of the 90% interval), `determined` and `unit`."""
        values = {**self.params, **{name: value for name, value in self.law.exponents.items()
                                    if value is not None or name in self.se}}
        ends = {name: each or (np.nan, np.nan) for name, each in self.law.intervals.items()}
        return pd.DataFrame([{
            "value": value, "se": self.se.get(name), "low": ends.get(name, (np.nan,))[0],
            "high": ends.get(name, (np.nan,))[-1],
            "determined": not show.is_undetermined(self.law, name),
            "unit": self.law.form.units.get(name, ""),
        } for name, value in values.items()], index=pd.Index(values, name="parameter")).astype(
            {"value": float, "se": float})

    @checked
    def predict(
        self, *data: Any, interval: bool | IntervalKind = False,
        level: float | None = None, **values: ArrayLike,
    ) -> Any:
        """The outcome that the law predicts, in most laws the loss in nats per token.

        `fit.predict(n=1e9, d=2e10)`, `fit.predict(n=sizes, d=2e10)` or `fit.predict(frame)`.

        Args:
            data: a table with the columns that the runs were read from, or with the variables' own
                names, instead of `values`.
            interval: True or "prediction" for the interval of a new run's outcome, which includes
                the choice of the form if it was chosen; "confidence" for that of the law itself.
            level: coverage of the interval, 0.9 by default; given alone it asks for one.
            values: the law's variables, or the columns of the runs, by name: numbers or arrays.
                C = 6 N D if only n and d are given.

        Returns:
            A float for numbers, an array for arrays, a series for a data frame or series. With
            `interval` a `Prediction` for numbers, and else a data frame with `value`, `low` and
            `high`.

        Raises:
            UserError: a variable is missing, unknown or impossible, or the fit has no resamples.
            DataError: the fit did not converge.
        """
        if not self.law.converged:
            raise DataError(f"{self.law.name}: the fit did not converge, so it predicts nothing; "
                            f"{'; '.join(self.warnings)}")
        kind, level = interval_asked_for(interval, level)
        if kind is not None:
            self._check_resamples()
        inputs = inputs_of(self.law.form, self._columns, data, values)
        with np.errstate(all="ignore"):
            value = self.law.loss(inputs.values)
        if kind is None:
            return inputs.result(value, None)
        if kind == "confidence":
            return inputs.result(value, self.law.loss_band(inputs.values, level))
        interval_of = (self.law if self.choice is None else self.choice.alike()).prediction_interval
        return inputs.result(value, ends_of(inputs, lambda one: interval_of(one, level)))

    def _given(self, given: Mapping[str, float] | None) -> dict[str, float]:
        """Values of further variables by name, each of which the law has to have."""
        found = by_variable(given or {}, self._columns, self.law.form.variables)
        known = [name for name in self.law.form.variables if name not in ("n", "d", "c")]
        for name in found:
            if name not in self.law.form.variables:
                others = f"its further variables are {', '.join(known)}" if known else (
                    f"its variables are {', '.join(self.law.form.variables)}")
                raise UserError(f"given={{{name!r}: ...}}: {self.law.name} has no variable {name}; "
                                f"leave it out, since {others}")
        return found

    @property
    def _columns(self) -> dict[str, str]:
        return columns_of(self.law, self.table)

    @checked
    def allocate(
        self, compute: ArrayLike | None = None, *, loss: float | None = None,
        n: float | None = None, d: float | None = None, unique_tokens: float | None = None,
        inference_tokens: float = 0.0,
        given: Mapping[str, float] | None = None,
        flops_per_token: Callable[[Array], Array] | None = None,
        level: float = LEVEL,
    ) -> Allocation | pd.DataFrame:
        """The compute-optimal N and D of a budget with intervals, or the cheapest way to a loss.

        Args:
            compute: training FLOPs, or several budgets.
            loss: the loss to reach, instead of `compute`.
            n: fixed number of parameters.
            d: fixed number of training tokens; with `n` too, what the law predicts for them.
            unique_tokens: distinct training tokens that there are, in a law of repeated data.
            inference_tokens: tokens of the model's lifetime, whose FLOPs the budget includes.
            given: values of further variables, by name.
            flops_per_token: training FLOPs per token as a function of N; 6 N by default.
            level: coverage of the intervals.

        Returns:
            An `Allocation`; for several budgets a data frame with the columns `compute`, `n`, `d`
            and `loss`, and the ends of their intervals, `n_low`, `n_high` and so on.

        Raises:
            UserError: the law does not support such a budget, or a number is impossible.
        """
        given = self._given(given)

        def one(c: float | None) -> Allocation:
            return allocate(self.law, AllocationBudget(
                c=c, loss=loss, n=n, d=d, unique_tokens=unique_tokens,
                inference_tokens=inference_tokens, given=given,
                flops_per_token=flops_per_token), level=level)

        if compute is None:
            return one(None)
        budgets = broadcast({"compute": compute})[0]["compute"]
        if np.ndim(compute) == 0:
            return one(float(budgets[0]))
        rows = []
        for c in budgets:
            best = one(float(c))
            row: dict[str, float | None] = {"compute": float(c)}
            for name in ("n", "d", "loss"):
                low, high = getattr(best, f"{name}_interval") or (None, None)
                row |= {name: getattr(best, name), f"{name}_low": low, f"{name}_high": high}
            rows.append(row)
        return pd.DataFrame(rows, dtype=float)

    @checked
    def residuals(self) -> Residuals:
        """Residuals of the runs, and their trends along N, D and C."""
        from scaling.laws.evidence import residuals

        return residuals(self.law, self.runs)

    @checked
    def profile(
        self, name: str, values: Sequence[float] | Array | float | None = None, *,
        level: float = LEVEL
    ) -> Profile:
        """The lowest objective at each value of a parameter, or of the exponent a or b, and the
        interval of that coverage which follows from it; with a warning if resamples disagree.

        Raises:
            UserError: the law has no such parameter, or fixes it.
        """
        from scaling.laws.evidence import profile

        return profile(self.runs, self.law.form, name, values, robust=self.objective,
                       level=level).beside(self.law)

    @checked
    def rolling(self, by: str = "c") -> Rolling:
        """Fits to the runs of small N, D or C that predict those of the larger ones; `by` is n, d
        or c, or its column."""
        from scaling.laws.evidence import rolling_origin

        return rolling_origin(self.runs, [self.law.form], by, robust=self.objective)

    @checked
    def plot(self, ax: Any = None, *, x: str | None = None) -> Any:
        """Outcomes against a variable, with the law and its 90% band: for each of a few values of
        the second variable, and with further ones held at a median run's value.

        Args:
            ax: matplotlib axes to draw into, here and below; by default a new figure of pyplot.
            x: the variable of the x axis, or its column; in a law of N and D it is d unless this is
                n or c.

        Returns:
            The axes, here and below; an array of them for several panels.

        Raises:
            UserError: the law has no such variable, or was loaded without its runs.
            DataError: the fit did not converge.
        """
        if x is not None:
            (x,) = by_variable({x: None}, self._columns, self.law.form.variables)
        return self._drawn("law", ax, x=x)

    @checked
    def plot_isoflop(
        self, budgets: Sequence[float] | Array | float | None = None, ax: Any = None, *,
        given: Mapping[str, float] | None = None,
    ) -> Any:
        """Loss against N at each compute budget, with the runs there and the optimum; by default at
        the budgets of the runs. `given` has values of further variables."""
        given = self._given(given)
        if budgets is not None:
            budgets = np.ravel(np.asarray(budgets, dtype=float)).tolist()
        return self._drawn("isoflop", ax, given=given, budgets=budgets)

    @checked
    def plot_allocation(
        self, compute: ArrayLike | None = None, *, given: Mapping[str, float] | None = None,
    ) -> Any:
        """N* and D* from the smallest to the largest `compute`, with 90% bands, beside those of
        Kaplan, Hoffmann and Besiroglu."""
        given = self._given(given)
        return self._drawn("allocation", given=given, compute=(
            None if compute is None else broadcast({"compute": compute})[0]["compute"]))

    @checked
    def plot_residuals(self) -> Any:
        """Residuals in percent, measured / predicted - 1, against N, D and C."""
        return self._drawn("residuals")

    @checked
    def plot_profile(self, name: str, ax: Any = None) -> Any:
        """The profile of a parameter, or of the exponent a or b, and its interval."""
        return self._drawn("profile", ax, profile=self.profile(name))

    @checked
    def plot_pairs(self) -> Any:
        """Every pair of parameters over the resamples."""
        return self._drawn("pairs")

    def _drawn(self, figure: str, ax: Any = None, **options: Any) -> Any:
        from scaling.laws.plots.figures import plot_law

        table = self.table if figure in ("allocation", "pairs") else self.runs
        return plot_law(figure, self.law, table, ax, options)

    @checked
    def save(self, path: str | Path) -> None:
        """Write the law to a JSON file, which `load` and the commands read; with the laws that its
        form was chosen from.

        Raises:
            UserError: the file was not written by this method or by `scaling fit --save`.
        """
        save([self.law] if self.choice is None else [*self.choice.laws.values()], Path(path),
             choice=self.choice)

    @checked
    def summary(self) -> str:
        """All that is known of the fit, as text."""
        law = self.law
        lines = [show.title(law), show.run_counts(law), show.convention(law),
                 show.convergence(law), show.parameter_table(law).text()]
        if law.heldout:
            lines.append(show.heldout_table(law).text())
        if self.choice is not None:
            lines.append(repr(self.choice))
        return "\n".join([*lines, *(f"warning: {warning}" for warning in law.warnings)])

    def __repr__(self) -> str:
        lines = [f"{self.law.name}: {show.equation(self.law)}", show.run_counts(self.law)]
        if not self.law.converged:
            lines.append("NOT CONVERGED")
        lines.append(show.parameter_table(self.law).text())
        if self.choice is not None:
            lines.append(self.choice.verdict())
        return "\n".join([*lines, *self._brief_warnings()])

    def _repr_html_(self) -> str:
        title = html.escape(f"{self.law.name}: {show.equation(self.law)}")
        warnings = "".join(f"<li>{html.escape(each)}</li>" for each in self._brief_warnings())
        verdict = "" if self.choice is None else f"<br>{html.escape(self.choice.verdict())}"
        table = show.parameter_table(self.law)
        head = "".join(f"<th>{html.escape(name)}</th>" for name in table.columns)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
                       for row in table.rows)
        return (f"<p><b>{title}</b><br>{html.escape(show.run_counts(self.law))}{verdict}</p>"
                f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
                + (f"<ul>{warnings}</ul>" if warnings else ""))

    def _brief_warnings(self) -> list[str]:
        shown = [f"warning: {warning}" for warning in self.warnings[:_MOST_WARNINGS]]
        more = len(self.warnings) - _MOST_WARNINGS
        return [*shown, f"and {more} more warnings, in .warnings"] if more > 0 else shown

    def _check_resamples(self) -> None:
        if not len(self.law.samples):
            runs, parameters = self.law.n_runs, len(self.law.form.parameters)
            if self.law.se_delta or runs is None:
                raise UserError(f"{self.law.name}: has no intervals, since it was fitted without "
                                "resamples; fit it with resamples=1000")
            raise UserError(f"{self.law.name}: has no intervals, since {runs} runs for "
                            f"{parameters} parameters leave nothing to estimate them from; train "
                            "more runs")
