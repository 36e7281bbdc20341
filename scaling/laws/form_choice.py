"""`FormChoice`: how well several forms predicted larger runs, and their weighted average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from scaling.errors import UserError
from scaling.laws.arguments import checked
from scaling.laws.frozen import freeze_fields
from scaling.laws.json_object import JsonObject
from scaling.laws.law import LEVEL, Interval, Law, end_shares
from scaling.laws.prediction import columns_of, ends_of, inputs_of, interval_asked_for
from scaling.laws.show import PrintableResult, TextTable, number, percent, span, to_plain

Array = NDArray[np.float64]

SHARES = (0.25, 0.5, 0.75)
"""Shares of the runs, those of least compute, that forms are fitted to."""
_GRID = tuple((i + 0.5) / 400 for i in range(400))  # probabilities of the quantiles of a mixture


@dataclass(frozen=True, repr=False)
class FormChoice(PrintableResult):
    """Several laws of the same runs, and how well each predicted the runs beyond a part of them.

    Attributes:
        laws: the laws by name, the one that predicts best first.
        errors: for each, the mean absolute relative error of the runs beyond the `SHARES` of least
            compute; None where these were too few to fit it to, or the fit did not converge.
        weights: of each in the average: inverse squares of its error beyond the largest share for
            which all have one; equal if there is none.
        aic: Akaike's criterion of each over all runs, above the lowest: twice the number of
            parameters, less twice the log-likelihood.
        reach: largest compute of a predicted run over the largest of a fitted one, by share.
        heldout: average predictions of the held-out runs: `predicted`, `interval`, `measured` and
            `relative_error` by run_id.
    """

    laws: Mapping[str, Law]
    errors: Mapping[str, tuple[float | None, ...]]
    weights: Mapping[str, float]
    aic: Mapping[str, float]
    reach: tuple[float, ...]
    heldout: Mapping[str, Mapping[str, Any]]

    def __post_init__(self) -> None:
        freeze_fields(self)

    @property
    def judged(self) -> int | None:
        """The index of the share that the weights are from; None if the forms could not be
        judged."""
        return judged(self.errors)

    @property
    def best(self) -> str:
        """Name of the law that predicts best."""
        return next(iter(self.laws))

    def alike(self) -> FormChoice:
        """The laws alone that count N as the best one does, with weights that sum to one: values
        of N that are meant for the best law are not those of the others."""
        counting = self.laws[self.best].convention.get("n")
        laws = {name: law for name, law in self.laws.items() if law.convention["n"] == counting}
        total = sum(self.weights[name] for name in laws)
        return replace(
            self, laws=laws, errors={name: self.errors[name] for name in laws},
            weights={name: self.weights[name] / total for name in laws},
            aic={name: self.aic[name] for name in laws})

    @checked
    def predict(
        self, *data: pd.DataFrame, interval: bool | Literal["prediction"] = False,
        level: float | None = None, **values: ArrayLike,
    ) -> Any:
        """The average of the predicted outcomes: of their logarithms, if these are fitted. It takes
        what `Fit.predict` takes.

        Args:
            data: a table, instead of `values`.
            interval: True for the interval of a new run's outcome under the mixture of the laws'
                predictive distributions.
            level: coverage of the interval, 0.9 by default; given alone it asks for one.
            values: the variables by name.

        Raises:
            UserError: a variable is missing or impossible, the laws count N in different ways, or
                one has no resamples.
        """
        kind, level = interval_asked_for(interval, level)
        if len({str(law.convention.get("n")) for law in self.laws.values()}) > 1:
            raise UserError("predict: the laws count N in different ways; fit them to one table, "
                            "read with counting=\"total\"")
        best = self.laws[self.best]
        inputs = inputs_of(best.form, columns_of(best, None), data, values)
        value = average(self.laws, self.weights, dict.fromkeys(self.laws, inputs.values))
        if kind is None:
            return inputs.result(value, None)
        if not all(len(law.samples) for law in self.laws.values()):
            raise UserError("predict: has no intervals, since a law was fitted without resamples; "
                            "fit it with resamples=1000")
        return inputs.result(value, ends_of(
            inputs, lambda one: self.prediction_interval(one, level)))

    def prediction_interval(
        self, values: Mapping[str, Array], level: float = LEVEL
    ) -> Interval | None:
        """The interval of a new run's outcome under the mixture of the laws' predictive
        distributions; None if a law has no resamples.

        Args:
            values: the variables by name, of shape [1], with N as all of the laws count it.
            level: coverage.
        """
        return mixture(self.laws, self.weights, dict.fromkeys(self.laws, values), level)

    def parts(self) -> list[str | TextTable]:
        """The errors and weights, what they say, and the predictions of the held-out runs."""
        columns = ("form", "parameters", "AIC above best",
                   *(f"error beyond {share:.0%}, %" for share in SHARES), "weight")
        rows = tuple(
            (name, str(len(law.form.fitted_parameters)), f"{self.aic[name]:.1f}",
             *("-" if error is None else f"{100 * error:.3g}" for error in self.errors[name]),
             f"{self.weights[name]:.2f}") for name, law in self.laws.items())
        parts: list[str | TextTable] = [
            "which form predicts larger runs: mean errors beyond the runs of least compute",
            TextTable(columns, rows, ("form",)), self.verdict(), *self.unsupported()]
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
                "aic": to_plain(self.aic),
                "heldout": to_plain(self.heldout)}

    def verdict(self) -> str:
        """One sentence on which form predicts best, and by how much."""
        at = self.judged
        if at is None:
            return ("the runs are too few to judge the forms by predictions; the weights are equal")
        error = {name: errors[at] or 0.0 for name, errors in self.errors.items()}
        first, *others = self.laws
        said = ", of ".join(f"{name} {100 * error[name]:.2g}%" for name in others)
        return (f"{first} predicts best, up to {self.reach[at]:.2g} times the compute: its mean "
                f"error is {100 * error[first]:.2g}%, that of {said}")

    def unsupported(self) -> list[str]:
        """What Chinchilla's and Kaplan's form are known for, and these runs do not show, by the
        form that contains both."""
        family = next((law for law in self.laws.values() if law.form.name == "q-family"), None)
        if family is None or family.intervals.get("q") is None:
            return []
        q, e = family.intervals["q"], family.intervals.get("E")
        assert q is not None
        said = []
        if not q[0] <= 1 <= q[1]:
            said.append(f"terms of N and D that add, as in Chinchilla's law: q is {span(q)}, not 1")
        if e is not None and e[0] <= 0:
            said.append("a limit of the loss, E: it may be 0")
        elif e is not None and family.params["E"] > 0:
            said.append(f"a loss that falls without limit, as in Kaplan's law: E is {span(e)}")
        return [f"not supported by these runs: {each}" for each in said]


def choice_from_json(fields: JsonObject, laws: Sequence[object]) -> FormChoice:
    """The choice that `FormChoice.to_json` wrote.

    Args:
        fields: the object, with the numbers of the laws by name under `laws`.
        laws: all laws and approaches of its file.

    Raises:
        UserError: a value is not one that `to_json` writes.
    """
    numbers = fields.object("laws")
    found: dict[str, Law] = {}
    for name in numbers:
        law = laws[i] if (i := numbers.count(name)) < len(laws) else None
        if not isinstance(law, Law):
            raise numbers.error(name, i, "the number of a law of the file")
        found[name] = law
    if not found:
        raise fields.error("laws", None, "the number of each law")
    rows = fields.object("errors")
    errors = {name: tuple(None if np.isnan(value) else float(value) for value in
                          rows.array(name, len(SHARES), exactly=True)) for name in found}
    weights = {name: fields.object("weights").number(name) for name in found}
    if not all(0 <= each <= 1 for each in weights.values()):
        raise fields.error("weights", [*weights.values()], "numbers from 0 to 1")
    heldout = fields.object("heldout")
    aic = {name: fields.object("aic").number(name) for name in found}
    return FormChoice(found, errors, weights, aic, tuple(
        fields.array("reach", len(SHARES), exactly=True).tolist()), {
            run: {"interval": heldout.object(run).pair("interval"), **{
                key: heldout.object(run).optional(key)
                for key in ("predicted", "measured", "relative_error")}} for run in heldout})


def judged(errors: Mapping[str, tuple[float | None, ...]]) -> int | None:
    """The last share beyond which every form has an error."""
    shared = [i for i in range(len(SHARES)) if all(each[i] is not None for each in errors.values())]
    return shared[-1] if shared else None


def average(
    laws: Mapping[str, Law], weights: Mapping[str, float], values: Mapping[str, Mapping[str, Array]]
) -> Array:
    """The weighted average of predictions, [R]: of their logarithms, if these are fitted."""
    forms = [law.form for law in laws.values()]
    link, invert = forms[0].apply_link, forms[0].invert_link
    with np.errstate(all="ignore"):
        linked = [weights[name] * link(law.loss(values[name])) for name, law in laws.items()]
        return np.asarray(invert(np.sum(linked, axis=0)))


def mixture(
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
