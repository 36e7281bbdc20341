"""Approach 2 with Akima interpolation of the log-loss in ln N, and a bootstrap of the noise.

Porian et al. 2024 (arXiv:2406.19146), section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import scipy
from numpy.typing import NDArray

from scaling.laws.approaches.isoflop import IsoFlopProfile
from scaling.laws.approaches.optima import LossNoise, ProfileMinimum, noise_at, too_few_sizes

Array = NDArray[np.float64]

MIN_SIZES = 4
"""Smallest number of distinct sizes for which Akima's weights are meaningful."""
FLOOR = 0.33
"""Lower bound of the standard error of ln N*, in mean steps of the grid, because between two sizes
the position of the minimum depends on the interpolation, not on the runs (the authors' code)."""
_MIN_INSIDE = 0.5  # share of the draws that must have a minimum inside the grid
_CHUNK = 1000      # draws in memory at once


def akima_minima(
    profiles: list[IsoFlopProfile], noise: LossNoise, *, resamples: int = 1000, seed: int = 0,
    floor: float = FLOOR, watch: Callable[[int], None] = lambda done: None,
) -> list[ProfileMinimum]:
    """The minimum of the Akima interpolant of each profile: the median over noisy draws.

    Every draw adds normal noise to the log-loss of every size. Draws whose minimum is at an end of
    the grid are excluded; if they are more than half, the profile has no minimum. The standard
    error of ln N* is the standard deviation over the remaining draws, at least `floor` mean steps
    of the grid, divided by the share of the remaining draws. The loss is that of the interpolant
    without noise. The log-losses of runs of the same size are averaged, which reduces their noise.

    Args:
        profiles: the runs of each budget.
        noise: standard deviation of the log-loss between runs.
        resamples: draws of the noise; 0 for the minimum without noise and standard error.
        seed: seed of the draws; each profile has a stream that does not depend on the others.
        floor: lower bound of the standard error, in mean steps of the grid.
        watch: called with the number of resamples done for all profiles.
    """
    minima = []
    for i, profile in enumerate(profiles):
        minima.append(_minimum(profile, noise_at(noise, profile.c), resamples, (seed, i), floor))
        watch(resamples * (i + 1) // len(profiles))
    return minima


def _minimum(
    profile: IsoFlopProfile, noise: float, resamples: int, seed: tuple[int, int], floor: float
) -> ProfileMinimum:
    sizes = profile.sizes
    if no_minimum := too_few_sizes(profile, MIN_SIZES):
        return no_minimum
    y, runs = profile.mean_log_loss()
    log_n, log_n_se = float(interpolant_minima(sizes, y[:, None])[0]), math.nan
    if resamples:
        rng = np.random.default_rng(seed)
        draws = np.concatenate([
            interpolant_minima(sizes, (y + z * noise / np.sqrt(runs)).T)
            for first in range(0, resamples, _CHUNK)
            for z in [rng.standard_normal((min(_CHUNK, resamples - first), len(sizes)))]
        ])
        inside = draws[(draws > sizes[0]) & (draws < sizes[-1])]
        share = len(inside) / resamples
        if share < _MIN_INSIDE:
            return ProfileMinimum(log_n, math.nan, math.nan,
                                  f"at the given noise, {1 - share:.0%} of the draws have their "
                                  "lowest loss at an end of the grid; train sizes beyond it")
        log_n = float(np.median(inside))
        step = (sizes[-1] - sizes[0]) / (len(sizes) - 1)
        log_n_se = max(float(inside.std()), floor * step) / share
    loss = float(np.exp(scipy.interpolate.Akima1DInterpolator(sizes, y)(log_n)))
    return ProfileMinimum(log_n, log_n_se, loss)


def interpolant_minima(x: Array, y: Array) -> Array:
    """The exact argmin of the Akima interpolants through (x, y), [B] from [K] and [K, B].

    Compares the ends of the cubic pieces and the zeros of their derivatives.
    """
    cubic, square, slope, level = scipy.interpolate.Akima1DInterpolator(x, y).c
    width = np.diff(x)[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        root = np.sqrt(square**2 - 3 * cubic * slope)
        # The root with positive curvature, in the form without cancellation.
        t = np.where(square > 0, -slope / (square + root), (root - square) / (3 * cubic))
    within = (t > 0) & (t < width)
    t = np.where(within, t, 0.0)
    at = np.concatenate([x[:-1, None] + t, np.broadcast_to(x[:, None], y.shape)])
    values = np.concatenate([level + t * (slope + t * (square + t * cubic)), y])
    best = values.argmin(axis=0)
    return np.asarray(at[best, np.arange(y.shape[1])])
