"""Fit a form to a runs table: many starts, one optimum, its uncertainty and diagnostics."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.errors import DataError, UserError, option
from scaling.laws.arguments import checked
from scaling.laws.fitting.bootstrap import (
    BootstrapProblem,
    ResampleUnit,
    check_resamples,
    jackknife,
    refit_numbered,
    resampled_units,
    widening,
)
from scaling.laws.fitting.diagnose import diagnose, fixed_floors
from scaling.laws.fitting.fit_evidence import Evidence
from scaling.laws.fitting.intervals import delta_method_errors, robust_deviation
from scaling.laws.fitting.minimise import Minimum, minimise
from scaling.laws.fitting.misfit import drop_rising_terms, noise_factors
from scaling.laws.fitting.preflight import check_enough_runs, check_losses, check_varied
from scaling.laws.fitting.search import (
    SAME,
    at_bounds,
    follow_valleys,
    large_exponents,
    lowest_few,
    search,
)
from scaling.laws.forms.catalogue import FORMS, NAMED
from scaling.laws.forms.form import Form
from scaling.laws.forms.losses import ResidualLoss, residual_scale
from scaling.laws.forms.schedule_laws import how_to_give
from scaling.laws.forms.variables import VARIABLES
from scaling.laws.forms.wrapped import standardised
from scaling.laws.law import Bootstrap, Interval, Law, Method
from scaling.laws.table import RunsTable

Array = NDArray[np.float64]

RESAMPLES = 1000
_ADAPTIONS = 30       # of delta
_DELTA_RTOL = 1e-7
_FACTOR_RTOL = 1e-6   # of a run's factor of its residual


@checked
def form_named(name: str) -> Form:
    """The form of a name.

    Raises:
        UserError: the name is unknown.
    """
    if name in FORMS:
        return FORMS[name]
    if name in NAMED:
        raise UserError(f"{name}: is a law of learning rate schedules; {how_to_give()}")
    near = difflib.get_close_matches(name, NAMED, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(f"{name}: no law of that name can be fitted; {hint}The laws are "
                    f"{', '.join(NAMED)}")


@checked
def fit_law(
    table: RunsTable,
    form: Form | str,
    *,
    robust: ResidualLoss | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    by: ResampleUnit = "case",
    method: Method = "bca",
    watch: Callable[[int], None] = lambda done: None,
) -> Law:
    """Fit a form to the finished grid runs of a table.

    Args:
        table: the runs; held-out runs are predicted, never fitted.
        form: a form or its name.
        robust: loss of the residuals; by default the form's own. The delta of an adaptive loss is
            estimated from the residuals, and the law's convention has it.
        resamples: number of bootstrap resamples; 0 for no bootstrap and no intervals.
        seed: seed of the bootstrap.
        by: what is resampled: runs (case), residuals, sizes with all of their runs, clusters of
            rows, which is the default for a table that has them, or a factor for the residuals of
            each cluster (wild).
        method: method of the intervals, BCa or percentile.
        watch: called with the number of resamples done.

    Raises:
        DataError: the table has fewer runs than the form has parameters, or too few distinct
            values of a variable.
        UserError: a variable is missing, the outcomes cannot be what the form predicts, or a
            parameter is fixed at a value that contradicts all runs.
    """
    check_resamples(resamples, seed)
    form = form_named(form) if isinstance(form, str) else form
    _check_variables(form, table)
    check_losses(form, table)  # raises for values that cannot be losses
    try:
        with np.errstate(all="ignore"):  # steps that overflow are rejected
            return _fit(table, form, robust or form.robust, resamples, seed, by, method, watch)
    except (np.linalg.LinAlgError, RuntimeError):  # scipy's RuntimeError: too many iterations
        raise DataError(f"{form.name}: the fit to these runs is numerically singular; check that "
                        "no value is extreme, or choose another law") from None


def _fit(
    table: RunsTable, form: Form, robust: ResidualLoss, resamples: int, seed: int, by: ResampleUnit,
    method: Method, watch: Callable[[int], None],
) -> Law:
    fitted = table.take(form.fitted_rows(table)) if table.loss.size else table
    check_enough_runs(form, table, fitted)
    _check_fixed_floors(form, fitted.loss)
    check_varied(form, fitted)

    x = form.coordinates(fitted.values)
    printed, form = form, form.scaled_to(x)
    centre = x.mean(axis=0) if form.centred else np.zeros(x.shape[1])
    x, y = x - centre, form.apply_link(fitted.loss)
    starts, minima = search(form, x, y, fitted.loss, robust)
    minima = follow_valleys(form, x, y, robust, minima)
    own, factor = form, np.ones(len(y))
    if robust.kind == "adaptive":
        robust, minima = _adapt(form, x, y, robust, minima)
        plain_x, plain_y = x, y
        for _ in range(_ADAPTIONS):
            theta = minima.theta[[int(np.argmin(minima.value))]]
            r = plain_y - own.predict(theta, plain_x)[0]
            previous, factor = factor, noise_factors(fitted, own, robust, r, theta.shape[1])
            if np.allclose(factor, previous, rtol=_FACTOR_RTOL):
                break
            form, x, y = standardised(own, plain_x, plain_y, factor)
            robust, minima = _adapt(form, x, y, robust, minima)
        minima = follow_valleys(form, x, y, robust, minima)
    best, theta, dropped = _meaningful(form, x, y, starts, robust, minima)
    point = form.to_params(theta[None], centre)

    convergence = _convergence(minima, best, len(y), len(starts))
    residuals = y - form.predict(theta[None], x)[0]
    dof = max(1, len(y) - len(theta))
    boot = None
    is_interpolation = len(y) <= len(theta)  # which no resample has more runs than
    if resamples and not is_interpolation:
        by, unit = resampled_units(fitted, by)
        starts[:, dropped] = theta[list(dropped)]
        problem = BootstrapProblem(form, x, y, unit, theta, starts, robust, dropped)
        samples, numbers = refit_numbered(problem, by, resamples, seed, watch)
        left_out = jackknife(problem)
        boot = Bootstrap(resamples, len(samples), seed, form.to_params(samples, centre),
                         residuals * np.sqrt(len(y) / dof), form.to_params(left_out, centre),
                         by, method, widening(problem, by), numbers)

    law = Law(
        form=printed,
        convention=_convention(printed, fitted, robust, int((factor < 1).sum())),
        params=dict(zip(form.parameters, map(float, point[0]), strict=True)),
        n_runs=int((~fitted.ideal).sum()),
        excluded=_excluded(printed, table, fitted),
        objective=float(robust.cost(residuals).sum()),
        se_delta=({} if is_interpolation
                  else delta_method_errors(form, x, y, theta, centre, robust)),
        exponents=_exponents(form, point),
        convergence=convergence,
        data_sha256=fitted.sha256,
        bootstrap=boot,
    )
    se, intervals = _spread(law)
    percentile = {} if boot is None or boot.method == "percentile" else _spread(
        replace(law, bootstrap=replace(boot, method="percentile")))[1]
    evidence = Evidence(form, table, fitted, x, y, theta, starts, robust, law.params, convergence,
                        boot, intervals, percentile, law.se_delta)
    warnings, undetermined = diagnose(evidence)
    known = {name for name, value in law.exponents.items() if value is not None}
    none = dict.fromkeys(undetermined & {*form.parameters, *known})
    law = replace(
        law, warnings=tuple(warnings), se={**se, **none},
        intervals={**intervals, **none}, se_delta={**law.se_delta, **none},
        exponents={k: None if k in undetermined else v for k, v in law.exponents.items()},
    )
    return with_heldout(law, table)


@checked
def with_heldout(law: Law, table: RunsTable) -> Law:
    """The law with predictions of the table's held-out runs and their measured outcomes."""
    rows: dict[str, dict[str, Any]] = {}
    for run in table.heldout:
        predicted = float(law.loss(run.values)[0]) if law.converged else None
        error = None
        if predicted is not None and run.loss is not None and run.loss > 0:
            error = predicted / run.loss - 1
        rows[run.run_id] = {
            "n": run.n, "d": run.d, "predicted": predicted,
            "interval": law.prediction_interval(run.values) if law.converged else None,
            "measured": run.loss,
            "relative_error": error,
        }
    return replace(law, heldout=rows)


