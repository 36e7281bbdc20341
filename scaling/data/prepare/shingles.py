"""64-bit hashes of words and word n-grams, used to find near-duplicates and contamination."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np

from scaling.data.random import UInt64

_WORD = re.compile(r"\w+")
_CACHED_WORDS, _LONGEST = 2**18, 64  # size of the cache, and longest word in it in characters
_BASE = np.array(0x9E3779B97F4A7C15, np.uint64)  # odd: no power of it is zero
# The finaliser of MurmurHash3 (Appleby 2011), in which every bit affects all others.
_FIRST, _SECOND = np.array([0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53], np.uint64)
_SHIFT = np.array(33, np.uint64)


class _HashCache(dict[str, int]):
    """Maps words to their hashes, computed on first use."""

    def __missing__(self, word: str) -> int:
        number = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
        if len(word) <= _LONGEST:
            self[word] = number
        return number


class WordHashes:
    """Hashes of the words of texts. Words are lower-cased runs of letters, digits and `_`."""

    def __init__(self) -> None:
        self._cache = _HashCache()

    def of(self, text: str) -> UInt64:
        """The hash of each word, shape [words]."""
        if len(self._cache) > _CACHED_WORDS:
            self._cache.clear()
        words = _WORD.findall(text.lower())
        return np.fromiter(map(self._cache.__getitem__, words), np.uint64, len(words))


def ngram_hashes(words: UInt64, length: int) -> UInt64:
    """The hash of each n-gram of consecutive words.

    Args:
        words: The hash of each word, shape [words].
        length: Number of words in an n-gram.

    Returns:
        Shape [words - length + 1], or [0] if there are fewer than `length` words.
    """
    count = max(len(words) - length + 1, 0)
    return combine_hashes([words[place:place + count] for place in range(length)])


def combine_hashes(rows: Sequence[UInt64] | UInt64) -> UInt64:
    """Combine the hashes of each column into one: rows of shape [n] to shape [n]."""
    total = np.zeros(len(rows[0]), np.uint64)
    for row in rows:
        total = total * _BASE + row
    return _mix(total)


def _mix(x: UInt64) -> UInt64:
    x = (x ^ (x >> _SHIFT)) * _FIRST
    x = (x ^ (x >> _SHIFT)) * _SECOND
    return x ^ (x >> _SHIFT)
