"""Scores of forecasts: errors, coverage of the intervals, sharpness and calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import betaincinv

from scaling.laws.law import LEVEL, Interval
from scaling.laws.show import PrintableResult


class CalibrationPoint(NamedTuple):
    """The outcomes at or below one predicted quantile."""

    probability: float
    """Of the quantile: the share of outcomes that is expected."""
    below: int
    outcomes: int


@dataclass(frozen=True)
class ForecastScores(PrintableResult):
    """Scores of several forecasts. Those that need what no forecast has are None.

    Attributes:
        outcomes: number of outcomes; several runs of one forecast are one each.
        mean_absolute_error: mean of |predicted / measured - 1|.
        median_absolute_error: median of the same.
        median_error: median of predicted / measured - 1, the bias.
        with_interval: number of outcomes with a predicted interval.
        inside: number of these inside it.
        coverage: the share of these.
        coverage_interval: 90% Clopper-Pearson interval of the coverage.
        sharpness: mean width of the intervals, relative to the prediction.
        calibration: for each probability, the outcomes at or below its quantile.
    """

    outcomes: int
    mean_absolute_error: float | None
    median_absolute_error: float | None
    median_error: float | None
    with_interval: int
    inside: int
    coverage: float | None
    coverage_interval: Interval | None
    sharpness: float | None
    calibration: tuple[CalibrationPoint, ...]


class ScoredOutcome(NamedTuple):
    """A forecast with an outcome."""

    prediction: float
    interval: Interval | None
    quantiles: Mapping[float, float]
    """Predicted quantiles by probability."""
    outcome: float


def scores_of(scored: Sequence[ScoredOutcome]) -> ForecastScores:
    """The scores of forecasts with their outcomes.

    Every outcome counts the same. The interval of the coverage takes outcomes as independent;
    outcomes that one law predicts share its error, so with few laws it is too narrow.
    """
    errors = np.array([each.prediction / each.outcome - 1 for each in scored])
    ends = [(each, each.interval) for each in scored if each.interval is not None]
    inside = sum(low <= each.outcome <= high for each, (low, high) in ends)
    probabilities = sorted({p for each in scored for p in each.quantiles})
    return ForecastScores(
        outcomes=len(scored),
        mean_absolute_error=float(np.abs(errors).mean()) if scored else None,
        median_absolute_error=float(np.median(np.abs(errors))) if scored else None,
        median_error=float(np.median(errors)) if scored else None,
        with_interval=len(ends), inside=inside,
        coverage=inside / len(ends) if ends else None,
        coverage_interval=binomial_interval(inside, len(ends)) if ends else None,
        sharpness=float(np.mean([(high - low) / each.prediction for each, (low, high) in ends]))
        if ends else None,
        calibration=tuple(_calibration(scored, p) for p in probabilities))


def _calibration(scored: Sequence[ScoredOutcome], probability: float) -> CalibrationPoint:
    pairs = [(each.outcome, each.quantiles[probability]) for each in scored
             if probability in each.quantiles]
    return CalibrationPoint(
        probability, sum(outcome <= quantile for outcome, quantile in pairs), len(pairs))


def binomial_interval(successes: int, trials: int, level: float = LEVEL) -> Interval:
    """The exact interval of a binomial proportion (Clopper and Pearson 1934, Biometrika 26).

    Args:
        successes: from 0 to `trials`.
        trials: at least one.
        level: coverage, which the interval has at least.
    """
    tail = (1 - level) / 2
    low = betaincinv(successes, trials - successes + 1, tail) if successes else 0.0
    high = betaincinv(successes + 1, trials - successes, 1 - tail) if successes < trials else 1.0
    return float(low), float(high)
