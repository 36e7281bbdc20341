"""Statistics of a split: unigram counts, their entropy, and document lengths."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scaling.data.splits import TokenSplit

SAMPLE_TOKENS = 2**24
"""Largest number of tokens to count; a larger split is sampled evenly."""

_WIDTH = 2**10  # consecutive tokens per sampled window


def unigram_counts(
    split: TokenSplit, vocab_size: int, limit: int = SAMPLE_TOKENS
) -> NDArray[np.int64]:
    """Number of occurrences of each id among at most `limit` tokens, shape [vocab_size]."""
    width = min(_WIDTH, split.tokens)
    windows = split.count(width, width)
    chosen = max(1, min(windows, limit // width))
    counts = np.zeros(vocab_size, np.int64)
    for start in range(0, chosen, _WIDTH):
        index = np.arange(start, min(start + _WIDTH, chosen)) * windows // chosen
        rows = split.rows(index, width, width)
        counts += np.bincount(rows.reshape(-1), minlength=vocab_size)
    if chosen == windows and split.documents:  # the remainder, if everything is counted
        counts += np.bincount(split.read(windows * width, split.tokens), minlength=vocab_size)
    return counts


def entropy(counts: NDArray[np.int64]) -> float:
    """Entropy in nats of the empirical distribution of counts.

    It is biased downwards by about (ids that occur - 1) / (2 tokens) (Miller 1955).
    """
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def length_quantiles(split: TokenSplit, shares: list[float]) -> list[int]:
    """Quantiles of the number of tokens in a document, its end included.

    Raises:
        UserError: The split has no documents.
    """
    values = np.quantile(np.diff(split.offsets()), shares, method="inverted_cdf")
    return [int(value) for value in values]
