"""Tests of a fitted law against its runs: runs far from it, patterns in its residuals, lack of fit,
and terms that the runs show no sign of.

Residuals are on the scale of the form's predictions, in most laws logarithms of the outcome.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc

from scaling.laws.fitting.likelihood_ratio import score_moments
from scaling.laws.fitting.minimise import minimise
from scaling.laws.forms.form import ZERO, Form
from scaling.laws.forms.losses import WIDTH, ResidualLoss, residual_scale
from scaling.laws.forms.powers import PowerSum, Term
from scaling.laws.forms.wrapped import unwrapped
from scaling.laws.table import RunsTable

Array = NDArray[np.float64]

FAR = 6.0
"""Robust standard deviations from the law, beyond which a run is far from it."""
SIGNIFICANT = 0.01
"""p-value of a pattern or of a lack of fit that is reported, and above which the runs show no sign
of a term."""
MIN_SPREAD = 0.1
"""Spread of log D at given N, below which effects of N and D are indistinguishable."""

_ROUNDING = 1e-9      # of an outcome; smaller differences are not evidence
_MOST_RUNS = 1_000    # evenly spaced ones, that a term is tested on
_OTHER_STARTS = 3
_HARMLESS_EXPONENT = 0.3  # of a term whose coefficient is zero
_MIN_REPLICATES = 3   # degrees of freedom of the scatter between runs of one point


@dataclass(frozen=True)
class Pattern:
    """A trend or an arch of the residuals along one variable.

    Attributes:
        variable: n, d, c or another variable.
        lowest, middle, highest: mean residual in the lowest, middle and highest third of the runs
            along the variable.
        p_value: of the F test of a line and a parabola in the variable's logarithm.
    """

    variable: str
    lowest: float
    middle: float
    highest: float
    p_value: float


def far_runs(r_R: Array, n_params: int) -> tuple[NDArray[np.intp], Array]:
    """The runs that are `FAR` from a law, the farthest first, and their residuals in robust
    standard deviations."""
    scale = max(residual_scale(r_R, n_params), _ROUNDING)
    distance = np.abs(r_R) / scale
    far = np.argsort(-distance, kind="stable")[:int((distance > FAR).sum())]
    return far, distance[far]


def patterns(r_R: Array, n_params: int, variables: Mapping[str, Array]) -> list[Pattern]:
    """Significant patterns of residuals along each variable, [R] each.

    By the F test of a regression on the variable's logarithm and its square, which assumes
    independent residuals of equal variance. Residuals are clipped, so that no run alone makes one.
    """
    limit = WIDTH * residual_scale(r_R, n_params)
    if not limit > _ROUNDING:
        return []
    r = np.clip(r_R, -limit, limit)
    r = r - r.mean()
    found = []
    for variable, values in variables.items():
        levels = len(np.unique(values))
        dof = len(r) - n_params - 2
        if np.isnan(values).any() or (values <= 0).any() or levels < 3 or dof < 3:
            continue
        x = np.log(values)
        x = (x - x.mean()) / x.std()
        basis, _ = np.linalg.qr(np.stack([np.ones_like(x), x, x**2], axis=-1))
        explained = float(((basis[:, 1:].T @ r) ** 2).sum())
        rest = float(r @ r) - explained
        p_value = float(fdtrc(2, dof, explained / 2 / (rest / dof))) if rest > 0 else 0.0
        if p_value < SIGNIFICANT:
            thirds = np.array_split(np.argsort(values, kind="stable"), 3)
            low, middle, high = (float(r_R[rows].mean()) for rows in thirds)
            found.append(Pattern(variable, low, middle, high, p_value))
    return found


def lack_of_fit(r_R: Array, n_params: int, x_RV: Array) -> tuple[float, float, float] | None:
    """The F test of a law's misses against the scatter between runs of one point, such as seeds.

    Args:
        r_R: residuals, [R].
        n_params: number of fitted parameters.
        x_RV: variables of the runs; runs with equal rows are replicates.

    Returns:
        The standard deviations of the misses of the means and of the scatter, and the p-value;
        None without enough replicates.
    """
    _, group = np.unique(x_RV, axis=0, return_inverse=True)
    group = group.ravel()
    count = np.bincount(group)
    mean = np.bincount(group, r_R) / count
    scatter_dof, miss_dof = len(r_R) - len(count), len(count) - n_params
    if scatter_dof < _MIN_REPLICATES or miss_dof < 1:
        return None
    scatter = float(((r_R - mean[group]) ** 2).sum()) / scatter_dof
    miss = float((count * mean**2).sum()) / miss_dof
    if not max(scatter, miss) > _ROUNDING**2:
        return None
    p_value = float(fdtrc(miss_dof, scatter_dof, miss / scatter)) if scatter > 0 else 0.0
    return float(np.sqrt(miss)), float(np.sqrt(scatter)), p_value


def noise_factors(
    fitted: RunsTable, form: Form, robust: ResidualLoss, r_R: Array, n_params: int
) -> Array:
    """What residuals are multiplied by under the adaptive loss, [R]: the ratio of the least noise
    of any run to its own, which is that of all residuals, or its standard error if that is larger.

    Args:
        fitted: the fitted runs.
        form: the form.
        robust: the loss.
        r_R: residuals without factors, [R].
        n_params: number of fitted parameters.
    """
    if robust.kind != "adaptive" or not len(fitted.loss_se):
        return np.ones(fitted.loss.size)
    se = np.nan_to_num(fitted.loss_se / fitted.loss if form.link == "log" else fitted.loss_se)
    sd = np.maximum(se, residual_scale(r_R, n_params))
    return np.asarray(sd.min() / sd if sd.min() > 0 else np.ones_like(sd))


def dependence(form: Form, x_RV: Array) -> tuple[float, float]:
    """The slope of log D along log N, and the spread of log D about it; infinite for a law that is
    not of both."""
    if not {"n", "d"} <= {*form.variables}:
        return np.nan, np.inf
    n, d = (x_RV[:, form.variables.index(v)] for v in ("n", "d"))
    slope, level = np.polyfit(n, d, 1)
    return float(slope), float(np.std(d - slope * n - level))


def terms_with_parameters(form: Form) -> list[tuple[Term, tuple[str, ...]]]:
    """The terms of a sum that may be absent, each with its fitted parameters that no other term
    has; empty for other forms."""
    base = unwrapped(form)
    if not isinstance(base, PowerSum) or len(base.terms) < 2:
        return []
    names = [{term.coefficient, *(exponent for _, exponent in term.powers)} for term in base.terms]
    return [
        (term, tuple(p for p in form.fitted_parameters if p in names[i]
                     and not any(p in other for j, other in enumerate(names) if j != i)))
        for i, term in enumerate(base.terms)
        if term.powers and term.coefficient in form.fitted_parameters]


def without_term(
    form: Form, term: Term, own: Sequence[str], x_RV: Array, y_R: Array, theta_P: Array,
    starts_SP: Array, robust: ResidualLoss,
) -> tuple[float, Array]:
    """Test whether a term of a sum is absent: by the rise of the objective without it, in units of
    the scatter (Schrader and Hettmansperger 1980), as an F statistic.

    Args:
        form: the fitted form.
        term: the term.
        own: names of the fitted parameters that only this term has.
        x_RV: variables in the form's coordinates, centred as in the fit.
        y_R: outcomes on the scale of the form's predictions.
        theta_P: the optimum.
        starts_SP: starting points of the fit, some of which are tried without the term.
        robust: loss of the residuals.

    Returns:
        The p-value, one if the term explains nothing but rounding; and theta without the term.
    """
    held = tuple(map(form.fitted_parameters.index, own))
    every = -(-len(y_R) // _MOST_RUNS)
    x_RV, y_R = x_RV[::every], y_R[::every]
    begin = np.concatenate([theta_P[None], starts_SP[::-(-len(starts_SP) // _OTHER_STARTS)]])
    begin[:, held] = _HARMLESS_EXPONENT
    begin[:, form.fitted_parameters.index(term.coefficient)] = ZERO
    without = minimise(form, x_RV, y_R, np.ones((len(begin), len(y_R))), begin, robust, held=held)
    r_R = y_R - form.predict(theta_P[None], x_RV)[0]
    dof = max(1, len(y_R) - len(theta_P))
    meat, curvature = score_moments(r_R, len(theta_P), robust)
    scatter = max(meat * len(y_R) / dof / curvature, _ROUNDING**2)
    best = int(np.argmin(without.value))
    rise = 2 * float(without.value[best] - robust.cost(r_R).sum())
    p_value = float(fdtrc(len(own), dof, max(rise, 0.0) / len(own) / scatter))
    return p_value, without.theta[best]


def drop_rising_terms(
    form: Form, x_RV: Array, y_R: Array, theta_P: Array, starts_SP: Array, robust: ResidualLoss
) -> tuple[Array, tuple[int, ...]]:
    """The optimum of a law of the loss without the terms that rise with their variable and that the
    runs show no sign of: such a term follows noise, and exceeds the loss beyond the runs.

    Returns:
        theta, [P], and the indices of the parameters of the terms that were dropped.
    """
    dropped: tuple[int, ...] = ()
    if (not form.outcome.startswith("loss") or len(y_R) <= len(theta_P)
            or dependence(form, x_RV)[1] < MIN_SPREAD):
        return theta_P, dropped
    for term, own in terms_with_parameters(form):
        held = tuple(map(form.fitted_parameters.index, own))
        rises = any(theta_P[form.fitted_parameters.index(exponent)] <= 0
                    for _, exponent in term.powers
                    if exponent in own and exponent in form.exponents)
        if not rises:
            continue
        p_value, theta = without_term(form, term, own, x_RV, y_R, theta_P, starts_SP, robust)
        if p_value > SIGNIFICANT:
            dropped += held
            ones = np.ones((1, len(y_R)))
            theta_P = minimise(form, x_RV, y_R, ones, theta[None], robust, held=dropped).theta[0]
    return theta_P, dropped
