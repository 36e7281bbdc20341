"""Approach 2: a parabola in ln N through the losses of every budget.

Hoffmann et al. 2022, section 3.2.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from scaling.laws.approaches.budgets import Budget
from scaling.laws.approaches.optima import Minimum, Noise, noise_at, too_few

Array = NDArray[np.float64]
Of = Literal["loss", "log-loss"]

LEAST = 3
"""Distinct sizes that determine a parabola."""
_FREE = 3  # coefficients
_NO_VALLEY = Minimum(math.nan, math.nan, math.nan,
                     "its losses have no valley: a parabola through them bends downward or not at "
                     "all; train a wider grid, or more seeds")


def parabolas(budgets: list[Budget], of: Of = "loss", noise: Noise | None = None) -> list[Minimum]:
    """The minimum of a least-squares parabola in ln N for each budget.

    The standard error of ln N* is that of the vertex to first order. How much a run scatters about
    its parabola is pooled over all budgets, since one budget has too few runs to tell, unless
    `noise` says how much; it is NaN where neither is known.

    Args:
        budgets: the runs.
        of: what the parabola is of. For a law E + A/N^alpha + B/D^beta the valleys of the loss
            itself have one shape at every budget, so that what a parabola misses is the same
            factor of N* at each and leaves the exponent alone; those of the log-loss have not.
        noise: standard deviation of the log-loss from run to run.
    """
    fits = [_fit(b, of) for b in budgets]
    squares = sum(float(f[2] @ f[2]) for f in fits if f is not None)
    freedom = sum(len(f[2]) - _FREE for f in fits if f is not None)
    pooled = math.sqrt(squares / freedom) if freedom > 0 else math.nan
    found = []
    for budget, fit in zip(budgets, fits, strict=True):
        if fit is None:
            found.append(too_few(budget, LEAST) or _NO_VALLEY)
            continue
        coefficients, design, _ = fit
        level, slope, bend = coefficients
        if not bend > 0:
            found.append(_NO_VALLEY)
            continue
        middle, half = _frame(budget)
        lowest = level - slope**2 / (4 * bend)
        if noise is None:
            sd = np.full(len(budget.loss), pooled)
        else:
            sd = noise_at(noise, budget.c) * (budget.loss if of == "loss"
                                              else np.ones(len(budget.loss)))
        # The vertex is -slope / (2 bend), a function of the coefficients, which are P y.
        towards = np.array([0.0, -1 / (2 * bend), slope / (2 * bend**2)])
        weights = towards @ np.linalg.pinv(design)
        found.append(Minimum(
            middle - half * slope / (2 * bend), half * float(np.linalg.norm(weights * sd)),
            float(np.exp(lowest) if of == "log-loss" else lowest),
        ))
    return found


def skew(budgets: list[Budget], found: list[Minimum], of: Of) -> str | None:
    """A warning where cubics put the minima elsewhere than parabolas do, by more than chance.

    A parabola through a skewed valley misses its minimum, by more the wider the grid is
    (arXiv:2603.22339). A cubic sees the skew, and its minimum tells how large the miss is.
    """
    shifts = []
    for budget, minimum in zip(budgets, found, strict=True):
        if len(budget.sizes) < 5:
            continue
        middle, half = _frame(budget)
        x = (budget.log_n - middle) / half
        d, c, b, _ = np.polyfit(x, budget.loss if of == "loss" else np.log(budget.loss), 3)
        inside = c * c - 3 * b * d
        if c > 0 and inside > 0:
            # The root at which the cubic bends upward, in the form that allows d = 0.
            shifts.append(middle - half * b / (c + math.sqrt(inside)) - minimum.log_n)
    if len(shifts) < 3:
        return None
    mean, error = float(np.mean(shifts)), float(np.std(shifts, ddof=1)) / math.sqrt(len(shifts))
    if abs(mean) < 1e-3 or abs(mean) < float(stats.t.ppf(0.995, len(shifts) - 1)) * error:
        return None
    return (f"the valleys are skewed: cubics put N* {100 * math.expm1(mean):+.1f}% from where the "
            "parabolas do, so N* and D* are biased by about that much, and the exponent too "
            "where the grids differ between budgets; train narrower grids, or fit chinchilla")


def _frame(budget: Budget) -> tuple[float, float]:
    """Middle and half-width of the grid, in ln N."""
    low, high = float(budget.log_n[0]), float(budget.log_n[-1])
    return (low + high) / 2, (high - low) / 2


def _fit(budget: Budget, of: Of) -> tuple[Array, Array, Array] | None:
    """Coefficients of 1, x and x^2, [3], the design, [R, 3], and the residuals, [R]; x runs from
    -1 to 1 over the grid. None where there are too few sizes."""
    if len(budget.sizes) < LEAST:
        return None
    middle, half = _frame(budget)
    x = (budget.log_n - middle) / half
    y = budget.loss if of == "loss" else np.log(budget.loss)
    design = np.stack([np.ones_like(x), x, x**2], axis=1)
    coefficients: Array = np.linalg.pinv(design) @ y
    return coefficients, design, np.asarray(y - design @ coefficients)
