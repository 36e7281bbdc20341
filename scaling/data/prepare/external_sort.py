"""Sorted hashes in files, processed one range of values at a time.

Hashes are uniform in [0, 2**64): ranges of equal width contain nearly equal numbers of distinct
ones, however many hashes there are and however often some are repeated.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from scaling.data.random import UInt64

HASHES_IN_MEMORY = 2**22
"""Number of hashes that are sorted at a time, which bounds the memory."""

_LIMIT = 2**64


def range_ends(hashes: int) -> list[int]:
    """Ascending ends of value ranges, such that each range contains about `HASHES_IN_MEMORY` of the
    hashes or fewer."""
    ranges = max(1, -(-hashes // HASHES_IN_MEMORY))
    return [place * _LIMIT // ranges for place in range(1, ranges + 1)]


def next_range(starts: list[int], number: int, ascending: UInt64, end: int) -> slice:
    """The slice of a sorted array with the next range of values.

    Args:
        starts: Start of the range in each of several arrays; advanced to the next range.
        number: Index of this array among them.
        ascending: The array, sorted.
        end: One of `range_ends`.
    """
    start = starts[number]
    starts[number] = len(ascending)
    if end < _LIMIT:  # which exceeds uint64
        starts[number] = int(np.searchsorted(ascending, np.uint64(end)))
    return slice(start, starts[number])


def union(arrays: Sequence[UInt64]) -> UInt64:
    """The distinct values of several arrays, ascending."""
    return np.unique(np.concatenate([*arrays, np.zeros(0, np.uint64)]))


def isin_sorted(hashes: UInt64, ascending: UInt64) -> NDArray[np.bool_]:
    """Mask of the hashes that occur in a sorted array; fast if they are sorted too."""
    if not len(ascending):
        return np.zeros(len(hashes), np.bool_)
    places = np.minimum(np.searchsorted(ascending, hashes), len(ascending) - 1)
    mask: NDArray[np.bool_] = ascending[places] == hashes
    return mask
