"""A power law of compute by least squares in log-log, with exact small-sample intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from scaling.laws.law import LEVEL, Interval

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """The power law y = coefficient * C^exponent, as ln y = level + exponent (ln C - centre).

    `covariance` is that of level and exponent, as (variance, covariance, variance). Intervals use
    Student's t with `dof` degrees of freedom; there are none if `dof` is zero.
    """

    centre: float
    level: float
    exponent: float
    covariance: tuple[float, float, float]
    dof: float

    @property
    def coefficient(self) -> float:
        """y at C = 1 FLOP."""
        return _exp(self.level - self.exponent * self.centre)

    @property
    def determined(self) -> bool:
        """Whether there are intervals."""
        return self.dof > 0 and all(map(math.isfinite, self.covariance))

    def at(self, c: float) -> float:
        """y at C FLOP."""
        return _exp(self.level + self.exponent * (math.log(c) - self.centre))

    def se(self, c: float) -> float | None:
        """Standard error of ln y at C FLOP."""
        if not self.determined:
            return None
        x = math.log(c) - self.centre
        vv, vs, ss = self.covariance
        return math.sqrt(max(0.0, vv + 2 * x * vs + x * x * ss))

    def interval(self, c: float) -> Interval | None:
        """90% confidence interval of the line at C FLOP."""
        error = self.se(c)
        if error is None:
            return None
        half_width = self._quantile() * error
        return self.at(c) * _exp(-half_width), self.at(c) * _exp(half_width)

    @property
    def exponent_se(self) -> float | None:
        """Standard error of the exponent."""
        return math.sqrt(self.covariance[2]) if self.determined else None

    @property
    def exponent_interval(self) -> Interval | None:
        """90% confidence interval of the exponent."""
        error = self.exponent_se
        if error is None:
            return None
        half_width = self._quantile() * error
        return self.exponent - half_width, self.exponent + half_width

    def _quantile(self) -> float:
        return float(stdtrit(self.dof, (1 + LEVEL) / 2))


def _exp(x: float) -> float:
    """e^x; infinity on overflow."""
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def fit_log_line(c: Array, y: Array, weights: Array | None = None) -> Line:
    """Least squares of ln y against ln C.

    Args:
        c: FLOP, [R], at least two distinct.
        y: positive, [R].
        weights: relative inverse variances of ln y, [R]; equal by default. Only their ratios
            matter: the size of the variances is estimated from the scatter about the line.
    """
    w = np.ones(len(c)) if weights is None else weights / weights.mean()
    x, z = np.log(c), np.log(y)
    centre = float(np.average(x, weights=w))
    level = float(np.average(z, weights=w))
    x = x - centre
    spread = float(w @ x**2)
    slope = float(w @ (x * z)) / spread
    dof = len(c) - 2
    variance = float(w @ (z - level - slope * x) ** 2) / dof if dof > 0 else math.nan
    return Line(centre, level, slope, (variance / float(w.sum()), 0.0, variance / spread), dof)
