"""What a set of runs will tell about a law, before or after they are paid for.

Near its optimum a fit answers linearly to the noise of its runs, so the covariance of what it
finds follows from the form's gradient J at every run and from the noise there: for least squares
and equal noise it is the inverse of the Fisher information, sigma^2 (J^T J)^-1. A robust objective
is an M-estimator and has the sandwich H^-1 M H^-1, with H = sum E[rho''] J J^T and
M = sum E[rho'^2] J J^T (Huber 1981, section 7.6). The expectations are those of normal residuals
of the outcome as the form predicts it; of log-loss, in most laws, which is log-normal noise of the
loss. Huber's loss with a delta far below the noise is nearly the absolute one, whose intervals are
sqrt(pi / 2) = 1.25 times as wide as those of least squares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from scaling.errors import UserError
from scaling.laws.fitting.robust import Robust
from scaling.laws.forms.catalogue import FORMS
from scaling.laws.forms.form import Form
from scaling.laws.law import LEVEL, Interval, Law
from scaling.laws.planning.budgets import Budget, divides
from scaling.laws.planning.optimise import solve
from scaling.laws.runs.table import RunsTable

Array = NDArray[np.float64]

WIDE = float(norm.ppf((1 + LEVEL) / 2))
"""Half of a 90% interval, in standard deviations."""

_AT_A_BUDGET = {"n-star": "N*", "loss": "loss", "a": "a"}
_STEP = 1e-4       # of theta, in central differences of a target
_VAGUE = 100.0     # sd of theta before any run: no knowledge, and yet an invertible matrix
_CLIP = 2.0        # standard deviations beyond which a residual says no more of the noise


@dataclass(frozen=True)
class Noise:
    """Scatter of runs about a law: the standard deviation of the linked outcome, of log-loss in
    most laws.

    It is `sd` at `at` FLOP, and grows as C^-growth towards smaller runs.
    """

    sd: float
    growth: float = 0.0
    at: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("noise", self.sd), ("growth of the noise", self.growth)):
            if not 0 <= value < np.inf:
                raise UserError(f"{name} {value:g}: a number from zero on is expected, such as "
                                "0.01")

    def of(self, c: Array) -> Array:
        """At runs of C FLOP: one for each."""
        return np.asarray(self.sd * (self.at / np.asarray(c, dtype=float)) ** self.growth)


@dataclass(frozen=True)
class Target:
    """A quantity that a law is fitted for, as a function of its printed parameters.

    `of` turns [B, P] into [B]. Where `log` is true its error is taken as relative, and its
    interval is symmetric in the logarithm.
    """

    name: str
    of: Callable[[Array], Array]
    log: bool

    def linear(self, value: Array) -> Array:
        """Values on the scale on which errors are taken."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.log(value) if self.log else value)

    def interval(self, value: float, sd: float) -> Interval:
        """The 90% interval about a value, from a standard deviation on that scale."""
        if self.log:
            with np.errstate(over="ignore"):
                factor = float(np.exp(WIDE * sd))
            return value / factor, value * factor
        return value - WIDE * sd, value + WIDE * sd


def target(form: Form, name: str, at: float | None = None) -> Target:
    """What is to be known: n-star or loss at a budget, a, or a parameter of the form.

    Args:
        form: the law's form.
        name: `n-star` for N* at C = `at`, `loss` for the outcome there, `a` for
            d log N* / d log C, or a parameter's name.
        at: training FLOPs; for n-star and loss, and for a where it differs from budget to budget.

    Raises:
        UserError: there is no such target, or the form does not know of an optimum.
    """
    if name in form.parameters:
        place = form.parameters.index(name)
        linear = (*form.exponents, *form.signed)
        return Target(name, lambda params_BP: params_BP[:, place], name not in linear)
    if name not in _AT_A_BUDGET:
        raise UserError(f"target {name}: expected is {', '.join(_AT_A_BUDGET)}, or a parameter of "
                        f"{form.name}: {', '.join(form.parameters)}")
    if not divides(form) or not {*form.variables} <= {"n", "d", "c", "u"}:
        able = [other.name for other in FORMS.values()
                if other.allocation_exponent(np.ones((1, len(other.parameters)))) is not None]
        raise UserError(f"target {name}: the law {form.name} does not say by itself how to divide "
                        f"compute; laws that do are {', '.join(able)}")
    if name == "a" and form.allocation_exponent(np.ones((1, len(form.parameters)))) is not None:
        return Target(name, lambda params_BP: np.asarray(form.allocation_exponent(params_BP)),
                      False)
    if at is None or not 0 < at < np.inf:
        raise UserError(f"target {name}: needs the budget that it is about, a positive number of "
                        "FLOPs such as --at 1e21")
    budget, symbol = Budget(c=at), _AT_A_BUDGET[name]

    def of(params_BP: Array) -> Array:
        found = solve(form, params_BP, budget)
        return np.asarray({"n-star": found.n, "loss": found.loss, "a": found.a}[name])

    return Target(symbol, of, name == "n-star" or (name == "loss" and form.link == "log"))


