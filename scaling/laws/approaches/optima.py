"""The lowest loss of every budget: where it is, how well that is known, and whether to trust it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.approaches.budgets import Budget

Array = NDArray[np.float64]
Noise = float | Callable[[float], float]
"""Standard deviation of the log-loss from run to run: one number, or a function of the budget in
FLOP."""

OFF_CENTRE = 0.5
"""How far a parabola's minimum may lie from the middle of its grid, in half-widths of the grid.

A parabola through a skewed valley, f''' not zero, misses its minimum by (f'''/f'')(m^2/2 - W^2/10)
in ln N, where W is the half-width of the grid and m its distance from the minimum. Beyond
m = .45 W the miss grows as m^2, and at .63 W it is larger than that of a centred grid; where m is
not the same at every budget it moves the exponent. Half is about where the miss is smallest."""


@dataclass(frozen=True)
class Optima:
    """Optimal sizes, [B] each: `c` in FLOP, `n` parameters, `d` tokens, `loss` in nats per token.

    `n_se` is the standard error of ln N*, NaN where nothing tells it. Budgets that are not `used`
    stay, with the `reason`; what could not be worked out for them is NaN.
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
        """Those that are used."""
        rows = np.flatnonzero(self.used)
        return self.take(rows)

    def take(self, rows: NDArray[np.intp]) -> Optima:
        """Some of them."""
        return Optima(self.c[rows], self.n[rows], self.d[rows], self.loss[rows], self.n_se[rows],
                      self.used[rows], tuple(self.reason[row] for row in rows))

    @property
    def warnings(self) -> tuple[str, ...]:
        """One for each budget that is not used."""
        return tuple(f"the budget of {c:.4g} FLOP is left out: {reason}"
                     for c, used, reason in zip(self.c, self.used, self.reason, strict=True)
                     if not used)


@dataclass(frozen=True)
class Minimum:
    """What a method found in one budget: ln N*, its standard error, and the loss there.

    `problem` says why there is no such point; `log_n` may be a guess then, or NaN.
    """

    log_n: float
    log_n_se: float
    loss: float
    problem: str = ""


def too_few(budget: Budget, least: int) -> Minimum | None:
    """What to say of a budget with fewer distinct sizes than a method needs."""
    there = len(budget.sizes)
    if there >= least:
        return None
    return Minimum(math.nan, math.nan, math.nan,
                   f"it has {there} distinct size{'s' * (there != 1)}, where {least} are needed; "
                   "train more sizes at this budget")


@dataclass(frozen=True)
class Screen:
    """Which optima count.

    edge: the least distance of a minimum from either end of the grid, in steps of the grid at
        that end, though never more than a quarter of the grid: with three or four sizes a whole
        step would leave nothing. Zero leaves out only minima at an end or beyond it.
    off_centre: the most that a minimum may lie from the middle, in half-widths of the grid.
    """

    edge: float = 1.0
    off_centre: float = OFF_CENTRE

    def reason(self, budget: Budget, found: Minimum) -> str:
        """Why the optimum does not count; empty where it does."""
        if found.problem:
            return found.problem
        sizes = budget.sizes
        low, high = sizes[0], sizes[-1]
        n = math.exp(min(found.log_n, 700.0))
        for outside, inside, word, end, step in (
            (low - found.log_n, found.log_n - low, "smaller", low, sizes[1] - low),
            (found.log_n - high, high - found.log_n, "larger", high, high - sizes[-2]),
        ):
            if outside >= 0:
                return (f"its lowest loss would be at N = {n:.3g}, not between the sizes that "
                        f"were trained (the grid ends at {math.exp(end):.3g}); train {word} sizes "
                        "at this budget")
            if inside < min(self.edge * step, (high - low) / 4) * (1 - 1e-9):
                return (f"its lowest loss, at N = {n:.3g}, is nearer than a step of the grid to "
                        f"the grid's end at {math.exp(end):.3g}; train {word} sizes at this "
                        "budget")
        aside = (2 * found.log_n - low - high) / (high - low)
        if abs(aside) > self.off_centre:
            word = "larger" if aside > 0 else "smaller"
            return (f"its grid is off-centre: the lowest loss, at N = {n:.3g}, lies "
                    f"{abs(aside):.2f} of the grid's half-width from its middle "
                    f"({math.exp((low + high) / 2):.3g}), where at most {self.off_centre:.2f} "
                    f"keeps the parabola's bias small; train {word} sizes at this budget, or "
                    "leave out sizes at the other end")
        if found.log_n_se > (high - low) / 2:
            return (f"its valley is too flat for its noise: the standard error of ln N* is "
                    f"{found.log_n_se:.2g}, more than half of the grid; train a wider grid, or "
                    "more seeds")
        return ""


def screened(budgets: list[Budget], found: list[Minimum], screen: Screen) -> Optima:
    """The optima of all budgets, with those marked that do not count."""
    reasons = tuple(screen.reason(b, m) for b, m in zip(budgets, found, strict=True))
    with np.errstate(over="ignore"):
        n = np.exp(np.array([m.log_n for m in found]))
    return Optima(
        c=np.array([b.c for b in budgets]), n=n,
        d=np.array([b.tokens(m.log_n) for b, m in zip(budgets, found, strict=True)]),
        loss=np.array([m.loss for m in found]), n_se=np.array([m.log_n_se for m in found]),
        used=np.array([not reason for reason in reasons], dtype=bool), reason=reasons,
    )


def noise_at(noise: Noise, c: float) -> float:
    """The standard deviation of the log-loss at a budget.

    Raises:
        UserError: it is not a number from zero on.
    """
    value = float(noise(c) if callable(noise) else noise)
    if not 0 <= value < math.inf:
        raise UserError(f"noise at {c:.3g} FLOP is {value:g}; a standard deviation of the "
                        "log-loss from run to run is expected, such as 0.002")
    return value


def noise_of_seeds(budgets: list[Budget]) -> float | None:
    """Standard deviation of the log-loss between runs of the same size and budget, pooled; None
    where there are none."""
    squares, freedom = 0.0, 0
    for budget in budgets:
        _, place = np.unique(budget.log_n, return_inverse=True)
        means, counts = budget.by_size()
        squares += float(np.sum((np.log(budget.loss) - means[place]) ** 2))
        freedom += int(counts.sum()) - len(counts)
    return math.sqrt(squares / freedom) if freedom else None
