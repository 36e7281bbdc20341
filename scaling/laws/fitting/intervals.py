"""How far a fit may be off: intervals from resamples, and standard errors from derivatives."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from scaling.laws.fitting.robust import Robust
from scaling.laws.fitting.scale import scale_of
from scaling.laws.forms.form import Form

Array = NDArray[np.float64]

_STEP = 1e-5  # of theta, in differences of the parameters


def adjusted(
    samples_BQ: Array, point_Q: Array, left_out_JQ: Array | None, level: float
) -> tuple[Array, Array]:
    """Bias-corrected and accelerated (BCa) intervals of quantities (Efron 1987).

    The percentiles are moved by how far the resamples lie to one side of the estimate, and by how
    its standard error changes with its value, which the jackknife tells. Without a jackknife, or
    where every resample lies on one side, as at the edge of what a parameter may be, they stay
    plain percentiles.

    Args:
        samples_BQ: the quantities of every resample; what is no number is left out.
        point_Q: those of the fit.
        left_out_JQ: those with a part of the runs left out.
        level: coverage, such as 0.9.

    Returns:
        Low and high ends, [Q] each; NaN where no resample gives a number.
    """
    ends = np.array([(1 - level) / 2, (1 + level) / 2])
    intervals = np.full((2, samples_BQ.shape[1]), np.nan)
    for q, point in enumerate(point_Q):
        samples = samples_BQ[np.isfinite(samples_BQ[:, q]), q]
        if not len(samples):
            continue
        at = ends
        if left_out_JQ is not None:
            at = _moved(ends, samples, point, left_out_JQ[:, q])
        intervals[:, q] = np.quantile(samples, at)
    return intervals[0], intervals[1]


def _moved(ends: Array, samples: Array, point: float, left_out: Array) -> Array:
    below = (np.mean(samples < point) + np.mean(samples <= point)) / 2
    pull = left_out.mean() - left_out
    spread = (pull**2).sum() ** 1.5
    if not (0 < below < 1 and np.isfinite(spread) and spread > 0):
        return ends
    bias, acceleration = ndtri(below), (pull**3).sum() / (6 * spread)
    z = bias + ndtri(ends)
    room = 1 - acceleration * z
    return np.asarray(ndtr(bias + z / room)) if (room > 0).all() else ends


def delta_errors(
    form: Form, x_RV: Array, y_R: Array, theta_P: Array, centre_V: Array, robust: Robust
) -> dict[str, float | None]:
    """Standard errors of the printed parameters, and of the exponents of allocation a and b, by
    the delta method: the sandwich variance of `scaling.laws.fitting.scale`, which does not take
    the errors to be alike in all runs. None for a parameter that is held, and where the residuals
    leave nothing to tell it by."""
    def quantities(theta_BP: Array) -> Array:
        params = form.report(theta_BP, centre_V)
        a = form.allocation_exponent(params)
        return params if a is None else np.column_stack([params, a, 1 - a])

    predicted, j_BRP = form.gradient(theta_P[None], x_RV)
    steps = _STEP * np.eye(len(theta_P))
    with np.errstate(all="ignore"):
        by_theta = (quantities(theta_P + steps) - quantities(theta_P - steps)) / (2 * _STEP)
        errors = [scale_of(y_R - predicted[0], j_BRP[0], slope_P, robust).se
                  for slope_P in by_theta.T]
    names = [*form.parameters, "a", "b"][:len(errors)]
    return {name: error if np.isfinite(error) else None
            for name, error in zip(names, errors, strict=True)}
