"""Approach 2: a parabola, or a cubic, in ln N through the losses of each isoFLOP profile.

Hoffmann et al. 2022, section 3.2; the cubic follows the skew of a valley, which biases a parabola
(arXiv:2603.22339).
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

Degree = Literal[2, 3]
_NO_VALLEY: dict[Degree, ProfileMinimum] = {
    2: ProfileMinimum(
        math.nan, math.nan, math.nan,
        "its losses have no valley: the curvature of a parabola through them is not positive; "
        "train a wider grid, or more seeds"),
    3: ProfileMinimum(
        math.nan, math.nan, math.nan,
        "its losses have no valley: a cubic through them has no minimum; train a wider grid, or "
        "more seeds"),
}


def least_sizes(degree: Degree) -> int:
    """Smallest number of distinct sizes that determine a polynomial."""
    return degree + 1


def polynomial_minima(
    profiles: list[IsoFlopProfile], target: ParabolaTarget = "loss",
    noise: LossNoise | None = None, degree: Degree = 2,
) -> list[ProfileMinimum]:
    """The minimum of a least-squares parabola or cubic in ln N through each profile.

    The standard error of ln N* is that of the minimum to first order. The standard deviation of
    runs about their polynomial is `noise` if given, otherwise pooled over all profiles, since a
    single profile has too few runs to estimate it; the standard error is NaN if neither is known.

    Args:
        profiles: the runs of each budget.
        target: the quantity that the polynomial is fitted to. For a law E + A/N^alpha + B/D^beta
            the valleys of the loss have the same shape at every budget, so that the bias of the
            parabola is the same factor of N* and does not affect the exponent; those of the
            log-loss do not.
        noise: standard deviation of the log-loss between runs.
        degree: 2 for parabolas, 3 for cubics.
    """
    fits = [_fit(p, target, degree) for p in profiles]
    squares = sum(float(f[2] @ f[2]) for f in fits if f is not None)
    dof = sum(len(f[2]) - degree - 1 for f in fits if f is not None)
    pooled = math.sqrt(squares / dof) if dof > 0 else math.nan
    minima = []
    for profile, fit in zip(profiles, fits, strict=True):
        if fit is None:
            minima.append(too_few_sizes(profile, least_sizes(degree)) or _NO_VALLEY[degree])
            continue
        coefficients, design, _ = fit
        x = _lowest(coefficients)
        if x is None:
            minima.append(_NO_VALLEY[degree])
            continue
        middle, half = _centre_and_scale(profile)
        powers = x ** np.arange(degree + 1)
        lowest = float(powers @ coefficients)
        if noise is None:
            sd = np.full(len(profile.loss), pooled)
        else:
            sd = noise_at(noise, profile.c) * (profile.loss if target == "loss"
                                               else np.ones(len(profile.loss)))
        # The slope at the minimum stays zero: dx / d coefficient_k = -k x^(k-1) / curvature. The
        # coefficients are linear in the losses.
        k = np.arange(1, degree + 1)
        by_slope = np.append(0.0, k * powers[:-1])
        curvature = float((k[1:] * k[:-1] * powers[:-2]) @ coefficients[2:])
        weights = by_slope / curvature @ np.linalg.pinv(design)
        minima.append(ProfileMinimum(
            middle + half * x, half * float(np.linalg.norm(weights * sd)),
            float(np.exp(lowest) if target == "log-loss" else lowest),
        ))
    return minima


def _lowest(coefficients: Array) -> float | None:
    """x of the local minimum of a parabola or a cubic, from the coefficients of 1, x, x^2 and x^3;
    None if it has none."""
    b, c, d = np.append(coefficients, 0.0)[1:4]
    discriminant = c * c - 3 * b * d
    if not discriminant > 0 or (d == 0 and not c > 0):
        return None
    # The root with positive curvature, in the form without cancellation, which allows d = 0.
    root = math.sqrt(discriminant)
    return float(-b / (c + root) if c > 0 else (root - c) / (3 * d))


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
        fit = _fit(profile, target, 3)
        x = None if fit is None or not fit[0][2] > 0 else _lowest(fit[0])
        if x is not None:
            middle, half = _centre_and_scale(profile)
            shifts.append(middle + half * x - minimum.log_n)
    if len(shifts) < 3:
        return None
    mean, error = float(np.mean(shifts)), float(np.std(shifts, ddof=1)) / math.sqrt(len(shifts))
    if abs(mean) < 1e-3 or abs(mean) < float(stdtrit(len(shifts) - 1, 0.995)) * error:
        return None
    return (f"the valleys are skewed: N* of cubics differs by {100 * math.expm1(mean):+.1f}% from "
            "that of the parabolas, so N* and D* are biased by about that much, and the exponent "
            "too if the grids differ between budgets; train narrower grids, or fit "
            "approach-2-cubic or chinchilla")


def _centre_and_scale(profile: IsoFlopProfile) -> tuple[float, float]:
    """Middle and half-width of the grid, in ln N."""
    low, high = float(profile.log_n[0]), float(profile.log_n[-1])
    return (low + high) / 2, (high - low) / 2


def _fit(
    profile: IsoFlopProfile, target: ParabolaTarget, degree: Degree
) -> tuple[Array, Array, Array] | None:
    """Coefficients of 1, x, x^2 and so on, [degree + 1], the design matrix, [R, degree + 1], and
    the residuals, [R], with x from -1 to 1 over the grid. None if there are too few sizes."""
    if len(profile.sizes) < least_sizes(degree):
        return None
    middle, half = _centre_and_scale(profile)
    x = (profile.log_n - middle) / half
    y = profile.loss if target == "loss" else np.log(profile.loss)
    design = x[:, None] ** np.arange(degree + 1)
    coefficients: Array = np.linalg.pinv(design) @ y
    return coefficients, design, np.asarray(y - design @ coefficients)
