"""`choose`: which of several fitted forms predicts larger runs best, and their weighted average.

A form is judged as it will be used: it is fitted to the runs of low compute and predicts the rest.
A form that fits all runs best may predict worse beyond them, and several forms that fit equally
well may differ there. So their average is weighted by these errors, and its interval covers the
choice of the form, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from scaling.errors import UserError
from scaling.laws.arguments import checked
from scaling.laws.fitted import Fit
from scaling.laws.fitting.fit_law import fit_law
from scaling.laws.frozen import freeze_fields
from scaling.laws.law import LEVEL, Interval, Law, end_shares
from scaling.laws.prediction import columns_of, ends_of, inputs_of, interval_asked_for
from scaling.laws.show import PrintableResult, TextTable, number, percent, span, to_plain
from scaling.laws.table import RunsTable

Array = NDArray[np.float64]

SHARES = (0.25, 0.5, 0.75)
"""Shares of the runs, those of least compute, that forms are fitted to."""
_RUNS_PER_PARAMETER = 2.0  # below which a form is not judged
_SMALLEST_ERROR = 1e-4     # relative; of a weight
_GRID = tuple((i + 0.5) / 400 for i in range(400))  # probabilities of the quantiles of a mixture


@dataclass(frozen=True, repr=False)
class FormChoice(PrintableResult):
    """Several fits of the same runs, and how well each predicted the runs beyond a part of them.

    Attributes:
        fits: the fits by name, the one that predicts best first.
        errors: for each, the mean absolute relative error of the runs beyond the `SHARES` of least
            compute; None where these were too few to fit it to, or the fit did not converge.
        weights: of each in the average: inverse squares of its error beyond the largest share for
            which all have one; equal if there is none.
        reach: largest compute of a predicted run over the largest of a fitted one, by share.
        heldout: average predictions of the held-out runs: `predicted`, `interval`, `measured` and
            `relative_error` by run_id.
    """

    fits: Mapping[str, Fit]
    errors: Mapping[str, tuple[float | None, ...]]
    weights: Mapping[str, float]
    reach: tuple[float, ...]
    heldout: Mapping[str, Mapping[str, Any]]

    def __post_init__(self) -> None:
        freeze_fields(self)

    @property
    def judged(self) -> int | None:
        """The index of the share that the weights are from; None if the forms could not be
        judged."""
        return _judged(self.errors)

    @property
    def best(self) -> Fit:
        """The fit that predicts best."""
        return next(iter(self.fits.values()))

    @checked
    def predict(
        self, *data: pd.DataFrame, interval: bool | Literal["prediction"] = False,
        level: float | None = None, **values: ArrayLike,
    ) -> Any:
        """The average of the predicted outcomes, for what `Fit.predict` takes, and as it gives
        them.

        Args:
            data: a table, instead of `values`.
            interval: True for the interval of a new run's outcome under the mixture of the forms'
                predictive distributions.
            level: coverage of the interval, 0.9 by default; given alone it asks for one.
            values: the variables by name.

        Raises:
            UserError: a variable is missing or impossible, the fits count N in different ways, or
                one has no resamples.
        """
        kind, level = interval_asked_for(interval, level)
        if len({str(fit.law.convention.get("n")) for fit in self.fits.values()}) > 1:
            raise UserError("predict: the laws count N in different ways; fit them to one table, "
                            "read with counting=\"total\"")
        laws = {name: fit.law for name, fit in self.fits.items()}
        columns = columns_of(self.best.law, self.best.table)
        inputs = inputs_of(self.best.law.form, columns, data, values)
        value = _average(laws, self.weights, dict.fromkeys(laws, inputs.values))
        if kind is None:
            return inputs.result(value, None)
        if not all(len(law.samples) for law in laws.values()):
            raise UserError("predict: has no intervals, since a law was fitted without "
                            "resamples; fit it with resamples=1000")
        return inputs.result(value, ends_of(inputs, lambda one: _mixture(
            laws, self.weights, dict.fromkeys(laws, one), level)))

    def parts(self) -> list[str | TextTable]:
        """The errors and weights, what they say, and the predictions of the held-out runs."""
        columns = ("form", "parameters",
                   *(f"error beyond {share:.0%}, %" for share in SHARES), "weight")
        rows = tuple(
            (name, str(len(fit.law.form.fitted_parameters)),
             *("-" if error is None else f"{100 * error:.3g}" for error in self.errors[name]),
             f"{self.weights[name]:.2f}") for name, fit in self.fits.items())
        parts: list[str | TextTable] = [
            "which form predicts larger runs: mean errors beyond the runs of least compute",
            TextTable(columns, rows, ("form",)), self._verdict(), *_unsupported(self.fits)]
        if self.heldout:
            columns = ("held out", "average of forms", f"{LEVEL:.0%} interval", "measured", "error")
            parts.append(TextTable(columns, tuple(
                (run, number(row["predicted"]), span(row["interval"]), number(row["measured"]),
                 percent(row["relative_error"])) for run, row in self.heldout.items()),
                ("held out",)))
        return parts

    def to_json(self) -> dict[str, Any]:
        """Errors, weights and predictions of the held-out runs, as plain data."""
        return {"shares": list(SHARES), "judged": self.judged, "reach": list(self.reach),
                "errors": to_plain(self.errors), "weights": to_plain(self.weights),
                "heldout": to_plain(self.heldout)}

    def _verdict(self) -> str:
        at = self.judged
        if at is None:
            return ("the runs are too few to judge the forms by predictions; the weights are equal")
        error = {name: errors[at] or 0.0 for name, errors in self.errors.items()}
        first, *others = self.fits
        said = ", of ".join(f"{name} {100 * error[name]:.2g}%" for name in others)
        return (f"{first} predicts best, up to {self.reach[at]:.2g} times the compute: its mean "
                f"error is {100 * error[first]:.2g}%, that of {said}")


@checked
def choose(*fits: Fit | Iterable[Fit] | Mapping[str, Fit]) -> FormChoice:
    """Judge several laws of the same runs by their predictions of larger runs, and weight them:
    `choose(a, b)`, `choose([a, b])` or `choose({"mine": a, "theirs": b})`.

    Raises:
        UserError: fewer than two fits are given, their runs differ, or a law is of an envelope.
    """
    named: dict[str, Fit] = {}
    for each in fits:
        some: Iterable[tuple[str, Any]] = (
            each.items() if isinstance(each, Mapping) else
            [("", fit) for fit in ([each] if not isinstance(each, Iterable) else each)])
        for given, fit in some:
            if not isinstance(fit, Fit):
                raise UserError(f"choose: fits are expected, not a {type(fit).__name__}")
            name = given or fit.law.name
            named[name if name not in named else f"{name} {len(named) + 1}"] = fit
    if len(named) < 2:
        raise UserError("choose: at least two fits are expected, such as choose(a, b)")
    first = next(iter(named.values()))
    for name, fit in named.items():
        if fit.law.form.envelope is not None:
            raise UserError(f"choose: {name} is fitted to an envelope of the runs only; give laws "
                            "of all runs, such as chinchilla, kaplan-nd and q-family")
        if _outcomes(fit) != _outcomes(first):
            raise UserError(f"choose: {name} was fitted to other runs; fit all to one table")
    return _choice(named, first.runs)


def _outcomes(fit: Fit) -> list[tuple[str, float]]:
    """The runs' names and outcomes, in an order that does not depend on what N counts."""
    return sorted(zip(fit.runs.run_id, fit.runs.loss.tolist(), strict=True))


