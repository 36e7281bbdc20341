"""Approach 1: the lower envelope of training curves.

Hoffmann et al. 2022, section 3.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.approaches.line import Line, log_line
from scaling.laws.approaches.optima import Optima
from scaling.laws.runs.table import FLOPS_PER_PARAMETER_TOKEN

Array = NDArray[np.float64]

POINTS = 1500
"""Compute values at which the envelope is looked up (Hoffmann et al. 2022, section 3.1)."""
LAST = 0.15
"""Part of a run at its end, in tokens, in which a decaying rate is near its end (Hoffmann et al.
2022, section 3.1, who find their envelope there)."""

_SHARE, _RESAMPLES = 0.8, 200  # of the runs that a subsample keeps (the paper's), and how many
_NOISE = 1e-4                  # of log-loss from point to point, below which none is spoken of


@dataclass(frozen=True)
class Curves:
    """Losses on the way: one entry a point, [P], of `run`, a number from 0 for each run.

    `n` parameters, `d` tokens seen, ascending within a run, and `loss` in nats per token.
    """

    run: NDArray[np.intp]
    n: Array
    d: Array
    loss: Array
    run_id: tuple[str, ...]

    @property
    def c(self) -> Array:
        """FLOPs spent so far, 6 N D."""
        return FLOPS_PER_PARAMETER_TOKEN * self.n * self.d

    def rows(self, run: int) -> NDArray[np.intp]:
        """The points of one run."""
        return np.flatnonzero(self.run == run)


def curves_from_frame(
    frame: pd.DataFrame, source: str, *, run: str = "run_id", n: str = "n", d: str = "d",
    loss: str = "loss",
) -> Curves:
    """Training curves from a table with one row a point; `source` names it in messages.

    Args:
        frame: the table.
        source: what to call it.
        run: column of the run's name.
        n: column of parameters.
        d: column of tokens seen so far.
        loss: column of losses in nats per token.

    Raises:
        UserError: a column is missing, a number is none, or a run changes its size.
    """
    for column in (run, n, d, loss):
        if column not in frame.columns:
            raise UserError(f"{source}: has no column {column}; training curves need one row for "
                            "each point, with columns of the run, its parameters, the tokens "
                            f"seen and the loss; it has {', '.join(map(str, frame.columns))}")
    if frame.empty:
        raise UserError(f"{source}: has a header and no rows; points of curves are expected")
    numbers = {}
    for column in (n, d, loss):
        values = pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=np.float64)
        fine = np.isfinite(values) & (values > 0)
        if not fine.all():
            place = int(np.argmin(fine))
            raise UserError(f"{source}: row {place + 1}, column {column}: "
                            f"{frame[column].iloc[place]!r}, where a positive number is "
                            "expected; mend it, or drop the row")
        numbers[column] = values
    names, runs = np.unique(frame[run].astype(str).to_numpy(dtype=str), return_inverse=True)
    order = np.lexsort((numbers[d], runs))
    size, tokens, run_of = numbers[n][order], numbers[d][order], runs[order].astype(np.intp)
    same = run_of[1:] == run_of[:-1]
    for wrong, what in ((size[1:] != size[:-1], f"has more than one {n}"),
                        (tokens[1:] == tokens[:-1], f"has two rows of the same {d}")):
        if (same & wrong).any():
            name = names[run_of[int(np.argmax(same & wrong))]]
            raise UserError(f"{source}: run {name} {what}; every run has one size, and one loss "
                            "at each number of tokens")
    return Curves(run_of, size, tokens, numbers[loss][order], tuple(map(str, names)))


@dataclass(frozen=True)
class Envelope:
    """The envelope and the power laws through it. `optima` has an entry for each compute value."""

    optima: Optima
    n: Line
    d: Line
    warnings: tuple[str, ...]


def envelope(
    curves: Curves, *, points: int = POINTS, smooth: float = 0.0, resamples: int = _RESAMPLES,
    seed: int = 0,
) -> Envelope:
    """The lowest loss at each of many compute values, whose it is, and N* and D* against C.

    Each run's log-loss is interpolated in ln C, linearly, between its first point and its last.
    At each value of C the run with the lowest counts, if runs of smaller and of larger sizes have
    a curve there; elsewhere the envelope is that of the sizes that happened to be trained.

    The envelope's points are not independent, so the spread comes from runs: as in the paper
    (Table 2) subsamples leave out a fifth of them. A subsample of a share f of the runs scatters
    about the whole by (1 - f)/f of the variance that the whole has, and the covariance is scaled
    accordingly.

    The intervals do not know what luck does. Sizes end somewhere, so a lucky run at the small ones
    is too large and at the large ones too small: in trials with 60 sizes over three decades,
    alpha = beta and 60 tables, a was .500, .470 and .437 where seeds moved the losses by 0, .3%
    and 1%, and 98%, 83% and 38% of the intervals held .5.

    Args:
        curves: points of many runs.
        points: values of C, evenly spaced in ln C over all curves.
        smooth: half-width, in ln D, of the window in which a straight line in ln D is put
            through the log-loss and takes its place; 0 takes the points as they are. The paper
            smooths, and does not say how.
        resamples: subsamples; 0 for no intervals.
        seed: of the subsamples.

    Raises:
        UserError: the curves have too little in common for an envelope.
    """
    if points < 2 or not 0 <= smooth < math.inf:
        raise UserError(f"approach-1: {points} points, smoothing over {smooth:g}: at least 2 "
                        "points, and a width in ln D from zero on, are expected")
    log_c = np.linspace(math.log(curves.c.min()), math.log(curves.c.max()), points)
    runs = len(curves.run_id)
    size, end = np.empty(runs), np.empty(runs)
    log_loss = np.full((runs, points), np.nan)
    steps: list[Array] = []
    for run in range(runs):
        rows = curves.rows(run)
        size[run], end[run] = curves.n[rows[0]], curves.d[rows[-1]]
        y = np.log(curves.loss[rows])
        log_d = np.log(curves.d[rows])
        y = smoothed(log_d, y, smooth) if smooth else y
        steps.append(np.diff(y, 4))
        log_loss[run] = np.interp(log_c, np.log(curves.c[rows]), y, left=np.nan, right=np.nan)
    best, used = _winners(log_loss, size)
    found = _optima(log_c, log_loss, size, best, used)
    kept = found.kept
    if len(np.unique(kept.n)) < 2:
        raise UserError(
            f"approach-1: the envelope of {runs} runs of {len(np.unique(size))} sizes passes "
            f"through {len(np.unique(kept.n))} sizes that have both smaller and larger ones beside "
            "them, where at least 2 are needed; train more sizes, or overlapping ranges of C")
    fits = log_line(kept.c, kept.n), log_line(kept.c, kept.d)
    n, d = _with_spread(fits, log_c, log_loss, size, resamples, seed)
    last = kept.d >= (1 - LAST) * end[best[found.used]]
    return Envelope(found, n, d, tuple(_warnings(found, float(last.mean()), steps, n)))


def smoothed(x: Array, y: Array, half_width: float) -> Array:
    """At each x, the straight line through the points no further than `half_width` from it.

    A mean would raise the end of a falling curve, which is where it is read off.
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


