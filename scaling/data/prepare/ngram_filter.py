"""Bloom filter of word 13-grams, to find test documents that share one with the train split (Brown
et al. 2020, appendix C): a model may have memorised their text.

Words are compared in lower case and without punctuation. A document of fewer than 13 words is
never found.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scaling.data.prepare.shingles import WordHashes, ngram_hashes
from scaling.data.random import UInt64

NGRAM_WORDS = 13

_SPARSE_BITS = 4  # a table has sixteen bits per hash, so it is mostly zeros
_MOST_BITS = 31  # of a bit position, which bounds the memory of the tables to 0.5 GB
_TABLES = 2
_BLOCK = 2**20  # hashes inserted at a time
_BYTE = np.uint64(3)  # shift from the position of a bit to that of its byte


def document_ngrams(text: str, hashes: WordHashes) -> UInt64:
    """The distinct hashes of a document's word 13-grams, ascending."""
    return np.unique(ngram_hashes(hashes.of(text), NGRAM_WORDS))


def empty_filter(hashes: int) -> NDArray[np.uint8]:
    """An empty Bloom (1970) filter: two bit tables, each indexed by some of the bits of a hash.

    Its false-positive rate is at most 1/256, unless there are more than 2**27 hashes (the 13-grams
    of about 0.8 GB of text), in which case the tables stay at 256 MB each and the rate is higher.

    Args:
        hashes: Upper bound of the number of hashes to insert.

    Returns:
        The tables, shape [2, bytes].
    """
    bits = min(max(10, hashes.bit_length() + _SPARSE_BITS), _MOST_BITS)
    return np.zeros((_TABLES, 2**(bits - 3)), np.uint8)


def insert(hashes: UInt64, tables: NDArray[np.uint8]) -> None:
    """Insert hashes into the filter, in place."""
    for start in range(0, len(hashes), _BLOCK):
        block = hashes[start:start + _BLOCK]
        for number in range(_TABLES):
            position = _position(block, number, tables)
            np.bitwise_or.at(tables[number], position >> _BYTE, _bit(position))


def maybe_contained(hashes: UInt64, tables: NDArray[np.uint8]) -> UInt64:
    """The hashes that may be in the filter: all that were inserted, and few others."""
    for number in range(_TABLES):
        position = _position(hashes, number, tables)
        hashes = hashes[(tables[number][position >> _BYTE] & _bit(position)) != 0]
    return hashes


def _position(hashes: UInt64, number: int, tables: NDArray[np.uint8]) -> UInt64:
    """Bit positions in a table: the leading bits of the hash for the first, the next for the
    second."""
    bits = (8 * tables.shape[1]).bit_length() - 1
    return hashes << np.uint64(number * bits) >> np.uint64(64 - bits)


def _bit(position: UInt64) -> NDArray[np.uint8]:
    return np.left_shift(np.uint8(1), (position & np.uint64(7)).astype(np.uint8))
