"""Search for exact and near-duplicate documents by MinHash (Lee et al. 2022, "Deduplicating
Training Data Makes Language Models Better", section 4.2).

Near-duplicates share most of their word 5-grams. With J the Jaccard index of two sets of 5-grams,
the minimum of a hash over the set is equal for both with probability J (MinHash, Broder 1997). The
minima form bands of `ROWS`; two documents collide if all minima of some band agree, which has
probability 1 - (1 - J^ROWS)^BANDS: 3% at J = 0.6, 20% at 0.7, 68% at 0.8, 99.6% at 0.9. A document
that collides with an earlier one is dropped.

Collisions are found by sorting, with the hashes of one range of values in memory at a time, and
only one copy of those that recur often. This takes about 0.3 GB for any corpus.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from scaling.data.prepare.external_sort import HASHES_IN_MEMORY, next_range, range_ends
from scaling.data.prepare.shingles import WordHashes, combine_hashes, ngram_hashes
from scaling.data.random import UInt64

SHINGLE_WORDS = 5
BANDS = 16
ROWS = 12

_SEED = 2022
_BATCH_SHINGLES = 2**14  # 5-grams per batch, so that the arrays fit in the cache of a core


def _permutations() -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """An odd factor and an offset for each minimum: affine permutations of range(2**32)."""
    rng = np.random.Generator(np.random.PCG64(_SEED))
    factors, offsets = rng.integers(0, 2**32, (2, BANDS, ROWS), np.uint32)
    return factors | np.uint32(1), offsets


_FACTORS, _OFFSETS = _permutations()


def band_hashes(texts: Iterable[str], hashes: WordHashes) -> Iterator[UInt64]:
    """Yield the band hashes of documents, several documents at a time.

    A document of fewer than five words has one n-gram, of all its words.

    Yields:
        Shape [BANDS, documents].
    """
    batch: list[UInt64] = []
    count = 0
    for text in texts:
        words = hashes.of(text)
        batch.append(ngram_hashes(words, min(SHINGLE_WORDS, len(words))) if len(words)
                     else _text_hash(text))
        count += len(batch[-1])
        if count >= _BATCH_SHINGLES:
            yield _bands(batch)
            batch, count = [], 0
    if batch:
        yield _bands(batch)


def _text_hash(text: str) -> UInt64:
    """One hash of the whole text, shape [1], for a text without words such as punctuation."""
    return ngram_hashes(np.frombuffer(text.encode("utf-32-le"), "<u4").astype(np.uint64), len(text))


def _bands(shingles: Sequence[UInt64]) -> UInt64:
    starts = np.cumsum([0, *(len(document) for document in shingles[:-1])])
    # 32 of the 64 bits suffice for a minimum, and multiplication is several times as fast.
    hashes = (np.concatenate(shingles) >> np.uint64(32)).astype(np.uint32)
    permuted = np.empty_like(hashes)
    bands = np.empty((BANDS, len(shingles)), np.uint64)
    minima = np.empty((ROWS, len(shingles)), np.uint64)
    for band in range(BANDS):
        for row in range(ROWS):
            np.multiply(hashes, _FACTORS[band, row], out=permuted)
            np.add(permuted, _OFFSETS[band, row], out=permuted)
            minima[row] = np.minimum.reduceat(permuted, starts)
        bands[band] = combine_hashes(minima)
    return bands


OpenKeys = Callable[[], tuple[NDArray[np.uint64], NDArray[np.uint32]]]
"""Opens the sorted keys of a block of documents, of several 64-bit words each: the keys [words,
documents], in lexicographic order, and the index in the block of each document [documents],
ascending among equal keys."""


def later_duplicates(blocks: Sequence[OpenKeys]) -> Iterator[tuple[int, NDArray[np.uint32]]]:
    """Find the documents with the same key as an earlier one, in the order of the blocks.

    Yields:
        (block number, document indices in that block); a block may recur, an index does not.
    """
    starts = [0] * len(blocks)
    for end in range_ends(sum(len(places()[1]) for places in blocks)):
        seen = np.zeros((0, 0), np.uint64)
        pending: list[tuple[int, UInt64, NDArray[np.uint32]]] = []
        count = 0
        for number, block in enumerate(blocks):
            keys, places = block()
            here = next_range(starts, number, keys[0], end)
            pending.append((number, np.array(keys[:, here]), np.array(places[here])))
            count += len(pending[-1][2])
            # Distinct keys alone would not exceed the limit within a range: some recur often.
            if count >= HASHES_IN_MEMORY or number == len(blocks) - 1:
                seen, later = _find_duplicates(seen, pending)
                yield from later
                pending, count = [], 0


def _find_duplicates(
    seen: UInt64, pending: Sequence[tuple[int, UInt64, NDArray[np.uint32]]]
) -> tuple[UInt64, list[tuple[int, NDArray[np.uint32]]]]:
    """Search the keys of pending blocks for duplicates of each other and of seen keys.

    Returns:
        The distinct keys, seen or pending; and per block the indices of the documents that are not
        the first with their key.
    """
    before = [seen] if seen.size else []
    keys = np.concatenate([*before, *(keys for _, keys, _ in pending)], axis=1)
    # Stable, so that equal keys stay in corpus order.
    order = np.lexsort(keys[::-1])
    keys = keys[:, order]
    is_repeat = np.zeros(len(order), np.bool_)
    is_repeat[1:] = np.all(keys[:, 1:] == keys[:, :-1], axis=0)
    later = np.sort(order[is_repeat]) - seen.shape[1]
    places = np.concatenate([places for *_, places in pending])[later]
    ends = np.searchsorted(later, np.cumsum([len(places) for *_, places in pending]))
    by_block = zip(pending, np.split(places, ends[:-1]), strict=True)
    return keys[:, ~is_repeat], [(number, indices) for (number, *_), indices in by_block
                                 if len(indices)]


def sort_keys(keys: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    """Sort keys [words, documents] for `later_duplicates`; also return the document indices."""
    order = np.lexsort(keys[::-1])
    return np.ascontiguousarray(keys[:, order]), order.astype(np.uint32)
