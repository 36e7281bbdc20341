"""Distributions over range(n): Zipf's, their entropy, and drawing from any of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def zipf(n: int, exponent: float) -> Floats:
    """Probabilities proportional to 1 / rank^exponent, shape [n]; equal ones for exponent 0."""
    weight: Floats = np.arange(1, n + 1, dtype=np.float64) ** -exponent
    weight /= weight.sum()
    return weight


def sums(place: NDArray[np.integer], p: Floats, length: int = 0) -> Floats:
    """What p adds up to at each place, of shape [length] or more."""
    return np.bincount(place, p, length).astype(np.float64, copy=False)


def surprise(p: Floats) -> Floats:
    """-p ln p, of the same shape, 0 where p is 0."""
    return -p * np.log(p, out=np.zeros_like(p), where=p > 0)


def entropy(p: Floats) -> float:
    """The sum of -p ln p, in nats."""
    return float(surprise(p).sum())


def invert(cumulative: Floats, uniform: Floats) -> Ints:
    """Draws by inversion, of the shape of `uniform`: for few draws from many outcomes, where an
    alias table would not pay.

    Args:
        cumulative: sums of the probabilities, shape [n].
        uniform: numbers of [0, 1).
    """
    found = np.searchsorted(cumulative, uniform, side="right")
    return np.minimum(found, len(cumulative) - 1)  # the sums may end just below 1


class Alias(NamedTuple):
    """Draws from a distribution in the same time for any number of outcomes (Walker 1977, "An
    efficient method for generating discrete random variables with general distributions").

    Range(n) is cut into n columns of equal probability; a column holds at most two outcomes.
    """

    threshold: Floats
    """Share of a column that belongs to the outcome of its own number, shape [n]."""
    other: Ints
    """The outcome that the rest of it belongs to, shape [n]."""

    @classmethod
    def of(cls, p: Floats) -> Alias:
        """The table of probabilities p, shape [n].

        Columns with less than their share are filled one after the other, each by the first
        outcome that has still more than one column's worth; one that gives more than it can
        spare is filled by the next. Where each falls is read from sums of what is missing and
        of what is over, so nothing here loops over outcomes.
        """
        own = p * len(p)
        full = min(1.0, float(own.max()))  # equal probabilities may round to less than their share
        light, heavy = np.flatnonzero(own < full), np.flatnonzero(own >= full)
        threshold, other = own.copy(), np.arange(len(p))
        missing, over = np.cumsum(1 - own[light]), np.cumsum(own[heavy] - 1)
        before = np.concatenate([[0.0], missing])[:-1]
        # Rounding can leave the last ones with no giver, or short by as much.
        last = len(heavy) - 1
        other[light] = heavy[np.minimum(np.searchsorted(over, before, side="right"), last)]
        threshold[heavy] = 1.0
        if len(light):
            overdrawn_by = np.searchsorted(missing, over)
            gives = np.minimum(overdrawn_by, len(light) - 1)
            takes = (overdrawn_by < len(light)) & (np.arange(len(heavy)) < last)
            threshold[heavy[takes]] = 1 - (missing[gives] - over)[takes]
            other[heavy[:-1]] = heavy[1:]
        return cls(threshold, other)

    def draw(self, uniform: Floats) -> Ints:
        """An outcome for each number of [0, 1), of the same shape."""
        place = uniform * len(self.threshold)
        column = place.astype(np.int64)
        place -= column
        return np.where(place < self.threshold[column], column, self.other[column])