def _winners(log_loss: Array, size: Array) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """The run that is lowest at each C, and whether smaller and larger sizes are there: [C] each.
    """
    there = np.isfinite(log_loss)
    best = np.where(there, log_loss, np.inf).argmin(axis=0)
    beside = np.where(there, size[:, None], np.nan)
    smaller = (beside < size[best]).any(axis=0)
    larger = (beside > size[best]).any(axis=0)
    return best, np.asarray(smaller & larger)


def _optima(
    log_c: Array, log_loss: Array, size: Array, best: NDArray[np.intp], used: NDArray[np.bool_]
) -> Optima:
    c, n = np.exp(log_c), size[best]
    loss = np.exp(log_loss[best, np.arange(len(c))])
    reason = tuple("" if ok else "no smaller or no larger size has a curve there" for ok in used)
    return Optima(c, n, c / (FLOPS_PER_PARAMETER_TOKEN * n), loss, np.full(len(c), np.nan),
                  used & np.isfinite(loss), reason)


def _with_spread(
    fits: tuple[Line, Line], log_c: Array, log_loss: Array, size: Array, resamples: int, seed: int
) -> tuple[Line, Line]:
    """The lines with the covariance that subsamples of the runs give them."""
    runs = len(size)
    keep = round(_SHARE * runs)
    rng = np.random.default_rng(seed)
    draws: list[list[tuple[float, float]]] = [[], []]
    for _ in range(resamples if keep < runs else 0):
        rows = np.sort(rng.permutation(runs)[:keep])
        best, used = _winners(log_loss[rows], size[rows])
        n = size[rows][best[used]]
        if len(np.unique(n)) < 2:
            continue
        c = np.exp(log_c[used])
        for place, y in enumerate((n, c / (FLOPS_PER_PARAMETER_TOKEN * n))):
            line = log_line(c, y)
            level = line.level + line.exponent * (fits[place].centre - line.centre)
            draws[place].append((level, line.exponent))
    if len(draws[0]) < max(2, resamples // 2):
        lines = [Line(f.centre, f.level, f.exponent, (math.nan,) * 3, 0) for f in fits]
    else:
        scale = keep / (runs - keep)
        lines = []
        for fit, drawn in zip(fits, draws, strict=True):
            spread = np.cov(np.array(drawn).T) * scale
            lines.append(Line(fit.centre, fit.level, fit.exponent,
                              (float(spread[0, 0]), float(spread[0, 1]), float(spread[1, 1])),
                              math.inf))
    return lines[0], lines[1]


def _warnings(found: Optima, last: float, steps: list[Array], n: Line) -> list[str]:
    out = []
    lost = int((~found.used).sum())
    if lost:
        out.append(f"{lost} of {len(found.c)} compute values are left out, where no smaller or no "
                   "larger size has a curve to compare with")
    if last < 1:
        out.append(f"{1 - last:.0%} of the envelope lies before the last {LAST:.0%} of its run: "
                   "with a decaying learning rate those losses are not final losses, and a run "
                   "that ended there would be lower, so N* of short trainings is off")
    bends = np.concatenate(steps)
    # Fourth differences see next to nothing of a smooth curve, and have 70 times the variance of
    # independent noise. The median keeps the steep beginnings of curves from counting as noise.
    noise = float(np.median(np.abs(bends)) / 0.6745 / math.sqrt(70)) if len(bends) else 0.0
    out.append("the lowest of many runs is a lucky one: the envelope lies below the losses to "
               "expect, and what seeds do to the losses pulls a towards zero, which the intervals "
               "do not know; approach-2 and chinchilla average over luck")
    if noise > _NOISE:
        out.append(f"the losses scatter by about {noise:.1%} from point to point; smooth the "
                   "curves, or more of them together")
    sizes = len(np.unique(found.kept.n))
    if sizes < 5:
        out.append(f"the envelope passes through {sizes} sizes only, so N* moves in {sizes} steps "
                   "and the exponent hangs on where they begin; train more sizes")
    if not n.determined:
        out.append("too few runs for subsamples of them: there are no intervals")
    return out
