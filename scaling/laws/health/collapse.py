"""The collapse of training curves: normalised by their ends, curves of one sweep are alike.

Qiu et al. 2025 (arXiv 2507.02119): (L(t/T) - L_0) / (L(T) - L_0) against t/T is the same curve for
models of all sizes that are trained compute-optimally, and deviates if hyperparameters do not scale
well. In a grid of N and D the ratio D/N differs between runs, and the normalised curve changes with
it: a run that is long for its size is flatter. What is compared with a curve is therefore what the
other ones predict for its N and D.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.laws.training_curves import point_noise

Array = NDArray[np.float64]

BINS = np.linspace(0.2, 0.95, 7)
"""Edges of the bins of t/T in which curves are compared. The warm-up is before, and the loss at the
end, by which curves are normalised, after them."""
END = 0.93
"""Value of t/T from which the loss at the end is averaged."""
MIN_CURVES = 12
"""Fewest curves of one schedule that are compared."""
DEVIATIONS = 2.0
"""Root mean square over the bins, in standard deviations, above which a curve deviates.
experiments/run_health.py has the deviations of healthy and unhealthy runs."""
LEAST_SPREAD = 0.005
"""Smallest standard deviation of normalised curves between runs, as a fraction of them."""

_CENTRES = (BINS[:-1] + BINS[1:]) / 2
_FOLDS, _ITERATIONS = 30, 12


@dataclass(frozen=True)
class NormalisedCurve:
    """A training curve divided by its end, in the bins of t/T.

    Attributes:
        level: logarithm of the normalised loss, [bins].
        points: number of points of equal length that the level is a mean of, [bins].
        end_points: number of such points in the mean at the end, which divides all of them.
        noise: standard deviation of the logarithm at a point.
    """

    level: Array
    points: Array
    end_points: float
    noise: float


def normalised_curve(t: Array, loss: Array, floor: float) -> NormalisedCurve | None:
    """The curve (L - L_0) / (L_end - L_0) of a run in bins of t/T; None if it has too few points,
    or a loss that is not above L_0.

    Means are weighted by the tokens between points: a loss is a mean since the previous point, and
    the last one is often closer to it than others.

    Args:
        t: tokens seen at each point, as a fraction of those of the run, ascending, [P].
        loss: nats per token, [P].
        floor: L_0 in nats per token.
    """
    reducible = loss - floor
    if len(t) < 2 * (len(BINS) - 1) or not (reducible > 0).all() or t[-2] < BINS[-2]:
        return None
    length = np.diff(t, prepend=0.0)
    usual = float(np.median(length))
    end = t > END
    end[-2:] = True
    log_y = np.log(reducible) - np.log(np.average(reducible[end], weights=length[end]))
    bin_of = np.digitize(t, BINS) - 1
    level, points = np.interp(_CENTRES, t, log_y), np.ones(len(_CENTRES))
    for each in range(len(_CENTRES)):
        inside = bin_of == each
        if inside.any():
            level[each] = np.average(log_y[inside], weights=length[inside])
            points[each] = length[inside].sum() / usual
    return NormalisedCurve(level, points, float(length[end].sum()) / usual,
                           point_noise([log_y[t > BINS[0] / 2]]))


def deviations(curves: list[NormalisedCurve], variables: Array) -> tuple[Array, Array]:
    """How far each curve is from what the others predict.

    In every bin the logarithm of the normalised loss is linear in the variables, by least absolute
    deviations, which a few deviating curves do not change. The line for a run is fitted without it.
    The variance of a residual is that between runs, which is larger for sizes beyond the others (by
    the leverage of a linear regression), and that of the points of the bin; the noise of the end,
    by which a curve is divided, is common to all bins.

    Args:
        curves: normalised curves of runs of one schedule, of length R.
        variables: logarithms of N and D, [R, V].

    Returns:
        The root mean square over the bins of the residuals in standard deviations, by their
        covariance, [R]; and the residual that is the most standard deviations, relative to the
        predicted value, with t/T of its bin, [R, 2].
    """
    level = np.stack([each.level for each in curves])
    centred = variables - variables.mean(axis=0)
    design = np.concatenate([np.ones((len(level), 1)), centred], axis=1)
    residual, leverage = np.empty_like(level), np.empty(len(level))
    fold = np.arange(len(level)) % min(len(level), _FOLDS)
    for each in range(int(fold.max()) + 1):
        out = fold == each
        lines = _least_absolute(design[~out], level[~out])
        residual[out] = level[out] - design[out] @ lines
        inverse = np.linalg.pinv(design[~out].T @ design[~out], hermitian=True)
        leverage[out] = ((design[out] @ inverse) * design[out]).sum(axis=1)
    spread = np.maximum(1.4826 * np.median(np.abs(residual), axis=0), LEAST_SPREAD)
    noise = np.array([each.noise for each in curves])
    # The noise of one short curve is uncertain, and that of all is about the same.
    noise = np.maximum(noise, np.median(noise))
    points = np.stack([each.points for each in curves])
    own = spread**2 * (1 + leverage)[:, None] + noise[:, None]**2 / points
    common = noise**2 / np.array([each.end_points for each in curves])
    # The inverse of diag(own) + common, by Sherman and Morrison.
    squares = (residual**2 / own).sum(axis=1) - common * (residual / own).sum(axis=1)**2 / (
        1 + common * (1 / own).sum(axis=1))
    worst = np.abs(residual / np.sqrt(own + common[:, None])).argmax(axis=1)
    largest = np.expm1(residual[np.arange(len(level)), worst])
    return np.sqrt(squares / len(_CENTRES)), np.stack([largest, _CENTRES[worst]], axis=1)


def _least_absolute(design: Array, y: Array) -> Array:
    """Coefficients by least absolute deviations, of every column of y, [V, bins]; by iteratively
    reweighted least squares."""
    weights = np.ones_like(y)
    for _ in range(_ITERATIONS):
        normal = np.einsum("rv,rb,rw->bvw", design, weights, design)
        right = np.einsum("rv,rb->bv", design, weights * y)
        # Variables may depend on each other: at one budget, N determines D.
        lines = np.einsum("bvw,bw->vb", np.linalg.pinv(normal, hermitian=True), right)
        residual = np.abs(y - design @ lines)
        scale = np.maximum(np.median(residual, axis=0), 1e-9)
        weights = 1 / np.maximum(residual / scale, 0.1)
    return np.asarray(lines)
