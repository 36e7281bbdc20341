"""A form and a runs table in, a law out: many starts, one optimum, and the evidence for it."""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.bootstrap import refit
from scaling.laws.diagnose import Evidence, diagnose
from scaling.laws.forms.catalogue import FORMS
from scaling.laws.forms.form import Form
from scaling.laws.law import Bootstrap, Interval, Law, interval
from scaling.laws.minimise import Minimum, minimise
from scaling.laws.robust import Robust
from scaling.laws.table import RunsTable
from scaling.laws.variables import VARIABLES

Array = NDArray[np.float64]

RESAMPLES = 1000
_AGREE = 1e-6


def form_named(name: str) -> Form:
    """A form by its name.

    Raises:
        UserError: there is none.
    """
    if name in FORMS:
        return FORMS[name]
    near = difflib.get_close_matches(name, FORMS, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(f"{name}: no law of that name can be fitted; {hint}There are "
                    f"{', '.join(FORMS)}")


def fit(
    table: RunsTable,
    form: Form | str,
    *,
    robust: Robust | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Law:
    """Fit a form to the finished grid runs of a table.

    Args:
        table: the runs; held-out ones are predicted, never fitted.
        form: a form or its name.
        robust: what residuals of the log-loss cost; the form's own by default.
        resamples: of the bootstrap; 0 leaves it out, and with it every interval.
        seed: of the bootstrap's draws.

    Raises:
        UserError: the table has fewer runs than the form has parameters, or too few distinct
            values of a variable.
    """
    form = form_named(form) if isinstance(form, str) else form
    robust = robust or form.robust
    _check_variables(form, table)
    fitted = table.take(form.rows(table)) if table.loss.size else table
    _check_enough(form, table, fitted)

    x = form.coordinates(fitted.values)
    centre = x.mean(axis=0) if form.centred else np.zeros(x.shape[1])
    x, y = x - centre, form.linked(fitted.loss)
    starts = form.starts(x, fitted.loss)
    found = minimise(form, x, y, np.ones((len(starts), len(y))), starts, robust)
    best = int(np.argmin(found.value))
    theta = found.theta[best]
    point = form.report(theta[None], centre)

    convergence = _convergence(found, best, len(y))
    residuals = y - form.predict(theta[None], x)[0]
    spare = max(1, len(y) - len(theta))
    boot = None
    if resamples:
        samples = refit(form, x, y, theta, starts, robust, resamples, seed)
        boot = Bootstrap(resamples, len(samples), seed, form.report(samples, centre),
                         residuals * np.sqrt(len(y) / spare))

    params = dict(zip(form.parameters, map(float, point[0]), strict=True))
    evidence = Evidence(form, table, fitted, x, theta, params, convergence, boot)
    warnings, unknown = diagnose(evidence)
    se, intervals = _spread(form, boot, unknown)
    law = Law(
        form=form,
        convention=_convention(form, fitted, robust),
        params=params,
        n_runs=len(y),
        excluded=_excluded(form, table, fitted),
        objective=float(found.value[best]),
        se=se,
        intervals=intervals,
        exponents=_exponents(form, point, unknown),
        convergence=convergence,
        warnings=tuple(warnings),
        data_sha256=fitted.sha256,
        bootstrap=boot,
    )
    return with_heldout(law, table)


def with_heldout(law: Law, table: RunsTable) -> Law:
    """The law with its predictions of the table's held-out runs, beside what was measured."""
    rows: dict[str, dict[str, Any]] = {}
    for run in table.heldout:
        predicted = float(law.loss(run.values)[0]) if law.converged else None
        error = None
        if predicted is not None and run.loss is not None:
            error = predicted / run.loss - 1
        rows[run.run_id] = {
            "n": run.n, "d": run.d, "predicted": predicted,
            "interval": law.prediction_interval(run.values) if law.converged else None,
            "measured": run.loss,
            "relative_error": error,
        }
    return replace(law, heldout=rows)


def _check_variables(form: Form, table: RunsTable) -> None:
    for variable in form.variables:
        if variable not in table.values or np.isnan(table.values[variable]).any():
            has = VARIABLES[variable]
            option = f"--{variable}" if variable in ("n", "d", "c") else f"--column {variable}="
            raise UserError(f"{form.name}: needs {has.symbol} ({has.unit}) of every run; name its "
                            f"column with {option}{'' if option[-1] == '=' else ' '}COLUMN")


def _check_enough(form: Form, table: RunsTable, fitted: RunsTable) -> None:
    out = ", ".join(f"{count} {reason}" for reason, count in table.excluded.items() if count)
    left_out = f"; left out: {out}" if out else ""
    for variable in form.variables:
        there = len(np.unique(fitted.values[variable]))
        needed = form.distinct if variable in ("n", "d", "c") else 1
        if there < needed:
            what = {"n": "sizes N", "d": "token counts D", "c": "budgets C"}[variable]
            raise UserError(f"{form.name}: {there} distinct {what} "
                            f"({table.convention[variable]}) among {fitted.loss.size} finished "
                            f"runs, where at least {needed} are needed{left_out}")
    if fitted.loss.size < len(form.parameters):
        raise UserError(f"{form.name}: {fitted.loss.size} runs for {len(form.parameters)} "
                        f"parameters ({', '.join(form.parameters)}); train more, or choose a "
                        f"simpler law{left_out}")


def _convention(form: Form, fitted: RunsTable, robust: Robust) -> dict[str, Any]:
    return {
        **fitted.convention,
        "loss": form.outcome.removeprefix("loss, "),
        "objective": robust.kind,
        **({"delta": robust.delta} if robust.kind == "huber" else {}),
        "range": {v: [float(values.min()), float(values.max())]
                  for v, values in fitted.values.items() if not np.isnan(values).any()},
    }


def _excluded(form: Form, table: RunsTable, fitted: RunsTable) -> dict[str, int]:
    if form.envelope is None:
        return dict(table.excluded)
    return {**table.excluded, "above_envelope": int(table.loss.size - fitted.loss.size)}


def _convergence(found: Minimum, best: int, runs: int) -> dict[str, float | bool | None]:
    lowest = found.value[best]
    # Where the fit is exact the objective is rounding alone, and all of it agrees.
    agree = found.value <= lowest * (1 + _AGREE) + runs * 1e-16
    hessian = found.hessian[best]
    size = np.sqrt(np.maximum(np.diagonal(hessian), 0))
    condition = float("inf")
    if (size > 0).all():
        eigenvalues = np.linalg.eigvalsh(hessian / np.outer(size, size))
        if eigenvalues[0] > 0:
            condition = float(eigenvalues[-1] / eigenvalues[0])
    return {
        "start_agreement": float(np.mean(agree)),
        "grad_norm": float(np.linalg.norm(found.gradient[best])),
        "condition": condition,
        "converged": bool(found.converged[best]),
    }


def _spread(
    form: Form, boot: Bootstrap | None, unknown: set[str]
) -> tuple[dict[str, float | None], dict[str, Interval | None]]:
    """Standard errors and intervals of the parameters and of the allocation's exponents."""
    if boot is None or len(boot.samples) < 2:
        return dict.fromkeys(unknown), dict.fromkeys(unknown)
    columns = dict(zip(form.parameters, boot.samples.T, strict=True))
    a = form.allocation_exponent(boot.samples)
    if a is not None:
        columns |= {"a": a, "b": 1 - a}
    with np.errstate(invalid="ignore", over="ignore"):
        se = {name: None if name in unknown else float(values.std(ddof=1))
              for name, values in columns.items()}
    return se, {name: None if name in unknown else interval(values)
                for name, values in columns.items()}


def _exponents(form: Form, point: Array, unknown: set[str]) -> dict[str, float | None]:
    a = form.allocation_exponent(point)
    if a is None or "a" in unknown:
        return {"a": None, "b": None}
    return {"a": float(a[0]), "b": float(1 - a[0])}
