"""Expected uncertainty of a fit to a set of runs, trained or planned, by linear theory.

Near its optimum a fit depends linearly on the noise of its runs, so the covariance of the
estimates follows from the form's gradient J at every run and from the noise there: for least
squares and equal noise it is the inverse of the Fisher information, sigma^2 (J^T J)^-1. A robust
objective is an M-estimator and has the sandwich covariance H^-1 M H^-1, with
H = sum E[rho''] J J^T and M = sum E[rho'^2] J J^T (Huber 1981, section 7.6). The expectations are
over normal residuals of the linked outcome; in most laws that is the log-loss, so the noise of the
loss is log-normal. Huber's loss with a delta far below the noise is nearly the absolute loss,
whose intervals are sqrt(pi / 2) = 1.25 times as wide as those of least squares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from scaling.errors import UserError, option
from scaling.laws.allocation.budgets import AllocationBudget, divides_compute
from scaling.laws.allocation.optimise import solve
from scaling.laws.fitting.likelihood_ratio import normal_density
from scaling.laws.forms.catalogue import FORMS
from scaling.laws.forms.form import Form
from scaling.laws.forms.losses import ResidualLoss, residual_scale
from scaling.laws.forms.variables import VARIABLES, check_amount
from scaling.laws.law import LEVEL, Interval, Law
from scaling.laws.table import RunsTable
from scaling.laws.values import variables_of

Array = NDArray[np.float64]

INTERVAL_HALF_WIDTH = float(ndtri((1 + LEVEL) / 2))
"""Half-width of a 90% interval of a normal distribution, in standard deviations."""

_BUDGET_TARGETS = {"n-star": "N*", "loss": "loss", "a": "a"}
_STEP = 1e-4       # of theta, in central differences of a target
_PRIOR_SD = 100.0  # of theta: a nearly flat prior that keeps the information matrix invertible
_MAX_NOISE = 1.0   # of the log-loss: runs of the same size that differ by a factor of e


@dataclass(frozen=True)
class Noise:
    """Noise of runs around a law: the standard deviation of the linked outcome, which is the
    log-loss in most laws.

    It is `sd` at `at` FLOP and increases as C^-growth towards smaller runs.
    """

    sd: float
    growth: float = 0.0
    at: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("noise", self.sd), ("growth of the noise", self.growth)):
            if not 0 <= value <= _MAX_NOISE:
                raise UserError(f"{name} {value:g}: a number from 0 to {_MAX_NOISE:g} is "
                                "expected, such as 0.01")

    def sd_at(self, c: Array) -> Array:
        """Standard deviations at runs of C FLOP, [R].

        Raises:
            UserError: the noise grows above the largest plausible value.
        """
        sd = np.asarray(self.sd * (self.at / np.asarray(c, dtype=float)) ** self.growth)
        if sd.size and not sd.max() <= _MAX_NOISE:
            raise UserError(f"noise of {self.sd:g} that grows as C^-{self.growth:g}: would be "
                            f"{sd.max():.3g} at the smallest run, where at most {_MAX_NOISE:g} is "
                            "expected; lower the noise or its growth")
        return sd


@dataclass(frozen=True)
class Target:
    """A quantity of interest, as a function of a law's printed parameters.

    `evaluate` maps parameters [B, P] to values [B]. If `log` is true, errors are relative and the
    interval is symmetric in the logarithm.
    """

    name: str
    evaluate: Callable[[Array], Array]
    log: bool

    def transform(self, value: Array | float) -> Array:
        """Values on the scale of the errors: their logarithms if `log` is true."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.log(value) if self.log else value)

    def interval(self, value: float, sd: float) -> Interval:
        """The 90% interval around a value, from a standard deviation on the scale of errors."""
        if self.log:
            with np.errstate(over="ignore"):
                factor = float(np.exp(INTERVAL_HALF_WIDTH * sd))
            return value / factor, value * factor
        return value - INTERVAL_HALF_WIDTH * sd, value + INTERVAL_HALF_WIDTH * sd


