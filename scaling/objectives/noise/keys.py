"""Random numbers by sequence key for the noise of objectives (from scaling.data.random), and random
permutations."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scaling.data.random import (
    UInt64,
    below,
    bits,
    bits_at,
    fold,
    sequence_keys,
    to_below,
    to_uniform,
    uniform,
)

__all__ = [
    "UInt64", "below", "bits", "bits_at", "columns", "distinct", "fold", "sequence_keys",
    "to_below", "to_uniform", "uniform",
]

# Low bits of a random number that hold its column: a row has at most 2^20.
_COLUMN_BITS = np.array(20, np.uint64)
_COLUMN = np.array(2**20 - 1, np.uint64)


def distinct(bits_BN: UInt64) -> UInt64:
    """Random bits whose low bits are replaced by their column, shape [B, N].

    They are distinct within a row, and keep their column when sorted (`columns`): sorting or
    partitioning them takes a third of the time of an argsort.
    """
    return bits_BN >> _COLUMN_BITS << _COLUMN_BITS | np.arange(bits_BN.shape[1], dtype=np.uint64)


def columns(distinct: UInt64) -> NDArray[np.int64]:
    """Columns of numbers from `distinct`."""
    return (distinct & _COLUMN).astype(np.int64)
