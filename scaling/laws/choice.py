"""`choose`: which of several fitted forms predicts larger runs best, and their weighted average.

A form is judged as it will be used: it is fitted to the runs of low compute and predicts the rest.
A form that fits all runs best may predict worse beyond them, and several forms that fit equally
well may differ there. So their average is weighted by these errors, and its interval covers the
choice of the form, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from scaling.errors import UserError
from scaling.laws.arguments import checked
from scaling.laws.fitted import Fit
from scaling.laws.fitting.fit_law import fit_law
from scaling.laws.form_choice import SHARES, FormChoice, average, judged, mixture
from scaling.laws.forms.losses import ResidualLoss
from scaling.laws.law import Law
from scaling.laws.table import RunsTable

_RUNS_PER_PARAMETER = 2.0  # below which a form is not judged
_SMALLEST_ERROR = 1e-4     # relative; of a weight


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
    at = judged(errors)
    weights = dict.fromkeys(named, 1 / len(named))
    order = [*named]
    if at is not None:
        inverse = {name: max(each[at] or 0.0, _SMALLEST_ERROR) ** -2
                   for name, each in errors.items()}
        weights = {name: value / sum(inverse.values()) for name, value in inverse.items()}
        order.sort(key=lambda name: -weights[name])
    laws = {name: named[name].law for name in order}
    aic = _aic(named)
    return FormChoice(
        laws, {name: errors[name] for name in order}, {name: weights[name] for name in order},
        {name: aic[name] for name in order},
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


def _aic(fits: Mapping[str, Fit]) -> dict[str, float]:
    """Akaike's criterion of each fit, above the lowest, under one loss of the residuals."""
    from scaling.laws.evidence.comparison import log_likelihood

    losses = [fit.law.residual_loss for fit in fits.values()]
    robust = ResidualLoss("squared")
    if all(loss.has_delta for loss in losses):
        robust = ResidualLoss("huber", min(loss.delta for loss in losses))
    values = {}
    for name, fit in fits.items():
        link = fit.law.form.apply_link
        residuals = link(fit.runs.loss) - link(fit.law.loss(fit.runs.values))
        # The scale of the residuals is one more parameter.
        values[name] = 2 * (len(fit.law.form.fitted_parameters) + 1
                            - log_likelihood(residuals, robust))
    lowest = min(values.values())
    return {name: value - lowest for name, value in values.items()}


def _heldout(
    laws: Mapping[str, Law], weights: Mapping[str, float], fits: Mapping[str, Fit]
) -> dict[str, dict[str, Any]]:
    runs = {name: {run.run_id: run for run in fits[name].runs.heldout} for name in laws}
    rows: dict[str, dict[str, Any]] = {}
    for run_id, run in next(iter(runs.values())).items():
        if not all(run_id in of for of in runs.values()):
            continue
        values = {name: runs[name][run_id].values for name in laws}
        predicted = float(average(laws, weights, values)[0])
        rows[run_id] = {
            "predicted": predicted, "interval": mixture(laws, weights, values),
            "measured": run.loss,
            "relative_error": predicted / run.loss - 1 if run.loss and run.loss > 0 else None}
    return rows
