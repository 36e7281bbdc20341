"""Runs of words as numbers: what near-duplicates and contamination are found by."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

UInt64 = NDArray[np.uint64]

_WORD = re.compile(r"\w+")
_REMEMBERED, _LONGEST = 2**18, 64  # words whose hash is kept, and their characters
_BASE = np.array(0x9E3779B97F4A7C15, np.uint64)  # odd: no power of it is zero
# The finaliser of MurmurHash3 (Appleby 2011), which spreads every bit over all.
_FIRST, _SECOND = np.array([0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53], np.uint64)
_SHIFT = np.array(33, np.uint64)


class _Known(dict[str, int]):
    """The hash of each word that was asked for."""

    def __missing__(self, word: str) -> int:
        number = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
        if len(word) <= _LONGEST:
            self[word] = number
        return number


class WordHashes:
    """Hashes of the words of texts: in lower case, without what is no letter, digit or `_`."""

    def __init__(self) -> None:
        self._known = _Known()

    def of(self, text: str) -> UInt64:
        """A hash for each word, shape [words]."""
        if len(self._known) > _REMEMBERED:
            self._known.clear()
        words = _WORD.findall(text.lower())
        return np.fromiter(map(self._known.__getitem__, words), np.uint64, len(words))


def runs(words: UInt64, length: int) -> UInt64:
    """A hash for each run of so many words that follow each other.

    Args:
        words: a hash for each word, shape [words].
        length: words in a run.

    Returns:
        Shape [words - length + 1], or [0] where there are fewer words than that.
    """
    count = max(len(words) - length + 1, 0)
    return combined([words[place:place + count] for place in range(length)])


def combined(rows: Sequence[UInt64] | UInt64) -> UInt64:
    """One hash for each column of hashes: rows of shape [n] to shape [n]."""
    total = np.zeros(len(rows[0]), np.uint64)
    for row in rows:
        total = total * _BASE + row
    return _mixed(total)


def _mixed(x: UInt64) -> UInt64:
    x = (x ^ (x >> _SHIFT)) * _FIRST
    x = (x ^ (x >> _SHIFT)) * _SECOND
    return x ^ (x >> _SHIFT)
