"""Sorted hashes in files, of which those in one range of values are held at a time.

Hashes lie evenly among the numbers below 2**64: ranges of equal width have nearly equal numbers of
distinct ones, however many hashes there are and however often some of them come.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from scaling.data.words import UInt64

HELD = 2**22
"""Hashes that are sorted at once: what bounds the memory."""

_ALL = 2**64


def range_ends(hashes: int) -> list[int]:
    """Where the ranges end, ascending: so many that each has about `HELD` of the hashes or less."""
    ranges = max(1, -(-hashes // HELD))
    return [place * _ALL // ranges for place in range(1, ranges + 1)]


def next_range(starts: list[int], number: int, ascending: UInt64, end: int) -> slice:
    """Where ascending hashes lie in the range that ends there.

    Args:
        starts: where the range starts in each of several such arrays; moved on to the next one.
        number: of this array among them.
        ascending: the array.
        end: one of `range_ends`.
    """
    start = starts[number]
    starts[number] = len(ascending)
    if end < _ALL:  # which is no uint64
        starts[number] = int(np.searchsorted(ascending, np.uint64(end)))
    return slice(start, starts[number])


def union(ascending: Sequence[UInt64]) -> UInt64:
    """The distinct values of several arrays, ascending."""
    return np.unique(np.concatenate([*ascending, np.zeros(0, np.uint64)]))


def among(hashes: UInt64, ascending: UInt64) -> NDArray[np.bool_]:
    """Which of the hashes are among ascending ones; quick where they ascend too."""
    if not len(ascending):
        return np.zeros(len(hashes), np.bool_)
    places = np.minimum(np.searchsorted(ascending, hashes), len(ascending) - 1)
    there: NDArray[np.bool_] = ascending[places] == hashes
    return there
