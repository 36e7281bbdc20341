"""Random numbers that belong to a sequence, for the noise of objectives: `scaling.data.random`'s,
and random orders made of them."""

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

# Room for a column in the low bits of a random number: a row has at most 2^20 of them.
_COLUMN_BITS = np.array(20, np.uint64)
_COLUMN = np.array(2**20 - 1, np.uint64)


def distinct(bits_BN: UInt64) -> UInt64:
    """Random bits with the column of each in its low bits, shape [B, N].

    No two of a row are equal, and sorted ones still say where they came from (`columns`): sorting
    or partitioning numbers costs a third of what it costs to sort their places.
    """
    return bits_BN >> _COLUMN_BITS << _COLUMN_BITS | np.arange(bits_BN.shape[1], dtype=np.uint64)


def columns(distinct: UInt64) -> NDArray[np.int64]:
    """Where numbers that `distinct` made came from."""
    return (distinct & _COLUMN).astype(np.int64)