def _choice(named: Mapping[str, Fit], table: RunsTable) -> FormChoice:
    if np.isnan(table.c).any():
        raise UserError("choose: needs C of every run, or N and D; name their columns")
    cuts = [float(np.quantile(table.c, share, method="lower")) for share in SHARES]
    known = [{name for name, c in zip(table.run_id, table.c, strict=True) if c <= cut}
             for cut in cuts]
    errors = {name: tuple(_error(fit, some) for some in known) for name, fit in named.items()}
    at = _judged(errors)
    weights = dict.fromkeys(named, 1 / len(named))
    order = [*named]
    if at is not None:
        inverse = {name: max(each[at] or 0.0, _SMALLEST_ERROR) ** -2
                   for name, each in errors.items()}
        weights = {name: value / sum(inverse.values()) for name, value in inverse.items()}
        order.sort(key=lambda name: -weights[name])
    laws = {name: named[name].law for name in order}
    return FormChoice(
        {name: named[name] for name in order}, errors, {name: weights[name] for name in order},
        tuple(float(table.c.max() / cut) for cut in cuts), _heldout(laws, weights, named))


def _error(fit: Fit, known: set[str]) -> float | None:
    """The mean absolute relative error of the other runs under a fit to the known ones."""
    table = fit.runs
    is_known = np.array([name in known for name in table.run_id])
    if not 0 < is_known.sum() < len(is_known):
        return None
    if not (table.loss > 0).all():  # errors are relative
        return None
    if is_known.sum() < _RUNS_PER_PARAMETER * len(fit.law.form.fitted_parameters):
        return None
    past, future = (table.take(np.flatnonzero(rows)) for rows in (is_known, ~is_known))
    try:
        law = fit_law(past, fit.law.form, robust=fit.objective, resamples=0)
    except UserError:  # of these runs alone
        return None
    error = float(np.abs(law.loss(future.values) / future.loss - 1).mean())
    return error if law.converged and np.isfinite(error) else None


