"""Distributions over range(n): Zipf's law, entropies, and sampling."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def zipf(n: int, exponent: float) -> Floats:
    """Probabilities proportional to 1 / rank^exponent, shape [n]; uniform for exponent 0."""
    weight: Floats = np.arange(1, n + 1, dtype=np.float64) ** -exponent
    weight /= weight.sum()
    return weight


def sum_by_index(place: NDArray[np.integer], p: Floats, length: int = 0) -> Floats:
    """Sum of p over equal values of `place`, shape [max(length, max(place) + 1)]."""
    return np.bincount(place, p, length).astype(np.float64, copy=False)


def entropy_terms(p: Floats) -> Floats:
    """-p ln p, elementwise; 0 where p is 0."""
    return -p * np.log(p, out=np.zeros_like(p), where=p > 0)


def entropy(p: Floats) -> float:
    """The sum of -p ln p, in nats."""
    return float(entropy_terms(p).sum())


def sample_by_inversion(cumulative: Floats, uniform: Floats) -> Ints:
    """Sample by inversion, in the shape of `uniform`: for few samples from many outcomes, where
    building an alias table would not pay off.

    Args:
        cumulative: Cumulative sums of the probabilities, shape [n].
        uniform: Uniform numbers in [0, 1).
    """
    outcome = np.searchsorted(cumulative, uniform, side="right")
    return np.minimum(outcome, len(cumulative) - 1)  # the last sum may be just below 1


class AliasTable(NamedTuple):
    """Constant-time sampling from a discrete distribution (Walker 1977, "An efficient method for
    generating discrete random variables with general distributions").

    The unit interval is divided into n columns of equal probability with at most two outcomes each.
    """

    threshold: Floats
    """Fraction of each column that belongs to the outcome with the column's index, shape [n]."""
    other: Ints
    """Outcome of the remainder of each column, shape [n]."""

    @classmethod
    def of(cls, p: Floats) -> AliasTable:
        """The table of probabilities p, shape [n].

        Columns of outcomes below average (light) are filled in order, each by the first outcome
        above average (heavy) with probability left; a heavy outcome that falls below one column is
        filled by the next. The assignment follows from cumulative sums of deficits and surpluses,
        so there is no loop over outcomes.
        """
        scaled = p * len(p)
        full = min(1.0, float(scaled.max()))  # uniform probabilities may round to below average
        light, heavy = np.flatnonzero(scaled < full), np.flatnonzero(scaled >= full)
        threshold, other = scaled.copy(), np.arange(len(p))
        deficit, surplus = np.cumsum(1 - scaled[light]), np.cumsum(scaled[heavy] - 1)
        before = np.concatenate([[0.0], deficit])[:-1]
        # Rounding can exhaust the surplus before the last columns, by a rounding error.
        last = len(heavy) - 1
        other[light] = heavy[np.minimum(np.searchsorted(surplus, before, side="right"), last)]
        threshold[heavy] = 1.0
        if len(light):
            overdrawn_by = np.searchsorted(deficit, surplus)
            last_filled = np.minimum(overdrawn_by, len(light) - 1)
            overdrawn = (overdrawn_by < len(light)) & (np.arange(len(heavy)) < last)
            threshold[heavy[overdrawn]] = 1 - (deficit[last_filled] - surplus)[overdrawn]
            other[heavy[:-1]] = heavy[1:]
        return cls(threshold, other)

    def draw(self, uniform: Floats) -> Ints:
        """Map uniform numbers in [0, 1) to outcomes, in the same shape."""
        place = uniform * len(self.threshold)
        column = place.astype(np.int64)
        place -= column
        return np.where(place < self.threshold[column], column, self.other[column])
