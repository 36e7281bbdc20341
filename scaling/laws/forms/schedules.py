"""Learning rate schedules as data, and sums over all steps of one, evaluated at few nodes.

Laws of whole loss curves contain sums over all steps k up to the step t of a row, of a measure (the
drops of the learning rate, or their squares) times a kernel of the distance from k to t, whose
parameters are fitted. `history` replaces the measure by a few weighted nodes per row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling.errors import UserError

Array = NDArray[np.float64]
Measure = Literal["drops", "squares"]
"""What is summed over the steps: the drops of the rate after the warm-up, or the squared rates."""

MOST_STEPS = 10_000_000
MOST_KNOTS = 20_000
MOST_SCHEDULES = 1_000
_TOLERANCE = 1e-5   # of the peak rate, by which interpolated rates may differ from given ones
_SINGLE = 4         # steps before t that have a cell of their own
_GROWTH = 1.5       # ratio of the distances from t at which further cells begin and end
_POINT = 1e-9       # relative variance of a measure that is at one step


@dataclass(frozen=True)
class Schedule:
    """A learning rate schedule: the rate of every step, linear between knots.

    Steps are counted from 1 and include the warm-up.

    Attributes:
        steps: the steps of the knots, increasing integers, the first of which is 0 or 1.
        rates: the learning rates at the knots.
    """

    steps: tuple[int, ...]
    rates: tuple[float, ...]

    @property
    def last(self) -> int:
        """The last step."""
        return self.steps[-1]

    @property
    def warmup(self) -> int:
        """The number of steps at the start, each of which is followed by a higher rate."""
        rises = np.diff(self.rates) > 0
        return max(0, self.steps[int(np.argmin(np.append(rises, False)))] - 1)


def schedule(name: str, given: ArrayLike) -> Schedule:
    """A schedule from the rate of each step, [T], or from pairs of a step and its rate, [K, 2],
    between which the rate is linear.

    It keeps as few of them as linear interpolation needs to be exact to 1e-5 of the largest rate.

    Raises:
        UserError: these are no rates or knots.
    """
    try:
        values = np.array(given, dtype=float)
    except (TypeError, ValueError, OverflowError):
        values = np.empty(0)
    if values.ndim == 1:
        values = np.stack([np.arange(1.0, len(values) + 1), values], axis=-1)
    if values.ndim != 2 or values.shape[1] != 2 or len(values) < 2:
        raise UserError(f"schedule {name}: the learning rate of each step, or pairs of a step and "
                        "a rate, at least two, are expected")
    steps, rates = values.T
    _check(name, steps, rates)
    kept = _knots(steps, rates, _TOLERANCE * float(rates.max()))
    if len(kept) > MOST_KNOTS:
        raise UserError(f"schedule {name}: its rate is not linear between fewer than {len(kept):,} "
                        f"steps, where at most {MOST_KNOTS:,} are allowed; smooth it")
    return Schedule(tuple(map(int, steps[kept])), tuple(map(float, rates[kept])))


def _check(name: str, steps: Array, rates: Array) -> None:
    wrong = ~(np.isfinite(steps) & (steps >= 0) & (steps <= MOST_STEPS) & (steps % 1 == 0))
    if wrong.any():
        raise UserError(f"schedule {name}: step {steps[wrong][0]:g}, where an integer from 0 to "
                        f"{MOST_STEPS:,} is expected")
    backward = np.flatnonzero(np.diff(steps) <= 0)
    if len(backward):
        raise UserError(f"schedule {name}: step {steps[backward[0] + 1]:g} comes after step "
                        f"{steps[backward[0]]:g}, where increasing steps are expected; sort them, "
                        "and give each once")
    if steps[0] > 1:
        raise UserError(f"schedule {name}: begins at step {steps[0]:g}, where 0 or 1 is expected; "
                        "add its first rates")
    wrong = ~(np.isfinite(rates) & (rates >= 0))
    if wrong.any():
        raise UserError(f"schedule {name}: a learning rate of {rates[wrong][0]:g} at step "
                        f"{steps[wrong][0]:g}, where a non-negative number is expected")
    if not (rates > 0).any():
        raise UserError(f"schedule {name}: all learning rates are zero, where at least one "
                        "positive rate is expected")


def _knots(steps: Array, rates: Array, tolerance: float) -> NDArray[np.intp]:
    """Indices between which linear interpolation of the rates is within the tolerance (Ramer 1972,
    Douglas and Peucker 1973, with vertical distances)."""
    kept = {0, len(rates) - 1}
    open_spans = [(0, len(rates) - 1)]
    while open_spans:
        first, last = open_spans.pop()
        if last - first < 2:
            continue
        span, ends = slice(first, last + 1), [first, last]
        error = np.abs(rates[span] - np.interp(steps[span], steps[ends], rates[ends]))
        worst = int(np.argmax(error))
        if error[worst] > tolerance:
            kept.add(first + worst)
            open_spans += [(first, first + worst), (first + worst, last)]
    return np.array(sorted(kept), dtype=np.intp)


@dataclass(frozen=True)
class History:
    """The schedules up to the steps of R rows, with K nodes for each row.

    Attributes:
        area: sum of the rates up to the step of each row, warm-up included, [R].
        weight: the measure at each node, [R, K], zero for nodes that a row does not need.
        distance: sum of the rates from the node's step to that of the row, [R, K]. The node's own
            step is part of it for drops, as in S_k of Luo et al., and not for squares.
        log_rate: logarithm of the rate at each node, [R, K].
    """

    area: Array
    weight: Array
    distance: Array
    log_rate: Array


def history(
    schedules: Sequence[Schedule], warmup: int | None, measure: Measure, step_R: Array,
    schedule_R: Array,
) -> History:
    """The nodes of each row.

    The steps up to that of a row are divided into cells whose lengths grow with the distance from
    it. Gaussian quadrature with two nodes replaces the measure in each cell, which is exact for a
    single drop, and for kernels that are cubic polynomials within a cell.

    Args:
        schedules: the schedules.
        warmup: number of warm-up steps; the changes of the rate up to the first step after them
            are no drops. None for those of each schedule.
        measure: what is summed.
        step_R: the step of each row, at most the last one of its schedule, [R].
        schedule_R: the number of each row's schedule, [R].
    """
    return _history(tuple(schedules), warmup, measure, np.asarray(step_R, dtype=float).tobytes(),
                    np.asarray(schedule_R, dtype=float).tobytes())


@lru_cache(maxsize=4)  # a fit asks for the same rows again and again
def _history(
    schedules: tuple[Schedule, ...], warmup: int | None, measure: Measure, steps: bytes,
    numbers: bytes,
) -> History:
    step_R = np.floor(np.frombuffer(steps)).astype(np.intp)
    number_R = np.frombuffer(numbers).round().astype(np.intp)
    area = np.zeros(len(step_R))
    nodes: list[Array] = [np.empty((3, 0))] * len(step_R)
    for number in np.unique(number_R):
        rows = np.flatnonzero(number_R == number)
        curve = _Curve(schedules[number], int(step_R[rows].max()), warmup)
        area[rows] = curve.total[step_R[rows]]
        distinct, index = np.unique(step_R[rows], return_inverse=True)
        found = [curve.squares(t) if measure == "squares" else curve.drops(t)
                 for t in distinct.tolist()]
        for row, i in zip(rows.tolist(), index.tolist(), strict=True):
            nodes[row] = found[i]
    width = max((each.shape[1] for each in nodes), default=0)
    padded = np.zeros((3, len(step_R), width))
    for row, each in enumerate(nodes):
        padded[:, row, :each.shape[1]] = each
    for array in (area, padded):
        array.flags.writeable = False
    return History(area, *padded)


class _Curve:
    """The rates of a schedule up to a step, one for each."""

    def __init__(self, of: Schedule, last: int, warmup: int | None) -> None:
        self.step = np.arange(1, last + 1)
        self.rate = np.interp(self.step, of.steps, of.rates)
        self.total = np.concatenate([[0.0], np.cumsum(self.rate)])
        drop = -np.diff(self.rate, prepend=self.rate[:1])
        drop[:(of.warmup if warmup is None else warmup) + 1] = 0
        self.signed = [(sign, part) for sign in (1.0, -1.0)
                       if (part := np.maximum(sign * drop, 0)).any()]
        edges = [*range(min(_SINGLE, last) + 1)]
        while edges[-1] < last:
            edges.append(int(np.ceil(edges[-1] * _GROWTH)))
        self.edges = np.array(edges[:-1])
        self.cell = np.repeat(self.edges, np.diff(edges))[:last]

    def drops(self, t: int) -> Array:
        """Weight, distance and log rate of nodes of the drops up to step t, [3, K]."""
        behind = np.arange(t, dtype=float)
        parts = []
        for sign, drop in self.signed:
            weight, at = self._gauss(drop[:t][::-1], behind)
            at = np.clip(t - at, 1, t)
            before = np.interp(at - 1, np.arange(len(self.total)), self.total)
            # A drop to a rate of zero has no rates behind it, and no effect.
            rate = np.maximum(np.interp(at, self.step, self.rate), 1e-300)
            parts.append(np.stack([sign * weight, self.total[t] - before, np.log(rate)]))
        return np.hstack(parts) if parts else np.empty((3, 0))

    def squares(self, t: int) -> Array:
        """Weight and distance of nodes of the squared rates up to step t, and zeros, [3, K]."""
        unit = self.rate.max()
        behind = (self.total[t] - self.total[1:t + 1])[::-1] / unit
        weight, distance = self._gauss((self.rate[:t]**2)[::-1], behind)
        return np.stack([weight, distance * unit, np.zeros(len(weight))])

    def _gauss(self, measure: Array, behind: Array) -> tuple[Array, Array]:
        """Weights and positions of two nodes for each cell in which there is a measure.

        Args:
            measure: that of each step, backward from t, non-negative, [t].
            behind: the position of each step, at least 0 and increasing, [t].
        """
        begin = self.edges[self.edges < len(measure)]
        u = behind - behind[self.cell[:len(measure)]]
        moments = np.stack([np.add.reduceat(measure * u**power, begin) for power in range(4)])
        begin, (m0, m1, m2, m3) = begin[moments[0] > 0], moments[:, moments[0] > 0]
        mean, m2, m3 = m1 / m0, m2 / m0, m3 / m0
        variance = m2 - mean**2
        is_point = variance < _POINT * (1 + mean**2)
        variance[is_point] = 0
        third = np.where(is_point, 0.0, m3 - 3 * mean * variance - mean**3)
        skew = third / np.where(is_point, 1.0, variance)**1.5
        root, centre, deviation = np.sqrt(skew**2 + 4), behind[begin] + mean, np.sqrt(variance)
        return (np.hstack([m0 * (1 + skew / root) / 2, m0 * (1 - skew / root) / 2]),
                np.hstack([centre + deviation * (skew - root) / 2,
                           centre + deviation * (skew + root) / 2]))