def _judged(errors: Mapping[str, tuple[float | None, ...]]) -> int | None:
    """The last share beyond which every form has an error."""
    shared = [i for i in range(len(SHARES)) if all(each[i] is not None for each in errors.values())]
    return shared[-1] if shared else None


def _average(
    laws: Mapping[str, Law], weights: Mapping[str, float], values: Mapping[str, Mapping[str, Array]]
) -> Array:
    """The weighted average of predictions, [R]: of their logarithms, if these are fitted."""
    forms = [law.form for law in laws.values()]
    link, invert = forms[0].apply_link, forms[0].invert_link
    with np.errstate(all="ignore"):
        linked = [weights[name] * link(law.loss(values[name])) for name, law in laws.items()]
        return np.asarray(invert(np.sum(linked, axis=0)))


def _mixture(
    laws: Mapping[str, Law], weights: Mapping[str, float],
    values: Mapping[str, Mapping[str, Array]], level: float = LEVEL,
) -> Interval | None:
    """The interval of a new run's outcome under the mixture of predictive distributions, from
    variables of shape [1]; None if a law has no resamples."""
    outcomes: list[Array] = []
    share: list[Array] = []
    for name, law in laws.items():
        quantiles = law.prediction_quantiles(values[name], _GRID)
        if quantiles is None:
            return None
        outcomes.append(np.array(quantiles))
        share.append(np.full(len(_GRID), weights[name] / len(_GRID)))
    every, weight = np.concatenate(outcomes), np.concatenate(share)
    order = np.argsort(every)
    total = np.cumsum(weight[order]) - weight[order] / 2
    low, high = np.interp(end_shares(level), total, every[order])
    return float(low), float(high)


def _heldout(
    laws: Mapping[str, Law], weights: Mapping[str, float], fits: Mapping[str, Fit]
) -> dict[str, dict[str, Any]]:
    runs = {name: {run.run_id: run for run in fits[name].runs.heldout} for name in laws}
    rows: dict[str, dict[str, Any]] = {}
    for run_id, run in next(iter(runs.values())).items():
        if not all(run_id in of for of in runs.values()):
            continue
        values = {name: runs[name][run_id].values for name in laws}
        predicted = float(_average(laws, weights, values)[0])
        rows[run_id] = {
            "predicted": predicted, "interval": _mixture(laws, weights, values),
            "measured": run.loss,
            "relative_error": predicted / run.loss - 1 if run.loss and run.loss > 0 else None}
    return rows


def _unsupported(fits: Mapping[str, Fit]) -> list[str]:
    """What Chinchilla's and Kaplan's form are known for, and these runs do not show, by the form
    that contains both."""
    family = next((fit for fit in fits.values() if fit.law.form.name == "q-family"), None)
    if family is None or family.law.intervals.get("q") is None:
        return []
    q, e = family.law.intervals["q"], family.law.intervals.get("E")
    assert q is not None
    said = []
    if not q[0] <= 1 <= q[1]:
        said.append(f"terms of N and D that add, as in Chinchilla's law: q is {span(q)}, not 1")
    if e is not None and e[0] <= 0:
        said.append("a limit of the loss, E: it may be 0")
    elif e is not None and family.law.params["E"] > 0:
        said.append(f"a loss that falls without limit, as in Kaplan's law: E is {span(e)}")
    return [f"not supported by these runs: {each}" for each in said]
