"""Test documents that share a run of 13 words with the train split (Brown et al. 2020,
appendix C): a model may have learnt their text by heart.

Words are compared in lower case and without punctuation. A document of fewer than 13 words is
never found.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from scaling.data.words import UInt64, WordHashes, runs

RUN_WORDS = 13

_SPARSE_BITS = 4  # so that the table has sixteen bits for each hash, and is mostly zeros
_TOGETHER = 2**20  # hashes entered at once
_BYTE = np.uint64(3)  # the place of a bit without its last three digits is that of its byte


def document_runs(text: str, hashes: WordHashes) -> UInt64:
    """The hashes of a document's runs of 13 words, each once, ascending."""
    return np.unique(runs(hashes.of(text), RUN_WORDS))


def bit_table(ascending: UInt64) -> NDArray[np.uint8]:
    """A bit for each value of the leading bits of a hash, set where some hash begins so.

    Of the hashes that are not among `ascending`, fifteen of sixteen or more meet a zero.
    """
    bits = max(10, len(ascending).bit_length() + _SPARSE_BITS)
    table = np.zeros(2**(bits - 3), np.uint8)
    for start in range(0, len(ascending), _TOGETHER):
        place = ascending[start:start + _TOGETHER] >> np.uint64(64 - bits)
        np.bitwise_or.at(table, place >> _BYTE, _bit(place))
    return table


def common(hashes: UInt64, ascending: UInt64, table: NDArray[np.uint8]) -> UInt64:
    """Those of the hashes that are among `ascending`, whose `bit_table` is given."""
    bits = (8 * len(table)).bit_length() - 1
    place = hashes >> np.uint64(64 - bits)
    likely: UInt64 = hashes[(table[place >> _BYTE] & _bit(place)) != 0]
    if not likely.size:  # so that an empty `ascending` is not looked into
        return likely
    found = np.minimum(np.searchsorted(ascending, likely), len(ascending) - 1)
    present: UInt64 = likely[ascending[found] == likely]
    return present


def union(ascending: Sequence[UInt64]) -> UInt64:
    """The distinct values of several arrays, ascending."""
    return np.unique(np.concatenate([*ascending, np.zeros(0, np.uint64)]))


def _bit(place: UInt64) -> NDArray[np.uint8]:
    return np.left_shift(np.uint8(1), (place & np.uint64(7)).astype(np.uint8))
