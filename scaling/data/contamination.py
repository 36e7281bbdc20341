"""Test documents that share a run of 13 words with the train split (Brown et al. 2020,
appendix C): a model may have learnt their text by heart.

Words are compared in lower case and without punctuation. A document of fewer than 13 words is
never found.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scaling.data.words import UInt64, WordHashes, runs

RUN_WORDS = 13

_SPARSE_BITS = 4  # so that a table has sixteen bits for each hash, and is mostly zeros
_MOST_BITS = 31  # of a place: what bounds the memory of the tables, 0.5 GB
_TABLES = 2
_TOGETHER = 2**20  # hashes entered at once
_BYTE = np.uint64(3)  # the place of a bit without its last three digits is that of its byte


def document_runs(text: str, hashes: WordHashes) -> UInt64:
    """The hashes of a document's runs of 13 words, each once, ascending."""
    return np.unique(runs(hashes.of(text), RUN_WORDS))


def empty_tables(hashes: int) -> NDArray[np.uint8]:
    """Two tables of a bit for each value of some bits of a hash: a filter of Bloom (1970).

    Of other hashes than those entered at least 255 of 256 meet a zero in one of them, unless there
    are more than 2**27 hashes (the runs of some 0.8 GB of text): then the tables stay at 256 MB
    each, and more meet ones in both.

    Args:
        hashes: how many are going to be entered at most.

    Returns:
        Shape [2, bytes].
    """
    bits = min(max(10, hashes.bit_length() + _SPARSE_BITS), _MOST_BITS)
    return np.zeros((_TABLES, 2**(bits - 3)), np.uint8)


def enter(hashes: UInt64, tables: NDArray[np.uint8]) -> None:
    """Set the bits of the hashes."""
    for start in range(0, len(hashes), _TOGETHER):
        some = hashes[start:start + _TOGETHER]
        for number in range(_TABLES):
            place = _place(some, number, tables)
            np.bitwise_or.at(tables[number], place >> _BYTE, _bit(place))


def perhaps_entered(hashes: UInt64, tables: NDArray[np.uint8]) -> UInt64:
    """Those of the hashes whose bits are set: all that were entered, and few others."""
    for number in range(_TABLES):
        place = _place(hashes, number, tables)
        hashes = hashes[(tables[number][place >> _BYTE] & _bit(place)) != 0]
    return hashes


def _place(hashes: UInt64, number: int, tables: NDArray[np.uint8]) -> UInt64:
    """The leading bits of a hash for the first table, those that follow them for the second."""
    bits = (8 * tables.shape[1]).bit_length() - 1
    return hashes << np.uint64(number * bits) >> np.uint64(64 - bits)


def _bit(place: UInt64) -> NDArray[np.uint8]:
    return np.left_shift(np.uint8(1), (place & np.uint64(7)).astype(np.uint8))
