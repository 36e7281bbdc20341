"""The minimum of every isoFLOP profile, its standard error, and the criteria for using it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.approaches.isoflop import IsoFlopProfile

Array = NDArray[np.float64]
LossNoise = float | Callable[[float], float]
"""Standard deviation of the log-loss between runs: a number, or a function of the budget in FLOP.
"""

OFF_CENTRE = 0.5
"""Largest distance of a parabola's minimum from the middle of its grid, in half-widths of the grid.

The minimum of a parabola through a skewed valley, f''' not zero, is off by
(f'''/f'')(m^2/2 - W^2/10) in ln N, where W is the half-width of the grid and m the distance of its
middle from the minimum. Beyond m = .45 W the error grows as m^2, and at .63 W it is larger than
that of a centred grid; if m differs between budgets it biases the exponent. The error is smallest
near half a width."""


@dataclass(frozen=True)
class Optima:
    """The optimal size of every budget.

    Attributes:
        c: budget in FLOP, [B].
        n: N*, parameters, [B]; NaN if it could not be computed, like `d` and `loss`.
        d: D*, tokens, [B].
        loss: loss at the optimum, nats per token, [B].
        n_se: standard error of ln N*, [B]; NaN if unknown.
        used: whether the power laws are fitted to the optimum, [B].
        reason: why an optimum is not used; empty if it is.
    """

    c: Array
    n: Array
    d: Array
    loss: Array
    n_se: Array
    used: NDArray[np.bool_]
    reason: tuple[str, ...]

    @property
    def kept(self) -> Optima:
        """The optima that are used."""
        rows = np.flatnonzero(self.used)
        return self.take(rows)

    def take(self, rows: NDArray[np.intp]) -> Optima:
        """The optima with the given indices."""
        return Optima(self.c[rows], self.n[rows], self.d[rows], self.loss[rows], self.n_se[rows],
                      self.used[rows], tuple(self.reason[row] for row in rows))

    @property
    def warnings(self) -> tuple[str, ...]:
        """One warning for each optimum that is not used."""
        return tuple(f"the budget of {c:.4g} FLOP is left out: {reason}"
                     for c, used, reason in zip(self.c, self.used, self.reason, strict=True)
                     if not used)


@dataclass(frozen=True)
class ProfileMinimum:
    """The minimum of one isoFLOP profile: ln N*, its standard error, and the loss there.

    If there is no minimum, `problem` gives the reason, and `log_n` is an estimate or NaN.
    """

    log_n: float
    log_n_se: float
    loss: float
    problem: str = ""


def too_few_sizes(profile: IsoFlopProfile, needed: int) -> ProfileMinimum | None:
    """A minimum with a `problem` if the profile has too few distinct sizes, otherwise None."""
    count = len(profile.sizes)
    if count >= needed:
        return None
    return ProfileMinimum(math.nan, math.nan, math.nan,
                          f"it has {count} distinct size{'s' * (count != 1)}, where {needed} are "
                          "needed; train more sizes at this budget")


@dataclass(frozen=True)
class Screen:
    """Criteria for using an optimum.

    Attributes:
        edge: smallest distance of a minimum from either end of the grid, in steps of the grid at
            that end, but at most a quarter of the grid, because with three or four sizes a whole
            step would exclude every minimum. Zero excludes only minima at or beyond an end.
        off_centre: largest distance of a minimum from the middle, in half-widths of the grid.
    """

    edge: float = 1.0
    off_centre: float = OFF_CENTRE

    def reason(self, profile: IsoFlopProfile, minimum: ProfileMinimum) -> str:
        """Why the minimum is not used; empty if it is."""
        if minimum.problem:
            return minimum.problem
        sizes = profile.sizes
        low, high = sizes[0], sizes[-1]
        n = math.exp(min(minimum.log_n, 700.0))
        for outside, inside, word, end, step in (
            (low - minimum.log_n, minimum.log_n - low, "smaller", low, sizes[1] - low),
            (minimum.log_n - high, high - minimum.log_n, "larger", high, high - sizes[-2]),
        ):
            if outside >= 0:
                return (f"its lowest loss would be at N = {n:.3g}, outside the trained sizes (the "
                        f"grid ends at {math.exp(end):.3g}); train {word} sizes at this budget")
            if inside < min(self.edge * step, (high - low) / 4) * (1 - 1e-9):
                return (f"its lowest loss, at N = {n:.3g}, is less than a step of the grid from "
                        f"the end of the grid at {math.exp(end):.3g}; train {word} sizes at this "
                        "budget")
        offset = (2 * minimum.log_n - low - high) / (high - low)
        if abs(offset) > self.off_centre:
            word = "larger" if offset > 0 else "smaller"
            return (f"its grid is off-centre: the lowest loss, at N = {n:.3g}, is "
                    f"{abs(offset):.2f} of the grid's half-width from its middle "
                    f"({math.exp((low + high) / 2):.3g}), where at most {self.off_centre:.2f} "
                    f"keeps the parabola's bias small; train {word} sizes at this budget, or "
                    "leave out sizes at the other end")
        if minimum.log_n_se > (high - low) / 2:
            return (f"its valley is too flat for its noise: the standard error of ln N* is "
                    f"{minimum.log_n_se:.2g}, more than half of the grid; train a wider grid, or "
                    "more seeds")
        return ""


def screen_optima(
    profiles: list[IsoFlopProfile], minima: list[ProfileMinimum], screen: Screen
) -> Optima:
    """The optima of all budgets, with `used` and `reason` according to the criteria."""
    reasons = tuple(screen.reason(p, m) for p, m in zip(profiles, minima, strict=True))
    with np.errstate(over="ignore"):
        n = np.exp(np.array([m.log_n for m in minima]))
    return Optima(
        c=np.array([p.c for p in profiles]), n=n,
        d=np.array([p.tokens_at(m.log_n) for p, m in zip(profiles, minima, strict=True)]),
        loss=np.array([m.loss for m in minima]), n_se=np.array([m.log_n_se for m in minima]),
        used=np.array([not reason for reason in reasons], dtype=bool), reason=reasons,
    )


def noise_at(noise: LossNoise, c: float) -> float:
    """The standard deviation of the log-loss at a budget of c FLOP.

    Raises:
        UserError: the noise there is not a non-negative number.
    """
    try:
        value = float(noise(c) if callable(noise) else noise)
    except UserError:
        raise
    except Exception as error:  # of a function that the user wrote
        raise UserError(f"noise at {c:.3g} FLOP: a number is expected of the function, and it "
                        f"raises or returns something else ({error!s:.80})") from None
    if not 0 <= value < math.inf:
        raise UserError(f"noise at {c:.3g} FLOP is {value:g}, where a standard deviation of the "
                        "log-loss between runs is expected, such as 0.002")
    return value


def seed_noise(profiles: list[IsoFlopProfile]) -> float | None:
    """Pooled standard deviation of the log-loss between runs of the same size and budget; None if
    no two runs share both."""
    squares, dof = 0.0, 0
    for profile in profiles:
        _, size_index = np.unique(profile.log_n, return_inverse=True)
        means, counts = profile.mean_log_loss()
        squares += float(np.sum((np.log(profile.loss) - means[size_index]) ** 2))
        dof += int(counts.sum()) - len(counts)
    return math.sqrt(squares / dof) if dof else None