def _adapt(
    form: Form, x: Array, y: Array, robust: ResidualLoss, minima: Minimum
) -> tuple[ResidualLoss, Minimum]:
    """The adaptive loss with its delta adapted to the residuals, and the minima under it."""
    theta = minima.theta[[int(np.argmin(minima.value))]]
    weight = np.ones((1, len(y)))
    for _ in range(_ADAPTIONS):
        residuals = y - form.predict(theta, x)[0]
        previous, robust = robust, robust.adapted(residual_scale(residuals, theta.shape[1]))
        theta = minimise(form, x, y, weight, theta, robust).theta
        if abs(robust.delta - previous.delta) <= _DELTA_RTOL * robust.delta:
            break
    # Each distinct minimum is followed to the new loss once.
    rounded = np.round(minima.value / max(float(minima.value.min()), 1e-300), 6)
    _, first, group = np.unique(rounded, return_index=True, return_inverse=True)
    begin = np.concatenate([theta, minima.theta[first]])
    after = minimise(form, x, y, np.ones((len(begin), len(y))), begin, robust)
    at = np.where(np.isfinite(minima.value), group + 1, 0)
    at[int(np.argmin(minima.value))] = 0
    return robust, Minimum(*(getattr(after, name)[at] for name in Minimum.__dataclass_fields__))


