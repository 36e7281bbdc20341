"""Runs whose loss rises beyond its noise and does not recover."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from scaling.laws.training_curves import point_noise

Array = NDArray[np.float64]

WINDOW = 0.1
"""Length of the windows whose medians are compared, as a fraction of the points of a curve."""
DEVIATIONS = 5.0
"""Smallest rise of a diverging loss, in standard deviations of the median of a window. The largest
rise of the curves of results/quickstart is 3.4."""
LEAST_RISE = 0.01
"""Smallest rise of a diverging loss, as a fraction of it."""
LONGEST_SPIKE = 0.25
"""Longest rise that is a spike from which the loss recovers, as a fraction of the points."""
MIN_POINTS = 10

_MEDIAN = math.sqrt(math.pi / 2)  # standard error of a median over that of a mean


def late_rise(loss: Array) -> tuple[float, str] | None:
    """The rise of a training loss from which it does not recover, as a fraction of the loss, and a
    sentence about it; None if there is none or the curve has fewer than ten points.

    Medians of windows are compared with the lowest one before them. A rise beyond the noise counts
    if it lasts until the end, or for more than a fourth of the run: a cool-down lowers the loss
    of a run, also of one that has diverged.

    Args:
        loss: nats per token at the points of the curve, in order, [P]; the last ones may be NaN or
            infinite.
    """
    finite = np.isfinite(loss) & (loss > 0)
    if not finite[-1]:
        return math.nan, "ends in losses that are not numbers"
    log_loss = np.log(loss[finite])
    if len(log_loss) < MIN_POINTS:
        return None
    width = max(3, math.ceil(WINDOW * len(log_loss)))
    noise = point_noise([log_loss]) * _MEDIAN / math.sqrt(width)
    level = np.median(np.lib.stride_tricks.sliding_window_view(log_loss, width), axis=1)
    rise = level - np.minimum.accumulate(level)
    above = rise > max(DEVIATIONS * noise, math.log1p(LEAST_RISE))
    if above[-1]:
        figure = math.expm1(float(rise[-1]))
        return figure, f"ends {figure:.1%} above its lowest loss"
    edges = np.flatnonzero(np.diff(np.concatenate([[False], above, [False]]).astype(int)))
    for first, last in edges.reshape(-1, 2):
        if last - first > LONGEST_SPIKE * len(log_loss):
            figure = math.expm1(float(rise[first:last].max()))
            return figure, (f"rises by {figure:.1%} and stays high for "
                            f"{(last - first) / len(log_loss):.0%} of its length")
    return None
