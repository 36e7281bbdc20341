"""Approach 2: a parabola in ln N through the losses of each isoFLOP profile.

Hoffmann et al. 2022, section 3.2.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from scaling.laws.approaches.isoflop import IsoFlopProfile
from scaling.laws.approaches.optima import LossNoise, ProfileMinimum, noise_at, too_few_sizes

Array = NDArray[np.float64]
ParabolaTarget = Literal["loss", "log-loss"]

MIN_SIZES = 3
"""Smallest number of distinct sizes that determine a parabola."""
_COEFFICIENTS = 3
_NO_VALLEY = ProfileMinimum(
    math.nan, math.nan, math.nan,
    "its losses have no valley: the curvature of a parabola through them is not positive; train a "
    "wider grid, or more seeds")


def parabola_minima(
    profiles: list[IsoFlopProfile], target: ParabolaTarget = "loss",
    noise: LossNoise | None = None,
) -> list[ProfileMinimum]:
    """The minimum of a least-squares parabola in ln N through each profile.

    The standard error of ln N* is that of the vertex to first order. The standard deviation of runs
    about their parabola is `noise` if given, otherwise pooled over all profiles, since a single
    profile has too few runs to estimate it; the standard error is NaN if neither is known.

    Args:
        profiles: the runs of each budget.
        target: the quantity that the parabola is fitted to. For a law E + A/N^alpha + B/D^beta the
            valleys of the loss have the same shape at every budget, so that the bias of the
            parabola is the same factor of N* and does not affect the exponent; those of the
            log-loss do not.
        noise: standard deviation of the log-loss between runs.
    """
    fits = [_fit(p, target) for p in profiles]
    squares = sum(float(f[2] @ f[2]) for f in fits if f is not None)
    dof = sum(len(f[2]) - _COEFFICIENTS for f in fits if f is not None)
    pooled = math.sqrt(squares / dof) if dof > 0 else math.nan
    minima = []
    for profile, fit in zip(profiles, fits, strict=True):
        if fit is None:
            minima.append(too_few_sizes(profile, MIN_SIZES) or _NO_VALLEY)
            continue
        coefficients, design, _ = fit
        level, slope, curvature = coefficients
        if not curvature > 0:
            minima.append(_NO_VALLEY)
            continue
        middle, half = _centre_and_scale(profile)
        lowest = level - slope**2 / (4 * curvature)
        if noise is None:
            sd = np.full(len(profile.loss), pooled)
        else:
            sd = noise_at(noise, profile.c) * (profile.loss if target == "loss"
                                               else np.ones(len(profile.loss)))
        # The vertex -slope / (2 curvature) is a function of the coefficients, which are linear in
        # the losses.
        gradient = np.array([0.0, -1 / (2 * curvature), slope / (2 * curvature**2)])
        weights = gradient @ np.linalg.pinv(design)
        minima.append(ProfileMinimum(
            middle - half * slope / (2 * curvature), half * float(np.linalg.norm(weights * sd)),
            float(np.exp(lowest) if target == "log-loss" else lowest),
        ))
    return minima


def skew_warning(
    profiles: list[IsoFlopProfile], minima: list[ProfileMinimum], target: ParabolaTarget
) -> str | None:
    """A warning if the minima of cubics differ significantly from those of parabolas.

    The minimum of a parabola through a skewed valley is biased, more so for a wider grid
    (arXiv:2603.22339). A cubic models the skew, and its minimum estimates the bias.
    """
    shifts = []
    for profile, minimum in zip(profiles, minima, strict=True):
        if len(profile.sizes) < 5:
            continue
        middle, half = _centre_and_scale(profile)
        x = (profile.log_n - middle) / half
        d, c, b, _ = np.polyfit(
            x, profile.loss if target == "loss" else np.log(profile.loss), 3)
        discriminant = c * c - 3 * b * d
        if c > 0 and discriminant > 0:
            # The root with positive curvature, in the form that allows d = 0.
            shifts.append(middle - half * b / (c + math.sqrt(discriminant)) - minimum.log_n)
    if len(shifts) < 3:
        return None
    mean, error = float(np.mean(shifts)), float(np.std(shifts, ddof=1)) / math.sqrt(len(shifts))
    if abs(mean) < 1e-3 or abs(mean) < float(stdtrit(len(shifts) - 1, 0.995)) * error:
        return None
    return (f"the valleys are skewed: N* of cubics differs by {100 * math.expm1(mean):+.1f}% from "
            "that of the parabolas, so N* and D* are biased by about that much, and the exponent "
            "too if the grids differ between budgets; train narrower grids, or fit chinchilla")


def _centre_and_scale(profile: IsoFlopProfile) -> tuple[float, float]:
    """Middle and half-width of the grid, in ln N."""
    low, high = float(profile.log_n[0]), float(profile.log_n[-1])
    return (low + high) / 2, (high - low) / 2


def _fit(profile: IsoFlopProfile, target: ParabolaTarget) -> tuple[Array, Array, Array] | None:
    """Coefficients of 1, x and x^2, [3], the design matrix, [R, 3], and the residuals, [R], with x
    from -1 to 1 over the grid. None if there are too few sizes."""
    if len(profile.sizes) < MIN_SIZES:
        return None
    middle, half = _centre_and_scale(profile)
    x = (profile.log_n - middle) / half
    y = profile.loss if target == "loss" else np.log(profile.loss)
    design = np.stack([np.ones_like(x), x, x**2], axis=1)
    coefficients: Array = np.linalg.pinv(design) @ y
    return coefficients, design, np.asarray(y - design @ coefficients)
