"""Approach 2 without a parabola: Akima's interpolation of log-loss in ln N, with a bootstrap of
noise.

Porian et al. 2024 (arXiv:2406.19146), section 3.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import Akima1DInterpolator

from scaling.laws.approaches.budgets import Budget
from scaling.laws.approaches.optima import Minimum, Noise, noise_at, too_few

Array = NDArray[np.float64]

LEAST = 4
"""Distinct sizes below which Akima's weights compare nothing."""
FLOOR = 0.33
"""The least standard error of ln N*, in mean steps of the grid: between two sizes it is the
interpolation that places the minimum, not the runs (the authors' code)."""
_KEPT = 0.5  # of the draws must have a minimum inside the grid


def akima_optima(
    budgets: list[Budget], noise: Noise, *, resamples: int = 1000, seed: int = 0,
    floor: float = FLOOR,
) -> list[Minimum]:
    """The minimum of the interpolant of each budget: the median over noisy draws.

    Every draw adds normal noise to the log-loss of every size. Those whose minimum is at an end of
    the grid do not count; where they are more than half the budget has no optimum. The standard
    error of ln N* is the spread of the draws that count, at least `floor` mean steps of the grid,
    divided by the share of the draws that count. The loss is that of the interpolant without noise.
    Runs of the same size are averaged, in log-loss, and their noise with them.

    Args:
        budgets: the runs.
        noise: standard deviation of the log-loss from run to run.
        resamples: draws of noise; 0 takes the interpolant as it is, with no standard error.
        seed: of the draws; each budget has its own stream, whatever the other budgets are.
        floor: see above.
    """
    return [_one(b, noise_at(noise, b.c), resamples, (seed, place), floor)
            for place, b in enumerate(budgets)]


def _one(
    budget: Budget, noise: float, resamples: int, seed: tuple[int, int], floor: float
) -> Minimum:
    sizes = budget.sizes
    if few := too_few(budget, LEAST):
        return few
    y, runs = budget.by_size()
    log_n, at = float(lowest(sizes, y[:, None])[0]), math.nan
    if resamples:
        draws = np.random.default_rng(seed).standard_normal((resamples, len(sizes)))
        ends = lowest(sizes, (y + draws * noise / np.sqrt(runs)).T)
        inside = ends[(ends > sizes[0]) & (ends < sizes[-1])]
        share = len(inside) / resamples
        if share < _KEPT:
            return Minimum(log_n, math.nan, math.nan,
                           f"with the noise that is given, {1 - share:.0%} of the draws have "
                           "their lowest loss at an end of the grid; train sizes beyond it")
        log_n = float(np.median(inside))
        step = (sizes[-1] - sizes[0]) / (len(sizes) - 1)
        at = max(float(inside.std()), floor * step) / share
    loss = float(np.exp(Akima1DInterpolator(sizes, y)(log_n)))
    return Minimum(log_n, at, loss)


def lowest(x: Array, y: Array) -> Array:
    """Where Akima's interpolants through (x, y) are lowest, [B] from [K] and [K, B].

    Exactly: the ends of the pieces, and on each piece, a cubic, where its derivative vanishes.
    """
    cubic, square, slope, level = Akima1DInterpolator(x, y).c
    width = np.diff(x)[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        root = np.sqrt(square**2 - 3 * cubic * slope)
        # The root at which a cubic bends upward, in the form that does not cancel.
        t = np.where(square > 0, -slope / (square + root), (root - square) / (3 * cubic))
    within = (t > 0) & (t < width)
    t = np.where(within, t, 0.0)
    at = np.concatenate([x[:-1, None] + t, np.broadcast_to(x[:, None], y.shape)])
    values = np.concatenate([level + t * (slope + t * (square + t * cubic)), y])
    best = values.argmin(axis=0)
    return np.asarray(at[best, np.arange(y.shape[1])])
