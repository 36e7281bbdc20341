"""Documents that repeat an earlier one, exactly or nearly (Lee et al. 2022, "Deduplicating
Training Data Makes Language Models Better", section 4.2).

Near-duplicates share most of their runs of five words: with J the Jaccard index of two sets of
runs, a minimum over hashed runs is the same for both with probability J (MinHash, Broder 1997).
The minima form bands of `ROWS`; two documents collide if all minima of some band agree, which
happens with probability 1 - (1 - J^ROWS)^BANDS: 3% at J = 0.6, 20% at 0.7, 68% at 0.8, 99.6% at
0.9. A document that collides with an earlier one is dropped.

Everything is found by sorting: hashes are held for one range of their values at a time, and those
that come again and again once. Whatever the corpus, that takes some 0.3 GB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from scaling.data.ranges import HELD, next_range, range_ends
from scaling.data.words import UInt64, WordHashes, combined, runs

SHINGLE_WORDS = 5
BANDS = 16
ROWS = 12

_SEED = 2022
_TOGETHER = 2**14  # runs of words in the arrays at once: what stays in the cache of a core


def _multipliers() -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """An odd factor and a summand for each minimum: a permutation of the numbers below 2**32."""
    draw = np.random.Generator(np.random.PCG64(_SEED))
    factors, summands = draw.integers(0, 2**32, (2, BANDS, ROWS), np.uint32)
    return factors | np.uint32(1), summands


_FACTORS, _SUMMANDS = _multipliers()


def band_hashes(texts: Iterable[str], hashes: WordHashes) -> Iterator[UInt64]:
    """The hashes of the bands of documents, some documents at a time.

    A document of fewer than five words has one run, of all its words.

    Yields:
        Shape [BANDS, documents].
    """
    held: list[UInt64] = []
    count = 0
    for text in texts:
        words = hashes.of(text)
        held.append(runs(words, min(SHINGLE_WORDS, len(words))) if len(words) else _no_words(text))
        count += len(held[-1])
        if count >= _TOGETHER:
            yield _bands(held)
            held, count = [], 0
    if held:
        yield _bands(held)


def _no_words(text: str) -> UInt64:
    """Stands for the runs of a text of signs alone: like no other text's but its own."""
    return runs(np.frombuffer(text.encode("utf-32-le"), "<u4").astype(np.uint64), len(text))


def _bands(shingles: Sequence[UInt64]) -> UInt64:
    starts = np.cumsum([0, *(len(some) for some in shingles[:-1])])
    # Half of the bits are enough for a minimum, and are multiplied several times as fast.
    together = (np.concatenate(shingles) >> np.uint64(32)).astype(np.uint32)
    permuted = np.empty_like(together)
    bands = np.empty((BANDS, len(shingles)), np.uint64)
    minima = np.empty((ROWS, len(shingles)), np.uint64)
    for band in range(BANDS):
        for row in range(ROWS):
            np.multiply(together, _FACTORS[band, row], out=permuted)
            np.add(permuted, _SUMMANDS[band, row], out=permuted)
            minima[row] = np.minimum.reduceat(permuted, starts)
        bands[band] = combined(minima)
    return bands


Keys = Callable[[], tuple[NDArray[np.uint64], NDArray[np.uint32]]]
"""Opens the keys of the documents of a block: [words, documents], sorted by the first word, then
the second ...; and the places of these documents in the block, ascending among equal keys, shape
[documents]."""


def later_ones(blocks: Sequence[Keys]) -> Iterator[tuple[int, NDArray[np.uint32]]]:
    """Which documents have the key of an earlier one, in the order of the blocks.

    Yields:
        Blocks, each any number of times, with places in them; no place twice.
    """
    starts = [0] * len(blocks)
    for end in range_ends(sum(len(places()[1]) for places in blocks)):
        seen = np.zeros((0, 0), np.uint64)
        held: list[tuple[int, UInt64, NDArray[np.uint32]]] = []
        count = 0
        for number, block in enumerate(blocks):
            keys, places = block()
            here = next_range(starts, number, keys[0], end)
            held.append((number, np.array(keys[:, here]), np.array(places[here])))
            count += len(held[-1][2])
            # More than there are in a range of distinct keys: one comes again and again.
            if count >= HELD or number == len(blocks) - 1:
                seen, later = _later(seen, held)
                yield from later
                held, count = [], 0


def _later(
    seen: UInt64, held: Sequence[tuple[int, UInt64, NDArray[np.uint32]]]
) -> tuple[UInt64, list[tuple[int, NDArray[np.uint32]]]]:
    """The distinct keys among those seen before and those of some blocks; and by block the places
    of those that are not the first of their key."""
    before = [seen] if seen.size else []
    keys = np.concatenate([*before, *(keys for _, keys, _ in held)], axis=1)
    # Stable, so that among equal keys the order of the corpus stays.
    order = np.lexsort(keys[::-1])
    keys = keys[:, order]
    again = np.zeros(len(order), np.bool_)
    again[1:] = np.all(keys[:, 1:] == keys[:, :-1], axis=0)
    later = np.sort(order[again]) - seen.shape[1]
    places = np.concatenate([places for *_, places in held])[later]
    ends = np.searchsorted(later, np.cumsum([len(places) for *_, places in held]))
    split = np.split(places, ends[:-1])
    return keys[:, ~again], [(number, some) for (number, *_), some in zip(held, split, strict=True)
                             if len(some)]


def sorted_keys(keys: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    """Keys in the order that `later_ones` expects, shape [words, documents], and places."""
    order = np.lexsort(keys[::-1])
    return np.ascontiguousarray(keys[:, order]), order.astype(np.uint32)
