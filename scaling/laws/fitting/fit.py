"""A form and a runs table in, a law out: many starts, one optimum, and the evidence for it."""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.fitting.bootstrap import Problem, Unit, leave_out, refit
from scaling.laws.fitting.diagnose import Evidence, diagnose
from scaling.laws.fitting.intervals import delta_errors
from scaling.laws.fitting.minimise import Minimum, minimise
from scaling.laws.fitting.robust import Robust
from scaling.laws.forms.catalogue import FORMS
from scaling.laws.forms.form import Form
from scaling.laws.law import Bootstrap, Interval, Law, Method
from scaling.laws.runs import checks
from scaling.laws.runs.table import RunsTable
from scaling.laws.variables import VARIABLES

Array = NDArray[np.float64]

RESAMPLES = 1000
_AGREE = 1e-6
_ENOUGH = 1_000   # runs that every start is fitted to
_POLISHED = 8     # different ends that are polished on all runs


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
    by: Unit = "case",
    method: Method = "bca",
) -> Law:
    """Fit a form to the finished grid runs of a table.

    Args:
        table: the runs; held-out ones are predicted, never fitted.
        form: a form or its name.
        robust: what residuals of the log-loss cost; the form's own by default.
        resamples: of the bootstrap; 0 leaves it out, and with it every interval.
        seed: of the bootstrap's draws.
        by: what the bootstrap draws: runs (case), residuals, or sizes with all of their runs.
        method: of the intervals.

    Raises:
        UserError: the table has fewer runs than the form has parameters, or too few distinct
            values of a variable.
    """
    form = form_named(form) if isinstance(form, str) else form
    robust = robust or form.robust
    _check_variables(form, table)
    checks.outcome(form, table)  # refuses what cannot be a loss
    fitted = table.take(form.rows(table)) if table.loss.size else table
    _check_enough(form, table, fitted)

    x = form.coordinates(fitted.values)
    centre = x.mean(axis=0) if form.centred else np.zeros(x.shape[1])
    x, y = x - centre, form.linked(fitted.loss)
    starts, found = _search(form, x, y, fitted.loss, robust)
    best = int(np.argmin(found.value))
    theta = found.theta[best]
    point = form.report(theta[None], centre)

    convergence = _convergence(found, best, len(y))
    residuals = y - form.predict(theta[None], x)[0]
    spare = max(1, len(y) - len(theta))
    boot = None
    if resamples:
        problem = Problem(form, x, y, fitted.n, theta, starts, robust)
        samples, left_out = refit(problem, by, resamples, seed), leave_out(problem)
        boot = Bootstrap(resamples, len(samples), seed, form.report(samples, centre),
                         residuals * np.sqrt(len(y) / spare), form.report(left_out, centre),
                         by, method)

    law = Law(
        form=form,
        convention=_convention(form, fitted, robust),
        params=dict(zip(form.parameters, map(float, point[0]), strict=True)),
        n_runs=len(y),
        excluded=_excluded(form, table, fitted),
        objective=float(found.value[best]),
        se_delta=delta_errors(form, x, y, theta, centre, robust),
        exponents=_exponents(form, point),
        convergence=convergence,
        data_sha256=fitted.sha256,
        bootstrap=boot,
    )
    se, intervals = _spread(law)
    evidence = Evidence(form, table, fitted, x, theta, law.params, convergence, boot, intervals)
    warnings, unknown = diagnose(evidence)
    undetermined = dict.fromkeys(unknown & {*form.parameters, "a", "b"})
    law = replace(
        law, warnings=tuple(warnings), se={**se, **undetermined},
        intervals={**intervals, **undetermined}, se_delta={**law.se_delta, **undetermined},
        exponents={k: None if k in unknown else v for k, v in law.exponents.items()},
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


def _search(
    form: Form, x: Array, y: Array, loss: Array, robust: Robust
) -> tuple[Array, Minimum]:
    """The starts, and where each of them ends.

    Of many runs the starts see a part, evenly over all; where they end is then polished on all
    runs, one of those that ended together for all of them.
    """
    thin = slice(None, None, -(-len(y) // _ENOUGH))
    starts = form.starts(x[thin], loss[thin])
    found = minimise(form, x[thin], y[thin], np.ones((len(starts), len(y[thin]))), starts, robust)
    if len(y) <= _ENOUGH:
        return starts, found
    order = np.argsort(found.value)
    apart = np.diff(found.value[order], prepend=-np.inf) > _AGREE * found.value[order]
    kinds = np.flatnonzero(apart)[:_POLISHED]
    ends = minimise(form, x, y, np.ones((len(kinds), len(y))), found.theta[order[kinds]], robust)
    # Every start stands where the one of its kind ended; those of the worst kinds stay behind.
    kind_of = np.minimum(np.cumsum(apart) - 1, len(kinds) - 1)
    kind = np.empty(len(starts), dtype=int)
    kind[order] = kind_of
    whole = Minimum(*(getattr(ends, name)[kind] for name in Minimum.__dataclass_fields__))
    behind = np.zeros(len(starts), dtype=bool)
    behind[order] = np.cumsum(apart) > len(kinds)
    whole.value[behind] = np.inf
    return starts, whole


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
            what = {"n": "sizes N", "d": "token counts D", "c": "budgets C"}.get(
                variable, f"values of {VARIABLES[variable].symbol}")
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


def _spread(law: Law) -> tuple[dict[str, float | None], dict[str, Interval | None]]:
    """Standard errors and intervals of the parameters and of the allocation's exponents."""
    boot, form = law.bootstrap, law.form
    if boot is None or len(boot.samples) < 2:
        return {}, {}

    def quantities(params: Array) -> Array:
        a = form.allocation_exponent(params)
        return params if a is None else np.column_stack([params, a, 1 - a])

    names = [*form.parameters, "a", "b"][:quantities(law.point).shape[1]]
    with np.errstate(invalid="ignore", over="ignore"):
        spread = quantities(boot.samples).std(axis=0, ddof=1)
    ends = law.band(quantities)
    assert ends is not None
    held = {*form.constraints.get("fixed", {})}
    return (
        {name: float(sd) for name, sd in zip(names, spread, strict=True) if name not in held},
        {name: (float(low), float(high)) for name, low, high in zip(names, *ends, strict=True)
         if name not in held},
    )


def _exponents(form: Form, point: Array) -> dict[str, float | None]:
    a = form.allocation_exponent(point)
    return {"a": None, "b": None} if a is None else {"a": float(a[0]), "b": float(1 - a[0])}
