"""Comparison of forms on the same runs: held-out error, AIC and likelihood-ratio tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy
from numpy.typing import NDArray
from scipy.special import erf

from scaling.errors import UserError
from scaling.laws.evidence.refit import PreparedFit, form_label, prepare
from scaling.laws.evidence.sensitivity import has_enough_runs, leave_one_size_out_weights
from scaling.laws.fitting.minimise import minimise
from scaling.laws.forms.form import Form
from scaling.laws.forms.losses import ADAPTIVE, ResidualLoss
from scaling.laws.show import PrintableResult, TextTable, rows_frame, text_table
from scaling.laws.table import RunsTable

Array = NDArray[np.float64]

APART_ERRORS = 2.0
"""Standard errors by which held-out costs must differ for two forms to count as distinguishable."""
APART_AIC = 2.0
"""Difference in AIC that is needed in addition (Burnham and Anderson 2002, section 2.6)."""
NULL_SAMPLES = 199

_TOLERANCE = 1e-9  # of an objective: a nested form may fit better only by rounding
_ROUNDING = 1e-16
_ALIKE = 1e-6         # of the cost of a run
_MEANINGLESS = 100.0  # relative error of an outcome, beyond which a form is not determined there


@dataclass(frozen=True)
class ComparedForm(PrintableResult):
    """One form of a comparison.

    `objective` and `aic` are over all runs. `held_out` is the mean relative error of the outcome
    over runs whose size was left out of the fit, `worst_held_out` the largest such error with its
    sign, and `held_out_cost` their mean cost under the objective; None if the form cannot be
    fitted without some size. `apart` is whether the form is distinguishable from the best one, and
    `verdict` the reason.
    """

    form: str
    formula: str
    parameters: int
    objective: float
    log_likelihood: float
    aic: float
    held_out: float | None
    worst_held_out: float | None
    held_out_cost: float | None
    apart: bool
    verdict: str


@dataclass(frozen=True, repr=False)
class Comparison(PrintableResult):
    """Forms on the same runs under the same objective, the best first."""

    n_runs: int
    sizes: int
    objective: str
    entries: tuple[ComparedForm, ...]

    def to_frame(self) -> pd.DataFrame:
        """The forms as a data frame, one a row, the best first."""
        return rows_frame(self.entries)

    def parts(self) -> list[str | TextTable]:
        """The forms side by side."""
        lowest = min(entry.aic for entry in self.entries)
        head = ("form", "parameters", "objective", "AIC above best", "held-out error %",
                "worst %", "verdict")
        rows = [(e.form, e.parameters, e.objective, e.aic - lowest,
                 None if e.held_out is None else 100 * e.held_out,
                 None if e.worst_held_out is None else 100 * e.worst_held_out, e.verdict)
                for e in self.entries]
        return [f"{self.n_runs} runs of {self.sizes} sizes, {self.objective}",
                text_table(head, rows)]


@dataclass(frozen=True, repr=False)
class LikelihoodRatio(PrintableResult):
    """Likelihood-ratio test of nested forms.

    `gain` is the decrease of the objective from the small to the large form, and `p_value` the
    share of data sets under the small law with at least that gain.
    """

    small: str
    large: str
    constraints: int
    gain: float
    p_value: float
    samples: int

    def parts(self) -> list[str | TextTable]:
        """The outcome of the test in one sentence."""
        return [f"{self.small} within {self.large}: {self.constraints} more parameters lower the "
                f"objective by {self.gain:.4g}, p = {self.p_value:.3g} ({self.samples} wild "
                "bootstrap samples)"]


def compare_forms(
    table: RunsTable, forms: Sequence[Form | str], *, robust: ResidualLoss | None = None
) -> Comparison:
    """Compare several forms on the same runs by their predictions of left-out sizes.

    The best form has the lowest mean cost over runs whose size was left out of the fit. Another
    form is distinguishable from it only if its cost differs by `APART_ERRORS` standard errors,
    over sizes, and its AIC by `APART_AIC`, in the same direction; otherwise the runs do not
    determine which of the two is right, whatever their objectives.

    Args:
        table: the runs.
        forms: two or more forms or their names.
        robust: loss of the residuals, for all of them; by default, and if it is adaptive, Huber's
            with the delta of the form with the smallest residuals.

    Raises:
        UserError: there are fewer than two forms, they are fitted to different runs or outcomes,
            or one cannot be fitted.
    """
    if len(forms) < 2:
        raise UserError("compare_forms: two or more forms are expected, such as "
                        "[\"chinchilla\", \"kaplan-nd\"]")
    fits, robust = _prepare_alike(table, forms, robust or ADAPTIVE)
    first = fits[0]
    for other in fits[1:]:
        _check_same(first, other)
    costs, errors = zip(*map(_held_out, fits), strict=True)
    size_index = leave_one_size_out_weights(first)[1].argmin(axis=0)
    likelihoods = [log_likelihood(p.residuals, robust) for p in fits]
    # The scale of the residuals is one more parameter.
    aics = [2 * (len(p.theta) + 1 - value) for p, value in zip(fits, likelihoods, strict=True)]
    mean_costs = [float(cost.mean()) for cost in costs]
    sort_costs = [value if np.isfinite(value) else np.inf for value in mean_costs]
    order = [int(i) for i in np.lexsort((aics, sort_costs))]
    best = order[0]
    entries = []
    for i, prepared in enumerate(fits):
        error = errors[i]
        has_error = bool(np.isfinite(mean_costs[i]))
        same = [j for j in range(len(fits)) if j != i and _predict_alike(costs[i], costs[j])]
        if same and (i == best or best in same):
            alike = fits[best if i != best else same[0]].form
            apart, verdict = False, f"neither is better: predicts as {form_label(alike)} does"
        elif i == best:
            apart, verdict = False, "best at unseen sizes"
        else:
            apart, verdict = _verdict(fits[best].form, costs[best], costs[i],
                                      aics[i] - aics[best], size_index)
        entries.append(ComparedForm(
            form_label(prepared.form), prepared.form.formula, len(prepared.theta),
            float(prepared.objective(prepared.theta[None])[0]), likelihoods[i], aics[i],
            float(np.abs(error).mean()) if has_error else None,
            float(error[np.argmax(np.abs(error))]) if has_error else None,
            mean_costs[i] if has_error else None, apart, verdict,
        ))
    return Comparison(len(first.y), int(size_index.max()) + 1, f"{robust.label} loss of residuals",
                      tuple(entries[i] for i in order))


def _prepare_alike(
    table: RunsTable, forms: Sequence[Form | str], robust: ResidualLoss
) -> tuple[list[PreparedFit], ResidualLoss]:
    """Fits of several forms under one loss, and that loss."""
    fits = [prepare(table, form, robust) for form in forms]
    if robust.kind != "adaptive":
        return fits, robust
    common = ResidualLoss("huber", min(each.robust.delta for each in fits))
    return [prepare(table, form, common) for form in forms], common


def log_likelihood(residuals: Array, robust: ResidualLoss) -> float:
    """Maximum log-likelihood of residuals under a density proportional to exp(-rho(r)/t).

    The density is normal for least squares, Laplace's for the absolute loss, and for Huber's loss
    normal within delta and exponential outside (Huber 1964); t, which the objective leaves free,
    is its maximum-likelihood estimate. Assumes independent runs with identically distributed
    residuals. In natural logarithms, on the scale of the linked outcome.
    """
    n_runs = len(residuals)
    if not np.isfinite(residuals).all():
        return -np.inf
    total = max(float(robust.cost(residuals).sum()), n_runs * robust.stages()[-1].rounding_cost)
    if robust.kind == "l1":
        return -n_runs * (1 + float(np.log(2 * total / n_runs)))
    if robust.kind == "squared":
        return -n_runs / 2 * (1 + float(np.log(2 * np.pi * 2 * total / n_runs)))
    delta = robust.delta

    def negative_log_likelihood(log_t: float) -> float:
        t = float(np.exp(log_t))
        middle = 0.5 * np.log(2 * np.pi * t) + np.log(erf(delta / np.sqrt(2 * t)))
        tails = np.log(2 * t / delta) - delta**2 / (2 * t)
        return total / t + n_runs * float(np.logaddexp(middle, tails))

    centre = float(np.log(total / n_runs))
    optimum = scipy.optimize.minimize_scalar(
        negative_log_likelihood, bounds=(centre - 5, centre + 5), method="bounded",
        options={"xatol": 1e-10})
    return -float(optimum.fun)


def likelihood_ratio(
    table: RunsTable, small: Form | str, large: Form | str, *, robust: ResidualLoss | None = None,
    samples: int = NULL_SAMPLES, seed: int = 0,
) -> LikelihoodRatio:
    """Likelihood-ratio test of whether the runs need the larger of two nested forms.

    Data sets under the small law are its predictions plus the large law's residuals with random
    signs (the wild bootstrap, Wu 1986, Mammen 1993), which allows noise that depends on size; both
    forms are refitted to each. Assumes independent runs with symmetrically distributed residuals.

    Args:
        table: the runs.
        small: the nested form, such as one from `constrain`, or its name.
        large: the form that contains it, or its name.
        robust: loss of the residuals, for both; by default, and if it is adaptive, Huber's with
            the smaller delta of the two.
        samples: number of bootstrap data sets.
        seed: seed of the random signs.

    Raises:
        UserError: the large form does not have more parameters, the forms are fitted to different
            runs or outcomes, or the small one fits better and so is not nested.
    """
    (a, b), robust = _prepare_alike(table, (small, large), robust or ADAPTIVE)
    _check_same(a, b)
    constraints = len(b.theta) - len(a.theta)
    f_small, f_large = (float(p.objective(p.theta[None])[0]) for p in (a, b))
    gain = f_small - f_large
    if constraints <= 0 or gain < -_TOLERANCE * f_small - _ROUNDING * len(a.y):
        raise UserError(f"{form_label(a.form)} ({len(a.theta)} parameters, objective "
                        f"{f_small:.6g}) is not a special case of {form_label(b.form)} "
                        f"({len(b.theta)}, {f_large:.6g}); give the smaller form first, or compare "
                        "the two with compare_forms")
    degrees = max(1, len(b.y) - len(b.theta))
    residuals = b.residuals * np.sqrt(len(b.y) / degrees)
    predicted = a.y - a.residuals
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (samples, len(a.y)))
    y_BR = predicted + residuals * signs
    gains = (_refitted_objectives(a, y_BR, a.theta[None])
             - _refitted_objectives(b, y_BR, _nested_starts(a, b)))
    n_larger = int((gains >= gain - _TOLERANCE * f_small).sum())
    return LikelihoodRatio(form_label(a.form), form_label(b.form), constraints, gain,
                           (1 + n_larger) / (1 + samples), samples)


def _nested_starts(a: PreparedFit, b: PreparedFit) -> Array:
    """Starts of the large form: its optimum, and its fit to the small law's predictions,
    [K, P]."""
    nested = minimise(b.form, b.x, a.y - a.residuals, np.ones((len(b.starts) + 1, len(b.y))),
                      np.stack([b.theta, *b.starts]), ResidualLoss("squared"))
    return np.stack([b.theta, nested.theta[np.argmin(nested.value)]])


def _refitted_objectives(prepared: PreparedFit, y_BR: Array, begin_KP: Array) -> Array:
    """Objectives of refits to other outcomes of the same runs, [B]."""
    n_starts = len(begin_KP)
    ends = minimise(prepared.form, prepared.x, np.tile(y_BR, (n_starts, 1)),
                    np.ones((n_starts * len(y_BR), len(prepared.y))),
                    np.repeat(begin_KP, len(y_BR), axis=0), prepared.robust)
    return np.asarray(ends.value.reshape(n_starts, len(y_BR)).min(axis=0))


def _held_out(prepared: PreparedFit) -> tuple[Array, Array]:
    """Cost and relative error of each run in the fit without its size, [R] each; NaN where the
    other sizes do not determine the form."""
    _, w = leave_one_size_out_weights(prepared)
    refits = prepared.refit(w)
    usable = refits.converged & has_enough_runs(prepared, w)
    own = w.argmin(axis=0)
    predicted = prepared.form.predict(refits.theta, prepared.x)[own, np.arange(len(own))]
    outcome = prepared.form.invert_link(predicted)
    measured = prepared.runs.loss
    # Errors are relative; to the largest outcome where one may be zero or negative.
    error = (outcome - measured) / (measured if (measured > 0).all() else np.abs(measured).max())
    cost = prepared.robust.cost(prepared.y - predicted)
    # Without some size a term may be undetermined, and its prediction there meaningless.
    known = usable[own] & np.isfinite(error) & (np.abs(error) < _MEANINGLESS)
    return np.where(known, cost, np.nan), np.where(known, error, np.nan)


def _predict_alike(a: Array, b: Array) -> bool:
    """Whether two forms predict all left-out runs alike, up to rounding."""
    return bool(np.allclose(a, b, rtol=_ALIKE, atol=0.0))


def _verdict(
    best: Form, best_cost: Array, cost: Array, aic: float, size_index: NDArray[np.intp]
) -> tuple[bool, str]:
    """Whether a form is distinguishable from the best one, and the reason in words."""
    if not np.isfinite(cost).all():
        return False, "some size cannot be left out: no held-out error to compare"
    sums = np.bincount(size_index, cost - best_cost)
    mean, error = sums.mean(), sums.std(ddof=1) / np.sqrt(len(sums))
    if mean > APART_ERRORS * error and aic > APART_AIC:
        return True, (f"worse than {form_label(best)}: {mean / error if error else np.inf:.1f} "
                      f"standard errors at unseen sizes, AIC {aic:+.1f}")
    times = mean / error if error else 0.0
    return False, (f"not distinguishable from {form_label(best)}: {times:.1f} standard errors at "
                   f"unseen sizes, AIC {aic:+.1f}")


def _check_same(a: PreparedFit, b: PreparedFit) -> None:
    if a.runs.run_id != b.runs.run_id:
        raise UserError(f"{form_label(a.form)} is fitted to {len(a.y)} runs and "
                        f"{form_label(b.form)} to {len(b.y)} of them, but only forms fitted to the "
                        "same runs can be compared; rolling_origin evaluates any forms on the same "
                        "predictions")
    if a.form.link != b.form.link or a.form.outcome != b.form.outcome:
        raise UserError(f"{form_label(a.form)} predicts {a.form.outcome} and {form_label(b.form)} "
                        f"{b.form.outcome}, or one of them its logarithm, so their residuals "
                        "cannot be compared")