def target_named(
    form: Form, name: str, at: float | Mapping[str, float] | None = None
) -> Target:
    """A target by its name: n-star or loss at a budget, loss of a run, a, or a parameter.

    Args:
        form: the law's form.
        name: `n-star` for N* at C = `at`, `loss` for the outcome there or at the variables `at`,
            `a` for d log N* / d log C, or a parameter's name.
        at: training FLOPs; needed by n-star and loss, and by a if it depends on the budget. For the
            loss also the values of the form's variables, such as n and d.

    Raises:
        UserError: there is no such target, or the form has no optimum.
    """
    if isinstance(at, Mapping):
        return _loss_of_run(form, name, at)
    if name in form.parameters:
        index = form.parameters.index(name)
        linear = (*form.exponents, *form.signed)
        return Target(name, lambda params_BP: params_BP[:, index], name not in linear)
    if name not in _BUDGET_TARGETS:
        raise UserError(f"target {name}: expected is one of {', '.join(_BUDGET_TARGETS)}, or a "
                        f"parameter of {form.name}: {', '.join(form.parameters)}")
    if not divides_compute(form) or not {*form.variables} <= {"n", "d", "c", "u"}:
        names = [other.name for other in FORMS.values()
                if other.allocation_exponent(np.ones((1, len(other.parameters)))) is not None]
        raise UserError(f"target {name}: the law {form.name} alone does not determine how to "
                        f"divide compute between N and D; laws that do are {', '.join(names)}")
    if name == "a" and form.allocation_exponent(np.ones((1, len(form.parameters)))) is not None:
        return Target(name, lambda params_BP: np.asarray(form.allocation_exponent(params_BP)),
                      False)
    if at is None:
        raise UserError(f"target {name}: needs the budget at which it is evaluated, a positive "
                        f"number of FLOPs such as {option('at=1e21', '--at 1e21')}")
    check_amount(f"target {name}: at", at, "c", option("at=1e21", "--at 1e21"))
    budget, symbol = AllocationBudget(c=at), _BUDGET_TARGETS[name]

    def evaluate(params_BP: Array) -> Array:
        solution = solve(form, params_BP, budget)
        return np.asarray({"n-star": solution.n, "loss": solution.loss, "a": solution.a}[name])

    return Target(symbol, evaluate, name == "n-star" or (name == "loss" and form.link == "log"))


def _loss_of_run(form: Form, name: str, at: Mapping[str, float]) -> Target:
    """The outcome of one run, at these values of the form's variables."""
    if name != "loss":
        raise UserError(f"target {name}: is evaluated at a budget, a positive number of FLOPs such "
                        f"as {option('at=1e21', '--at 1e21')}; only the target loss at a run")
    missing = [VARIABLES[v].symbol for v in form.variables
               if v not in at and not (v == "c" and {"n", "d"} <= {*at})]
    if missing:
        example = option("at={'n': 1e9, 'd': 2e10}", "--at-n 1e9 --at-d 2e10")
        raise UserError(f"target loss: the law {form.name} needs {' and '.join(missing)} of the "
                        f"run too, as in {example}")
    for v, example in (("n", "1e9"), ("d", "2e10"), ("c", "1e21")):
        if v in at:
            check_amount(f"target loss: {VARIABLES[v].symbol}", at[v], v, example)
    values = variables_of(form, {v: np.array([value], dtype=float) for v, value in at.items()})
    return Target("loss", lambda params_BP: form.loss(params_BP, values)[:, 0], form.link == "log")


def residual_moments(robust: ResidualLoss, sd_R: Array) -> tuple[Array, Array]:
    """Moments of the objective over normal residuals of standard deviations `sd_R`: the expected
    curvature E[rho''] and the variance of the score E[rho'^2], [R] each."""
    if robust.kind == "squared":
        return np.ones_like(sd_R), sd_R**2
    if robust.kind == "l1":
        return 2 * normal_density(0.0) / sd_R, np.ones_like(sd_R)
    k = robust.delta / sd_R
    inside = ndtr(k) - ndtr(-k)
    return inside, (sd_R**2 * (inside - 2 * k * normal_density(k))
                    + 2 * robust.delta**2 * ndtr(-k))


