"""Several forms on the same runs: which describes them, and whether they can be told apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from scaling.errors import UserError
from scaling.laws.evidence.problem import Problem, label, prepare
from scaling.laws.evidence.rows import Plain, aligned
from scaling.laws.evidence.sensitivity import enough, without_each_size
from scaling.laws.fitting.minimise import minimise
from scaling.laws.fitting.robust import HUBER, Robust
from scaling.laws.forms.form import Form
from scaling.laws.runs.table import RunsTable

Array = NDArray[np.float64]

APART_ERRORS = 2.0
"""Standard errors by which held-out costs have to differ, for two forms to be told apart."""
APART_AIC = 2.0
"""Difference in AIC that is needed beside it (Burnham and Anderson 2002, section 2.6)."""
NULL_SAMPLES = 199

_SAME = 1e-9     # of an objective: a nested form may fit as well, never better, but for rounding
_ROUNDING = 1e-16


@dataclass(frozen=True)
class Entry(Plain):
    """One form. `objective` and `aic` are of all runs. `held_out` is the mean relative error of
    the outcome over runs of sizes that the fit did not see, `worst_held_out` the largest with its
    sign, and `held_out_cost` the mean of what the objective charges for them; None where a size is
    needed by the form. `apart` says whether the form can be told from the best one, and
    `verdict` why."""

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


@dataclass(frozen=True)
class Comparison(Plain):
    """Forms on the same runs under the same objective, the best first."""

    n_runs: int
    sizes: int
    objective: str
    entries: tuple[Entry, ...]

    def text(self) -> str:
        """For the terminal."""
        least = min(entry.aic for entry in self.entries)
        head = ("form", "parameters", "objective", "AIC above best", "held-out error %",
                "worst %", "verdict")
        rows = [(e.form, e.parameters, e.objective, e.aic - least,
                 None if e.held_out is None else 100 * e.held_out,
                 None if e.worst_held_out is None else 100 * e.worst_held_out, e.verdict)
                for e in self.entries]
        return f"{self.n_runs} runs of {self.sizes} sizes, {self.objective}\n" + aligned(head, rows)


@dataclass(frozen=True)
class LikelihoodRatio(Plain):
    """How much a larger form gains over one that it contains. `gain` is the fall of the
    objective; `p_value` the share of data sets from the smaller law that would gain as much."""

    small: str
    large: str
    constraints: int
    gain: float
    p_value: float
    samples: int

    def text(self) -> str:
        """For the terminal."""
        return (f"{self.small} within {self.large}: {self.constraints} more parameters lower the "
                f"objective by {self.gain:.4g}, p = {self.p_value:.3g} ({self.samples} wild "
                "bootstrap samples)")


def compare_forms(
    table: RunsTable, forms: Sequence[Form | str], *, robust: Robust | None = None
) -> Comparison:
    """Fit several forms to the same runs, and ask what each foretells of sizes it has not seen.

    The best form is the one with the lowest mean cost of runs whose size was left out of the fit.
    Another can be told from it only if its cost differs by `APART_ERRORS` standard errors, taken
    over sizes, and AIC by `APART_AIC`, in the same direction; else the runs do not say which of
    the two is right, whatever their objectives are.

    Args:
        table: the runs.
        forms: two or more, or their names.
        robust: what residuals cost, for all of them; Huber's by default.

    Raises:
        UserError: there are less than two forms, they are fitted to different runs or outcomes,
            or one cannot be fitted.
    """
    if len(forms) < 2:
        raise UserError("compare_forms: two or more forms are expected, such as "
                        "[\"chinchilla\", \"kaplan-nd\"]")
    robust = robust or HUBER
    problems = [prepare(table, form, robust) for form in forms]
    first = problems[0]
    for other in problems[1:]:
        _check_same(first, other)
    costs, errors = zip(*map(_held_out, problems), strict=True)
    places = without_each_size(first)[1].argmin(axis=0)
    likelihoods = [log_likelihood(p.residuals, robust) for p in problems]
    # The scale of the residuals is one parameter more.
    aics = [2 * (len(p.theta) + 1 - value) for p, value in zip(problems, likelihoods, strict=True)]
    mean = [float(cost.mean()) for cost in costs]
    known = [value if np.isfinite(value) else np.inf for value in mean]
    best = int(np.lexsort((aics, known))[0])
    entries = []
    for place, problem in enumerate(problems):
        error = errors[place]
        there = bool(np.isfinite(mean[place]))
        apart, verdict = _verdict(problems[best].form, costs[best], costs[place],
                                  aics[place] - aics[best], places) \
            if place != best else (False, "best at sizes it has not seen")
        entries.append(Entry(
            label(problem.form), problem.form.formula, len(problem.theta),
            float(problem.objective(problem.theta[None])[0]), likelihoods[place], aics[place],
            float(np.abs(error).mean()) if there else None,
            float(error[np.argmax(np.abs(error))]) if there else None,
            mean[place] if there else None, apart, verdict,
        ))
    order = [best, *(int(i) for i in np.lexsort((aics, known)) if i != best)]
    shown = f"huber {robust.delta:g}" if robust.kind == "huber" else robust.kind
    return Comparison(len(first.y), int(places.max()) + 1, f"{shown} loss of residuals",
                      tuple(entries[i] for i in order))


def log_likelihood(residuals: Array, robust: Robust) -> float:
    """The largest log-likelihood that a density proportional to exp(-rho(r)/t) gives residuals.

    It is the normal density for least squares, Laplace's for the absolute loss, and between them,
    normal within delta and exponential outside, for Huber's (Huber 1964); t, which the objective
    leaves open, is the one of highest likelihood. It assumes independent runs whose residuals all
    have this one distribution, and counts in natural logarithms, of the outcome as predicted.
    """
    runs = len(residuals)
    total = max(float(robust.cost(residuals).sum()), runs * robust.stages()[-1].floor)
    if robust.kind == "l1":
        return -runs * (1 + float(np.log(2 * total / runs)))
    if robust.kind == "squared":
        return -runs / 2 * (1 + float(np.log(2 * np.pi * 2 * total / runs)))
    delta = robust.delta

    def negative(log_t: float) -> float:
        t = float(np.exp(log_t))
        middle = 0.5 * np.log(2 * np.pi * t) + np.log(special.erf(delta / np.sqrt(2 * t)))
        tails = np.log(2 * t / delta) - delta**2 / (2 * t)
        return total / t + runs * float(np.logaddexp(middle, tails))

    centre = float(np.log(total / runs))
    found = optimize.minimize_scalar(negative, bounds=(centre - 5, centre + 5), method="bounded",
                                     options={"xatol": 1e-10})
    return -float(found.fun)


def likelihood_ratio(
    table: RunsTable, small: Form | str, large: Form | str, *, robust: Robust | None = None,
    samples: int = NULL_SAMPLES, seed: int = 0,
) -> LikelihoodRatio:
    """Whether runs need the larger of two forms, of which it contains the smaller.

    Data sets of the smaller law are made from its predictions and the larger one's residuals, each
    kept or turned over by a coin (the wild bootstrap, Wu 1986, Mammen 1993), so that small models
    may scatter more than large ones; both forms are refitted to each. It assumes independent runs
    whose residuals are as often above as below.

    Args:
        table: the runs.
        small: the contained form, as `constrain` makes them, or its name.
        large: the form that contains it, or its name.
        robust: what residuals cost, for both; Huber's by default.
        samples: data sets.
        seed: of the coins.

    Raises:
        UserError: the forms have as many parameters, are fitted to different runs or outcomes, or
            the smaller fits better than the larger, which then cannot contain it.
    """
    robust = robust or HUBER
    a, b = prepare(table, small, robust), prepare(table, large, robust)
    _check_same(a, b)
    constraints = len(b.theta) - len(a.theta)
    f_small, f_large = (float(p.objective(p.theta[None])[0]) for p in (a, b))
    gain = f_small - f_large
    if constraints <= 0 or gain < -_SAME * f_small - _ROUNDING * len(a.y):
        raise UserError(f"{label(a.form)} ({len(a.theta)} parameters, objective {f_small:.6g}) is "
                        f"no special case of {label(b.form)} ({len(b.theta)}, {f_large:.6g}); give "
                        "the smaller form first, or compare the two with compare_forms")
    freedom = max(1, len(b.y) - len(b.theta))
    residuals = b.residuals * np.sqrt(len(b.y) / freedom)
    predicted = a.y - a.residuals
    coins = np.random.default_rng(seed).choice([-1.0, 1.0], (samples, len(a.y)))
    y_BR = predicted + residuals * coins
    gains = _lowest(a, y_BR, a.theta[None]) - _lowest(b, y_BR, _inside(a, b))
    larger = int((gains >= gain - _SAME * f_small).sum())
    return LikelihoodRatio(label(a.form), label(b.form), constraints, gain,
                           (1 + larger) / (1 + samples), samples)


def _inside(a: Problem, b: Problem) -> Array:
    """Starts of the larger form: its optimum, and the smaller law's own place in it, [K, P]."""
    near = minimise(b.form, b.x, a.y - a.residuals, np.ones((len(b.starts) + 1, len(b.y))),
                    np.stack([b.theta, *b.starts]), Robust("squared"))
    return np.stack([b.theta, near.theta[np.argmin(near.value)]])