def moments(robust: Robust, sd_R: Array) -> tuple[Array, Array]:
    """E[rho''] and E[rho'^2] of normal residuals with these standard deviations."""
    if robust.kind == "squared":
        return np.ones_like(sd_R), sd_R**2
    if robust.kind == "l1":
        return 2 * norm.pdf(0) / sd_R, np.ones_like(sd_R)
    k = robust.delta / sd_R
    inside = norm.cdf(k) - norm.cdf(-k)
    return inside, (sd_R**2 * (inside - 2 * k * norm.pdf(k))
                    + 2 * robust.delta**2 * norm.sf(k))


@dataclass(frozen=True)
class Information:
    """What runs say about theta, in coordinates u = basis^-1 (theta - theta_0) in which H of
    these runs, with a vague prior, is the unit matrix.

    basis [P, P]; h and m [P, P] are the two layers of the sandwich.
    """

    basis: Array
    h: Array
    m: Array

    def covariance(self) -> Array:
        """Of theta: [P, P]."""
        half = self.basis @ np.linalg.inv(self.h)
        return np.asarray(half @ self.m @ half.T)

    def sd(self, slope_P: Array) -> float:
        """Standard deviation of a target whose gradient by theta is given."""
        w = np.linalg.solve(self.h, self.basis.T @ slope_P)
        return float(np.sqrt(w @ self.m @ w))


def information(j_RP: Array, bend_R: Array, drive_R: Array) -> Information:
    """Of runs with gradients J and the two moments of their residuals.

    Taken by QR, since J^T J of a law that is written about N = D = 1 has a condition number that
    leaves few digits (3e11 for Chinchilla's).
    """
    scale = float(np.median(drive_R / bend_R))
    p = j_RP.shape[1]
    weak = np.full(p, scale / _VAGUE**2)
    rows = np.concatenate([np.sqrt(bend_R)[:, None] * j_RP, np.diag(np.sqrt(weak))])
    q, r = np.linalg.qr(rows)
    ratio = np.concatenate([drive_R / bend_R, np.full(p, scale)])
    return Information(np.asarray(np.linalg.inv(r)), np.eye(p), q.T @ (ratio[:, None] * q))


def of_runs(
    form: Form, theta_P: Array, values: Mapping[str, Array], noise: Noise, robust: Robust
) -> tuple[Array, Array, Array]:
    """J [R, P] and the moments [R] and [R] of runs at these values of the form's variables and of
    `c`; theta is for x that is not centred."""
    _, j_BRP = form.gradient(theta_P[None], form.coordinates(values))
    sd = noise.of(values["c"])
    if not (sd > 0).all():
        raise UserError("noise 0: runs without noise tell a law exactly; give a positive one")
    return (j_BRP[0], *moments(robust, sd))


def slope(form: Form, theta_P: Array, aim: Target) -> Array:
    """Gradient of a target by theta, [P], by central differences; NaN where it does not exist."""
    origin = np.zeros(len(form.variables))
    steps = _STEP * np.eye(len(theta_P))
    ahead, behind = (aim.linear(aim.of(form.report(theta_P + sign * steps, origin)))
                     for sign in (1, -1))
    return np.asarray((ahead - behind) / (2 * _STEP))


def expected_sd(
    law: Law, values: Mapping[str, Array], noise: Noise, aim: Target, robust: Robust | None = None
) -> float:
    """Standard deviation of a target, were the law true and fitted to runs at these values.

    On the target's own scale: relative where `aim.log`. The delta method: sqrt(g^T V g) with g
    the target's gradient.

    Args:
        law: the truth.
        values: arrays of the form's variables, and of `c`.
        noise: of the runs.
        aim: the target.
        robust: the objective of the fit; the law's own by default.
    """
    theta = law.form.internal(law.point)[0]
    runs = of_runs(law.form, theta, values, noise, robust or robust_of(law))
    return information(*runs).sd(slope(law.form, theta, aim))


def robust_of(law: Law) -> Robust:
    """The objective that a law was fitted with; its form's own where it does not say."""
    kind = law.convention.get("objective", law.form.robust.kind)
    return Robust(kind, law.convention.get("delta", law.form.robust.delta))


def measured_noise(law: Law, table: RunsTable) -> float:
    """Standard deviation of a table's runs about a law, its log-loss in most, of which outliers
    say little: that of the residuals clipped at two standard deviations of a normal distribution
    (Huber 1964, proposal 2), widened for the P parameters that were fitted."""
    runs = table.take(law.form.rows(table))
    r = law.form.linked(runs.loss) - law.form.linked(law.loss(runs.values))
    spare = max(1, len(r) - len(law.params))
    kept = float(1 - 2 * norm.sf(_CLIP) - 2 * _CLIP * norm.pdf(_CLIP)
                 + 2 * _CLIP**2 * norm.sf(_CLIP))
    sd = float(np.sqrt((r**2).sum() / spare))
    for _ in range(50):
        sd = float(np.sqrt(np.minimum(r**2, (_CLIP * sd) ** 2).sum() / (spare * kept)))
    return sd