@dataclass(frozen=True)
class Information:
    """Information of runs about theta, in coordinates u = basis^-1 (theta - theta_0) in which H of
    these runs, with a nearly flat prior, is the unit matrix.

    `basis`, and `h` and `m` of the sandwich covariance h^-1 m h^-1, are [P, P].
    """

    basis: Array
    h: Array
    m: Array

    def covariance(self) -> Array:
        """Covariance of theta, [P, P]."""
        half = self.basis @ np.linalg.inv(self.h)
        return np.asarray(half @ self.m @ half.T)

    def sd(self, gradient_P: Array) -> float:
        """Standard deviation of a target with this gradient by theta."""
        w = np.linalg.solve(self.h, self.basis.T @ gradient_P)
        return float(np.sqrt(w @ self.m @ w))


def fisher_information(j_RP: Array, curvature_R: Array, score_variance_R: Array) -> Information:
    """Information of runs with gradients J [R, P] and the two moments of their residuals.

    Computed by QR, because J^T J of a law in uncentred coordinates is badly conditioned (3e11 for
    Chinchilla's).
    """
    scale = float(np.median(score_variance_R / curvature_R))
    p = j_RP.shape[1]
    prior = np.full(p, scale / _PRIOR_SD**2)
    rows = np.concatenate([np.sqrt(curvature_R)[:, None] * j_RP, np.diag(np.sqrt(prior))])
    q, r = np.linalg.qr(rows)
    ratio = np.concatenate([score_variance_R / curvature_R, np.full(p, scale)])
    return Information(np.asarray(np.linalg.inv(r)), np.eye(p), q.T @ (ratio[:, None] * q))


def gradient_and_moments(
    form: Form, theta_P: Array, values: Mapping[str, Array], noise: Noise, robust: ResidualLoss
) -> tuple[Array, Array, Array]:
    """J [R, P] and the residual moments [R] and [R] of runs at these values of the form's
    variables and of `c`; theta is in uncentred coordinates."""
    _, j_BRP = form.gradient(theta_P[None], form.coordinates(values))
    sd = noise.sd_at(values["c"])
    robust = robust.adapted(float(np.median(sd)))
    if not (sd > 0).all():
        raise UserError("noise 0: runs without noise determine a law exactly; give positive noise")
    return (j_BRP[0], *residual_moments(robust, sd))


def target_gradient(form: Form, theta_P: Array, target: Target) -> Array:
    """Gradient of a target by theta, [P], by central differences; NaN where it does not exist."""
    origin = np.zeros(len(form.variables))
    steps = _STEP * np.eye(len(theta_P))
    above, below = (
        target.transform(target.evaluate(form.to_params(theta_P + sign * steps, origin)))
        for sign in (1, -1))
    return np.asarray((above - below) / (2 * _STEP))


def expected_sd(
    law: Law, values: Mapping[str, Array], noise: Noise, target: Target,
    robust: ResidualLoss | None = None,
) -> float:
    """Expected standard deviation of a target, if the law is true and fitted to runs at these
    values.

    On the target's own scale: relative if `target.log`. By the delta method, sqrt(g^T V g) with g
    the target's gradient and V the covariance of theta.

    Args:
        law: the true law.
        values: arrays [R] of the form's variables, and of `c`.
        noise: noise of the runs.
        target: the quantity of interest.
        robust: the objective of the fit; the law's own by default.
    """
    theta = law.form.from_params(law.point)[0]
    runs = gradient_and_moments(law.form, theta, values, noise, robust or law.residual_loss)
    return fisher_information(*runs).sd(target_gradient(law.form, theta, target))


def estimate_noise(law: Law, table: RunsTable) -> float:
    """Robust standard deviation of a table's runs around a law, on the scale of the linked outcome
    (the log-loss in most laws)."""
    runs = table.take(law.form.fitted_rows(table))
    r = law.form.apply_link(runs.loss) - law.form.apply_link(law.loss(runs.values))
    return residual_scale(r, len(law.params))