def _lowest(problem: Problem, y_BR: Array, begin_KP: Array) -> Array:
    """Objectives of refits to other outcomes of the same runs, [B]."""
    count = len(begin_KP)
    found = minimise(problem.form, problem.x, np.tile(y_BR, (count, 1)),
                     np.ones((count * len(y_BR), len(problem.y))),
                     np.repeat(begin_KP, len(y_BR), axis=0), problem.robust)
    return np.asarray(found.value.reshape(count, len(y_BR)).min(axis=0))


def _held_out(problem: Problem) -> tuple[Array, Array]:
    """What each run costs, and its relative error, in the fit without its size: [R] each; NaN
    where the other sizes do not determine the form."""
    _, w = without_each_size(problem)
    found = problem.refit(w)
    fine = found.converged & enough(problem, w)
    own = w.argmin(axis=0)
    predicted = problem.form.predict(found.theta, problem.x)[own, np.arange(len(own))]
    error = problem.form.unlinked(predicted) / problem.runs.loss - 1
    cost = problem.robust.cost(problem.y - predicted)
    return np.where(fine[own], cost, np.nan), np.where(fine[own], error, np.nan)


def _verdict(
    best: Form, best_cost: Array, cost: Array, aic: float, places: NDArray[np.intp]
) -> tuple[bool, str]:
    """Whether a form is told from the best, and the sentence about it."""
    if not np.isfinite(cost).all():
        return False, "some size cannot be left out: no held-out error to compare"
    sums = np.bincount(places, cost - best_cost)
    mean, error = sums.mean(), sums.std(ddof=1) / np.sqrt(len(sums))
    if mean > APART_ERRORS * error and aic > APART_AIC:
        return True, (f"worse than {label(best)}: {mean / error if error else np.inf:.1f} standard "
                      f"errors at unseen sizes, AIC {aic:+.1f}")
    times = mean / error if error else 0.0
    return False, (f"cannot be told from {label(best)}: {times:.1f} standard errors at unseen "
                   f"sizes, AIC {aic:+.1f}")


def _check_same(a: Problem, b: Problem) -> None:
    if a.runs.run_id != b.runs.run_id:
        raise UserError(f"{label(a.form)} is fitted to {len(a.y)} runs and {label(b.form)} to "
                        f"{len(b.y)} of them: only forms that are fitted to the same runs can be "
                        "compared; rolling_origin asks any forms about the same predictions")
    if a.form.link != b.form.link or a.form.outcome != b.form.outcome:
        raise UserError(f"{label(a.form)} predicts {a.form.outcome} and {label(b.form)} "
                        f"{b.form.outcome}, or one of them its logarithm: their residuals cannot "
                        "be compared")