def _meaningful(
    form: Form, x: Array, y: Array, starts: Array, robust: ResidualLoss, minima: Minimum
) -> tuple[int, Array, tuple[int, ...]]:
    """The lowest minimum with exponents within their bound and without rising terms that the runs
    show no sign of. If it is of a wide start, the lowest minimum of the form's own starts is taken
    where that one is lower after these changes.

    Returns:
        Its index among the minima; theta after the changes, [P]; and the indices of the parameters
        of terms that were dropped.
    """
    def objective(theta: Array) -> float:
        return float(robust.cost(y - form.predict(theta[None], x)[0]).sum())

    few = lowest_few(minima)
    if not large_exponents(form, minima.theta[few[0]]):
        few = few[:1]  # otherwise another may be lower at the bound
    bounded = {i: at_bounds(form, x, y, robust, minima.theta[i]) for i in few}
    lowest = min(bounded, key=lambda i: objective(bounded[i]))
    chosen = {lowest: bounded[lowest]}
    if lowest >= len(starts):
        usual = int(np.argmin(minima.value[:len(starts)]))
        chosen[usual] = at_bounds(form, x, y, robust, minima.theta[usual])
    found = [(i, *drop_rising_terms(form, x, y, theta, starts, robust))
             for i, theta in chosen.items()]
    return min(found, key=lambda each: objective(each[1]))


def _check_variables(form: Form, table: RunsTable) -> None:
    for variable in form.variables:
        if variable not in table.values or np.isnan(table.values[variable]).any():
            needed = VARIABLES[variable]
            how = (option(f"{variable}=COLUMN", f"--{variable} COLUMN")
                   if variable in ("n", "d", "c") else
                   option(f"extra={{{variable!r}: COLUMN}}", f"--column {variable}=COLUMN"))
            raise UserError(f"{form.name}: needs {needed.symbol} ({needed.unit}) of every run; "
                            f"give its column with {how}")


def _check_fixed_floors(form: Form, loss: Array) -> None:
    """Raise if a fixed irreducible loss is at or above every measured loss."""
    for name, value in fixed_floors(form).items():
        if value >= loss.max():
            raise UserError(f"{form.name}: {name} = {value:g} is fixed at or above every loss (the "
                            f"largest is {loss.max():.4g}), where the loss at infinite size is "
                            "expected; fix it at a lower value")


def _convention(
    form: Form, fitted: RunsTable, robust: ResidualLoss, noisy: int
) -> dict[str, Any]:
    return {
        **fitted.convention,
        "loss": form.outcome.removeprefix("loss, "),
        "objective": robust.kind,
        **({"delta": robust.delta} if robust.has_delta else {}),
        **({"noisy": noisy} if noisy else {}),
        "range": {v: [float(values.min()), float(values.max())]
                  for v, values in fitted.values.items() if not np.isnan(values).any()},
    }


def _excluded(form: Form, table: RunsTable, fitted: RunsTable) -> dict[str, int]:
    if form.envelope is None:
        return dict(table.excluded)
    return {**table.excluded, "above_envelope": int(table.loss.size - fitted.loss.size)}


def _convergence(
    minima: Minimum, best: int, runs: int, starts: int
) -> dict[str, float | bool | None]:
    """Measures of convergence; the first minima, `starts` of them, are those that should agree."""
    lowest = minima.value[best]
    # The absolute tolerance is for exact fits, whose objective is rounding error.
    agree = np.abs(minima.value[:starts] - lowest) <= lowest * SAME + runs * 1e-16
    hessian = minima.hessian[best]
    size = np.sqrt(np.maximum(np.diagonal(hessian), 0))
    condition = float("inf")
    if (size > 0).all():
        eigenvalues = np.linalg.eigvalsh(hessian / np.outer(size, size))
        if eigenvalues[0] > 0:
            condition = float(eigenvalues[-1] / eigenvalues[0])
    return {
        "start_agreement": float(np.mean(agree)),
        "grad_norm": float(np.linalg.norm(minima.gradient[best])),
        "condition": condition,
        "converged": bool(minima.converged[best]),
    }


def _spread(law: Law) -> tuple[dict[str, float | None], dict[str, Interval | None]]:
    """Standard errors and intervals of the parameters and of the allocation exponents."""
    boot, form = law.bootstrap, law.form
    if boot is None or len(boot.samples) < 2:
        return {}, {}

    def quantities(params: Array) -> Array:
        a = form.allocation_exponent(params)
        return params if a is None else np.column_stack([params, a, 1 - a])

    names = [*form.parameters, "a", "b"][:quantities(law.point).shape[1]]
    with np.errstate(invalid="ignore", over="ignore"):
        spread = robust_deviation(quantities(boot.samples))
        spread = spread if boot.by == "wild" else boot.widening * spread
    band = law.band(quantities)
    assert band is not None
    fixed = {*form.constraints.get("fixed", {})}
    # Where nearly all resamples end at the bound, they do not tell how far the constant may be.
    at_bound = {name for name in form.constants if law.params[name] == 0}
    return (
        {name: float(sd) for name, sd in zip(names, spread, strict=True) if name not in fixed},
        {name: None if name in at_bound and low == high else (float(low), float(high))
         for name, low, high in zip(names, *band, strict=True) if name not in fixed},
    )


def _exponents(form: Form, point: Array) -> dict[str, float | None]:
    """The exponents a and b of the optimum; none where a user's own law has parameters a or b."""
    a = form.allocation_exponent(point)
    if a is None and {"a", "b"} & {*form.parameters}:
        return {}
    return {"a": None, "b": None} if a is None else {"a": float(a[0]), "b": float(1 - a[0])}
