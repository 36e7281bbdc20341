"""Intervals from resamples, and standard errors by the delta method."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from scaling.laws.fitting.likelihood_ratio import likelihood_scale
from scaling.laws.forms.form import Form
from scaling.laws.forms.losses import ResidualLoss

Array = NDArray[np.float64]

_CLIP = 10.0
_WIDTHS_ALIKE = 1.5  # ratio of the widths of intervals by two methods
_STEP = 1e-5  # of theta, in finite differences of the parameters


def bca_intervals(
    samples_BQ: Array, point_Q: Array, left_out_JQ: Array | None, level: float
) -> tuple[Array, Array]:
    """Bias-corrected and accelerated (BCa) intervals of quantities (Efron 1987).

    The percentiles are corrected for the bias of the resamples relative to the estimate, and for
    the change of its standard error with its value, which the jackknife estimates. Without a
    jackknife, or if all resamples lie on one side of the estimate, as at the bound of a parameter,
    plain percentiles are used.

    Args:
        samples_BQ: the quantities of every resample, [B, Q]; values that are not finite are left
            out.
        point_Q: the quantities of the fit, [Q].
        left_out_JQ: the quantities with a part of the runs left out, [J, Q]; None without a
            jackknife.
        level: coverage, such as 0.9.

    Returns:
        Lower and upper ends, [Q] each; NaN if no resample has a finite value.
    """
    ends = np.array([(1 - level) / 2, (1 + level) / 2])
    intervals = np.full((2, samples_BQ.shape[1]), np.nan)
    for q, point in enumerate(point_Q):
        samples = samples_BQ[np.isfinite(samples_BQ[:, q]), q]
        if not len(samples):
            continue
        probabilities = ends
        if left_out_JQ is not None:
            probabilities = _adjusted(ends, samples, point, left_out_JQ[:, q])
        intervals[:, q] = np.quantile(samples, probabilities)
    return intervals[0], intervals[1]


def _adjusted(ends: Array, samples: Array, point: float, left_out: Array) -> Array:
    """The probabilities of the corrected percentiles."""
    below = (np.mean(samples < point) + np.mean(samples <= point)) / 2
    influence = left_out.mean() - left_out
    spread = (influence**2).sum() ** 1.5
    if not (0 < below < 1 and np.isfinite(spread) and spread > 0):
        return ends
    bias, acceleration = ndtri(below), (influence**3).sum() / (6 * spread)
    z = bias + ndtri(ends)
    denominator = 1 - acceleration * z
    return np.asarray(ndtr(bias + z / denominator)) if (denominator > 0).all() else ends


def widened(
    ends: tuple[Array, Array], point_Q: Array, samples_BQ: Array, factor: float
) -> tuple[Array, Array]:
    """Intervals whose ends are farther from the estimate by a factor: of their logarithms for a
    quantity that is positive in all samples, otherwise of themselves, but not across zero for one
    that is never negative.

    Args:
        ends: lower and upper ends, [Q] each.
        point_Q: the quantities of the fit, [Q].
        samples_BQ: the quantities of the resamples, [B, Q].
        factor: at least one.
    """
    finite = np.where(np.isfinite(samples_BQ), samples_BQ, np.inf)
    least = np.minimum(finite.min(axis=0), point_Q)
    positive = least > 0
    low, high = (np.where(positive, point_Q * (end / point_Q) ** factor,
                          point_Q + factor * (end - point_Q)) for end in ends)
    return np.where(least >= 0, np.maximum(low, 0.0), low), np.asarray(high)


def widths_differ(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether the widths of two intervals of one quantity, by two methods, differ by more than a
    factor of 1.5; false where one has no width."""
    widths = one[1] - one[0], other[1] - other[0]
    return min(widths) > 0 and max(widths) > _WIDTHS_ALIKE * min(widths)


def robust_deviation(samples_BQ: Array) -> Array:
    """Standard deviations of quantities over resamples, [Q].

    A resample in which a quantity runs away contributes no more than one at `_CLIP` standard
    deviations from the median.
    """
    low, middle, high = np.quantile(samples_BQ, [ndtr(-1), 0.5, ndtr(1)], axis=0)
    reach = _CLIP * (high - low) / 2
    # Where most resamples are equal, as at a bound, there is no scale to clip by.
    clipped = np.where(reach > 0, np.clip(samples_BQ, middle - reach, middle + reach), samples_BQ)
    return np.asarray(clipped.std(axis=0, ddof=1))


def delta_method_errors(
    form: Form, x_RV: Array, y_R: Array, theta_P: Array, centre_V: Array, robust: ResidualLoss
) -> dict[str, float | None]:
    """Standard errors of the printed parameters and of the allocation exponents a and b by the
    delta method, with the sandwich variance of `scaling.laws.fitting.likelihood_ratio`, which does
    not assume equal variances of all runs. None for a fixed parameter, and if there are no more
    runs than parameters.

    Args:
        form: the fitted form.
        x_RV: variables in the form's coordinates minus the centre, [R, V].
        y_R: outcomes on the scale of the form's predictions, [R].
        theta_P: the optimum, [P].
        centre_V: the centre of the variables, [V].
        robust: loss of the residuals.
    """
    def quantities(theta_BP: Array) -> Array:
        params = form.to_params(theta_BP, centre_V)
        a = form.allocation_exponent(params)
        return params if a is None else np.column_stack([params, a, 1 - a])

    predicted, j_BRP = form.gradient(theta_P[None], x_RV)
    steps = _STEP * np.eye(len(theta_P))
    with np.errstate(all="ignore"):
        by_theta = (quantities(theta_P + steps) - quantities(theta_P - steps)) / (2 * _STEP)
        errors = [likelihood_scale(y_R - predicted[0], j_BRP[0], slope_P, robust).se
                  for slope_P in by_theta.T]
    names = [*form.parameters, "a", "b"][:len(errors)]
    return {name: error if np.isfinite(error) else None
            for name, error in zip(names, errors, strict=True)}
