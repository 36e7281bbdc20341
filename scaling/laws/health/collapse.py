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
MIN_CURVES = 10
"""Fewest curves of one schedule that are compared."""
DEVIATIONS = 2.5
"""Root mean square over the bins, in standard deviations, above which a curve deviates. Added one
by one to the runs of results/quickstart, 30 runs with another seed, or with twice or half of the
learning rate, had at most 1.5; of runs of 600k tokens without a cool-down, 3.9 and 4.7. In 300
random tables of ten of the former, one run in 3,000 was above."""
LEAST_SPREAD = 0.005
"""Smallest standard deviation of normalised curves between runs, as a fraction of them."""

_FOLDS, _ITERATIONS = 30, 12


@dataclass(frozen=True)
class NormalisedCurve:
    """A training curve divided by its end, in the bins of t/T.

    Attributes:
        level: logarithm of the normalised loss, [bins].
        noise: standard deviation of it by the noise of the points, [bins].
    """

    level: Array
    noise: Array


def normalised_curve(t: Array, loss: Array, floor: float) -> NormalisedCurve | None:
    """The curve (L - L_0) / (L_end - L_0) of a run in bins of t/T; None if it has fewer than two
    points after `END`, a gap in front of them, or a loss that is not above L_0.

    Args:
        t: tokens seen at each point, as a fraction of those of the run, ascending, [P].
        loss: nats per token, [P].
        floor: L_0 in nats per token.
    """
    reducible = loss - floor
    end = t > END
    end[-2:] = True
    used = t > BINS[0] / 2
    if len(t) < 2 * (len(BINS) - 1) or not (reducible > 0).all() or t[-2] < BINS[-2]:
        return None
    log_y = np.log(reducible) - np.log(reducible[end].mean())
    bin_of = np.digitize(t, BINS) - 1
    number = np.array([(bin_of == each).sum() for each in range(len(BINS) - 1)])
    centres = (BINS[:-1] + BINS[1:]) / 2
    level = np.interp(centres, t, log_y)
    for each in np.flatnonzero(number):
        level[each] = log_y[bin_of == each].mean()
    noise = point_noise([log_y[used]])
    return NormalisedCurve(
        level, noise * np.sqrt(1 / np.maximum(number, 1) + 1 / max(1, int(end.sum()))))


def deviations(curves: list[NormalisedCurve], variables: Array) -> tuple[Array, Array]:
    """How far each curve is from what the others predict.

    In every bin the logarithm of the normalised loss is linear in the variables, by least absolute
    deviations, which a few deviating curves do not change. The line for a run is fitted without it.

    Args:
        curves: normalised curves of runs of one schedule, of length R.
        variables: logarithms of N and D, [R, V].

    Returns:
        The root mean square over the bins of the deviation in standard deviations, which are of
        other runs and of the noise of the points, [R]; and the deviation in the bin where it is
        largest, relative to the predicted value, with t/T of that bin, [R, 2].
    """
    level = np.stack([each.level for each in curves])
    noise = np.stack([each.noise for each in curves])
    centred = variables - variables.mean(axis=0)
    design = np.concatenate([np.ones((len(level), 1)), centred], axis=1)
    residual = np.empty_like(level)
    fold = np.arange(len(level)) % min(len(level), _FOLDS)
    for each in range(int(fold.max()) + 1):
        out = fold == each
        lines = _least_absolute(design[~out], level[~out])
        residual[out] = level[out] - design[out] @ lines
    spread = np.maximum(1.4826 * np.median(np.abs(residual), axis=0), LEAST_SPREAD)
    scaled = residual / np.hypot(spread, noise)
    worst = np.abs(scaled).argmax(axis=1)
    centres = (BINS[:-1] + BINS[1:]) / 2
    largest = np.expm1(residual[np.arange(len(level)), worst])
    return np.sqrt((scaled**2).mean(axis=1)), np.stack([largest, centres[worst]], axis=1)


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
