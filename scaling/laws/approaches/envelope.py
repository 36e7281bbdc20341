"""Approach 1: the lower envelope of training curves.

Hoffmann et al. 2022, section 3.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.errors import DataError, UserError
from scaling.laws.approaches.line import Line, fit_log_line
from scaling.laws.approaches.optima import Optima
from scaling.laws.forms.variables import FLOPS_PER_PARAMETER_TOKEN
from scaling.laws.training_curves import Curves, point_noise

Array = NDArray[np.float64]

POINTS = 1500
"""Compute values at which the envelope is evaluated (Hoffmann et al. 2022, section 3.1)."""
FINAL_SHARE = 0.15
"""Final share of a run's tokens in which a decaying learning rate is close to its final value
(Hoffmann et al. 2022, section 3.1, whose envelope is there)."""

_SHARE, _RESAMPLES = 0.8, 200  # share of the runs in a subsample (the paper's), and subsamples
_MOST_POINTS = 100_000
_NOISE = 1e-4                  # of the log-loss between points, below which there is no warning


@dataclass(frozen=True)
class Envelope:
    """The envelope and the power laws through it; `optima` has one entry per compute value."""

    optima: Optima
    n: Line
    d: Line
    warnings: tuple[str, ...]


def envelope(
    curves: Curves, *, points: int = POINTS, smooth: float = 0.0, resamples: int = _RESAMPLES,
    seed: int = 0, watch: Callable[[int], None] = lambda done: None,
) -> Envelope:
    """The run with the lowest loss at each of many compute values, and power laws of N* and D*.

    Each run's log-loss is interpolated linearly in ln C between its first and its last point. At
    each value of C the run with the lowest loss is used if both smaller and larger sizes have a
    curve there; otherwise the envelope is limited by the sizes that were trained.

    The points of the envelope are not independent, so the uncertainty is estimated by subsampling
    runs: as in the paper (Table 2) subsamples leave out a fifth of them. A subsample of a share f
    of the runs deviates from the whole by (1 - f)/f of the variance of the whole, and the
    covariance is scaled accordingly.

    The intervals do not account for the selection of the lowest loss. The range of sizes is
    bounded, so a run with a low loss by chance is too large among the small sizes and too small
    among the large ones: in trials with 60 sizes over three decades, alpha = beta and 60 tables, a
    was .500, .470 and .437 with seed noise of 0, .3% and 1% in the losses, and 98%, 83% and 38% of
    the intervals contained .5.

    Args:
        curves: training curves of many runs.
        points: number of values of C, evenly spaced in ln C over all curves.
        smooth: half-width, in ln D, of the window of a local linear fit in ln D that replaces the
            log-loss; 0 for no smoothing. The paper smooths, but does not specify how.
        resamples: subsamples; 0 for no intervals.
        seed: seed of the subsamples.
        watch: called with the number of subsamples done.

    Raises:
        DataError: the envelope passes through fewer than two sizes.
        UserError: `points` or `smooth` is out of range.
    """
    if not 2 <= points <= _MOST_POINTS or not 0 <= smooth < math.inf:
        raise UserError(f"approach-1: {points:.3g} points, smoothing over {smooth:g}: 2 to "
                        f"{_MOST_POINTS:,} points and a non-negative width in ln D are expected")
    log_c = np.linspace(math.log(curves.c.min()), math.log(curves.c.max()), points)
    runs = len(curves.run_id)
    size, end = np.empty(runs), np.empty(runs)
    log_loss = np.full((runs, points), np.nan)
    smoothed: list[Array] = []
    for run in range(runs):
        rows = curves.rows(run)
        size[run], end[run] = curves.n[rows[0]], curves.d[rows[-1]]
        y = np.log(curves.loss[rows])
        log_d = np.log(curves.d[rows])
        y = local_linear_smooth(log_d, y, smooth) if smooth else y
        smoothed.append(y)
        log_loss[run] = np.interp(log_c, np.log(curves.c[rows]), y, left=np.nan, right=np.nan)
    best, used = _lowest_runs(log_loss, size)
    optima = _optima(log_c, log_loss, size, best, used)
    kept = optima.kept
    if len(np.unique(kept.n)) < 2:
        raise DataError(
            f"approach-1: the envelope of {runs} runs of {len(np.unique(size))} sizes passes "
            f"through {len(np.unique(kept.n))} sizes with both smaller and larger sizes at the "
            "same C, where at least 2 are needed; train more sizes, or overlapping ranges of C")
    lines = fit_log_line(kept.c, kept.n), fit_log_line(kept.c, kept.d)
    n, d = _with_covariance(lines, log_c, log_loss, size, resamples, seed, watch)
    last = kept.d >= (1 - FINAL_SHARE) * end[best[optima.used]]
    return Envelope(optima, n, d, tuple(_warnings(optima, float(last.mean()), smoothed, n)))


def local_linear_smooth(x: Array, y: Array, half_width: float) -> Array:
    """The value at each x of the linear regression on the points within `half_width` of it.

    A moving average would be biased upward at the end of a falling curve, where it is used.
    """
    low = np.searchsorted(x, x - half_width, side="left")
    high = np.searchsorted(x, x + half_width, side="right")
    centre, level = x.mean(), y.mean()
    u, v = x - centre, y - level

    def total(values: Array) -> Array:
        sums = np.concatenate([[0.0], np.cumsum(values)])
        return np.asarray(sums[high] - sums[low])

    count = (high - low).astype(float)
    mean_u, mean_v = total(u) / count, total(v) / count
    spread = total(u * u) / count - mean_u**2
    slope = np.divide(total(u * v) / count - mean_u * mean_v, spread,
                      out=np.zeros_like(spread), where=spread > 1e-12 * half_width**2)
    return np.asarray(level + mean_v + slope * (u - mean_u))


def _lowest_runs(log_loss: Array, size: Array) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """The run with the lowest loss at each C, and whether both smaller and larger sizes have a
    curve there, [C] each."""
    present = np.isfinite(log_loss)
    best = np.where(present, log_loss, np.inf).argmin(axis=0)
    sizes = np.where(present, size[:, None], np.nan)
    smaller = (sizes < size[best]).any(axis=0)
    larger = (sizes > size[best]).any(axis=0)
    return best, np.asarray(smaller & larger)


def _optima(
    log_c: Array, log_loss: Array, size: Array, best: NDArray[np.intp], used: NDArray[np.bool_]
) -> Optima:
    c, n = np.exp(log_c), size[best]
    loss = np.exp(log_loss[best, np.arange(len(c))])
    reason = tuple("" if ok else "no smaller or no larger size has a curve there" for ok in used)
    return Optima(c, n, c / (FLOPS_PER_PARAMETER_TOKEN * n), loss, np.full(len(c), np.nan),
                  used & np.isfinite(loss), reason)


def _with_covariance(
    fits: tuple[Line, Line], log_c: Array, log_loss: Array, size: Array, resamples: int, seed: int,
    watch: Callable[[int], None],
) -> tuple[Line, Line]:
    """The lines with a covariance estimated from subsamples of the runs."""
    runs = len(size)
    keep = round(_SHARE * runs)
    rng = np.random.default_rng(seed)
    draws: list[list[tuple[float, float]]] = [[], []]
    for done in range(resamples if keep < runs else 0):
        watch(done)
        rows = np.sort(rng.permutation(runs)[:keep])
        best, used = _lowest_runs(log_loss[rows], size[rows])
        n = size[rows][best[used]]
        if len(np.unique(n)) < 2:
            continue
        c = np.exp(log_c[used])
        for fit, draw, y in zip(fits, draws, (n, c / (FLOPS_PER_PARAMETER_TOKEN * n)), strict=True):
            line = fit_log_line(c, y)
            level = line.level + line.exponent * (fit.centre - line.centre)
            draw.append((level, line.exponent))
    if len(draws[0]) < max(2, resamples // 2):
        lines = [Line(f.centre, f.level, f.exponent, (math.nan,) * 3, 0) for f in fits]
    else:
        scale = keep / (runs - keep)
        lines = []
        for fit, drawn in zip(fits, draws, strict=True):
            covariance = np.cov(np.array(drawn).T) * scale
            lines.append(Line(
                fit.centre, fit.level, fit.exponent,
                (float(covariance[0, 0]), float(covariance[0, 1]), float(covariance[1, 1])),
                math.inf))
    return lines[0], lines[1]


def _warnings(optima: Optima, last: float, losses: list[Array], n: Line) -> list[str]:
    warnings = []
    excluded = int((~optima.used).sum())
    if excluded:
        warnings.append(f"{excluded} of {len(optima.c)} compute values are left out, where no "
                        "smaller or no larger size has a curve to compare with")
    if last < 1:
        warnings.append(f"{1 - last:.0%} of the envelope is before the last {FINAL_SHARE:.0%} of "
                        "its run: with a decaying learning rate those losses are not final losses, "
                        "and a run that ended there would have a lower loss, so N* of short runs "
                        "is biased")
    noise = point_noise(losses)
    warnings.append("the lowest of many losses is low by chance: the envelope is below the "
                    "expected losses, and seed noise biases a towards zero, for which the "
                    "intervals do not account; approach-2 and chinchilla average over seed noise")
    if noise > _NOISE:
        warnings.append(f"the losses scatter by about {noise:.1%} between points; smooth the "
                        "curves, or smooth over a wider window")
    sizes = len(np.unique(optima.kept.n))
    if sizes < 5:
        warnings.append(f"the envelope passes through only {sizes} sizes, so N* changes in {sizes} "
                        "steps and the exponent depends on their positions; train more sizes")
    if not n.determined:
        warnings.append("too few runs for subsamples of them: there are no intervals")
    return warnings
