"""Span masking and span boundaries (Joshi et al. 2019, "SpanBERT: Improving Pre-training by
Representing and Predicting Spans", sections 3.1 and 3.2)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scaling.objectives.noise.keys import UInt64, bits, columns, distinct, fold, to_below, uniform
from scaling.objectives.noise.masking import masked_count, words
from scaling.objectives.noise.rows import Bool, Integers, pack, ranks

Probabilities = NDArray[np.float64]

_POSITION = 1  # stream of the spans' positions; their lengths use the key itself


def geometric(p: float, longest: int) -> Probabilities:
    """Probabilities of the lengths 1 to `longest`: p (1 - p)^(length - 1), divided by their sum.

    Raises:
        ValueError: the arguments are out of range.
    """
    if not (0 < p < 1 and longest >= 1):
        raise ValueError(f"p = {p} is not between 0 and 1, or longest = {longest} is below 1")
    chance = p * (1 - p) ** np.arange(longest)
    return np.asarray(chance / chance.sum(), np.float64)


def harmonic(longest: int) -> Probabilities:
    """Probabilities of the lengths 1 to `longest`, in proportion to 1 / length."""
    chance = 1 / np.arange(1, longest + 1)
    return np.asarray(chance / chance.sum(), np.float64)


SPANBERT = geometric(0.2, 10)
"""SpanBERT's lengths (section 3.1): the mean is 3.8."""
ALBERT = harmonic(3)
"""ALBERT's n-grams (Lan et al. 2019, section 4.1)."""


def choose_spans(
    key_B: UInt64,
    maskable_BT: Bool,
    starts_BT: Bool | None,
    rate: float,
    lengths: Probabilities = SPANBERT,
) -> tuple[Bool, NDArray[np.int32]]:
    """Choose exactly `masked_count` tokens of each row, in disjoint spans of whole words.

    Lengths are drawn, and each span is at a uniformly random position among the words that are not
    chosen; spans may be adjacent. Spans are used in the order of the draws until they have enough
    tokens, and the last one is cut. A span that is interrupted by a token that cannot be masked
    continues after it as a new span.

    Args:
        key_B: a key for each row.
        maskable_BT: True for tokens that may be chosen.
        starts_BT: True for tokens that begin a word; lengths then count words. None if every token
            is a word.
        rate: share of the maskable tokens to choose.
        lengths: probabilities of the lengths 1, 2, ...

    Returns:
        True for chosen tokens, and the number of the span of each, from 1 in a row and 0 for other
        tokens. Both of shape [B, T].
    """
    rows, width = maskable_BT.shape
    number_BT = np.cumsum(maskable_BT, axis=1) - 1
    maskable_B = number_BT[:, -1] + 1
    budget_B1 = masked_count(maskable_B, rate)[:, None]
    edge_BW = _word_edges(maskable_BT, starts_BT, maskable_B)
    length_BW = np.diff(edge_BW, axis=1)
    # The fewest words that hold the budget even if they are the shortest ones.
    none_B1 = (length_BW == 0).sum(axis=1, keepdims=True)
    words_B1 = length_BW.shape[1] - none_B1
    short_BW = np.cumsum(np.sort(length_BW, axis=1), axis=1) < budget_B1
    enough_B1 = np.minimum(short_BW.sum(axis=1, keepdims=True) + 1 - none_B1, words_B1)
    draws = int(enough_B1.max(initial=0))
    if not draws:
        return np.zeros_like(maskable_BT), np.zeros(maskable_BT.shape, np.int32)

    limits = np.cumsum(lengths)[:-1]
    size_BN = np.searchsorted(limits, uniform(key_B, draws), side="right") + 1
    size_BN = _cut(size_BN, enough_B1)
    # Spans at the same position are in random order, so the used draws are not the leftmost.
    position_BN = distinct(bits(fold(key_B, _POSITION), draws))
    order_BN = columns(np.sort(position_BN, axis=1))
    gap_BN = to_below(position_BN, words_B1 - enough_B1 + 1)
    ordered_BN = np.take_along_axis(size_BN, order_BN, axis=1)
    before_BN = np.empty_like(size_BN)
    np.put_along_axis(before_BN, order_BN, np.cumsum(ordered_BN, axis=1) - ordered_BN, axis=1)
    first_BN = gap_BN + before_BN

    # From words to tokens, counted among the maskable ones.
    start_BN = np.take_along_axis(edge_BW, first_BN, axis=1)
    stop_BN = np.take_along_axis(edge_BW, first_BN + size_BN, axis=1)
    stop_BN = start_BN + _cut(stop_BN - start_BN, budget_B1)
    used_BN = stop_BN > start_BN
    # One more column than tokens, for spans that are not used.
    opens_BT, closes_BT = np.zeros((2, rows, width + 1), np.int8)
    np.put_along_axis(opens_BT, np.where(used_BN, start_BN, width), 1, axis=1)
    np.put_along_axis(closes_BT, np.where(used_BN, stop_BN, width), 1, axis=1)
    inside_BT = np.cumsum(opens_BT - closes_BT, axis=1, dtype=np.int8)[:, :-1] > 0
    span_BT = np.where(inside_BT, np.cumsum(opens_BT, axis=1, dtype=np.int32)[:, :-1], 0)

    # From maskable tokens to all tokens; a new span begins after a token that is not maskable.
    span_BT = np.take_along_axis(span_BT, np.maximum(number_BT, 0), axis=1) * maskable_BT
    chosen_BT = span_BT > 0
    begins_BT = chosen_BT.copy()
    begins_BT[:, 1:] &= span_BT[:, 1:] != span_BT[:, :-1]
    return chosen_BT, np.cumsum(begins_BT, axis=1, dtype=np.int32) * chosen_BT


def boundaries(
    span_BT: Integers, width: int, max_span: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]:
    """Inputs of the span-boundary objective for each chosen token.

    Args:
        span_BT: the number of each token's span, from `choose_spans`.
        width: M, at least the number of chosen tokens in a row: `masked_count` of a row of T.
        max_span: positions in a span that are predicted; later tokens are not.

    Returns:
        For each chosen token the position before its span, the one after it, and its offset in the
        span from 0, shape [B, M, 3]; its own position, shape [B, M]; and its weight, shape [B, M]:
        1.0 if it is predicted, and 0.0 for padding, beyond `max_span`, and in a span at either end
        of the row, which lacks a neighbour.

    Raises:
        ValueError: a row has more than `width` chosen tokens.
    """
    row, position = np.nonzero(span_BT)
    span = span_BT[row, position]
    first = np.flatnonzero(np.diff(row, prepend=-1) | np.diff(span, prepend=0))
    size = np.diff(first, append=len(row))
    before = np.repeat(position[first] - 1, size)
    after = np.repeat(position[first] + size, size)
    offset = ranks(size)
    predicted = (before >= 0) & (after < span_BT.shape[1]) & (offset < max_span)
    count_B = np.bincount(row, minlength=len(span_BT))
    spans_BM3 = np.stack([
        pack(column * predicted, count_B, 0, width) for column in (before, after, offset)
    ], axis=-1)
    weights_BM = pack(predicted, count_B, 0, width).astype(np.float32)
    return spans_BM3, pack(position, count_B, 0, width), weights_BM


def _word_edges(
    maskable_BT: Bool, starts_BT: Bool | None, maskable_B: Integers
) -> NDArray[np.int64]:
    """Start of each word among the maskable tokens of a row, followed by the number of maskable
    tokens, shape [B, W + 1]."""
    if starts_BT is None:
        return np.minimum(np.arange(maskable_BT.shape[1] + 1), maskable_B[:, None])
    length_BW = words(maskable_BT, starts_BT)[1]
    return np.pad(np.cumsum(length_BW, axis=1), ((0, 0), (1, 0)))


def _cut(size_BN: NDArray[np.int64], budget_B1: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first sizes that add up to the budget, the last of them cut and the rest 0."""
    left_BN: NDArray[np.int64] = budget_B1 - np.cumsum(size_BN, axis=1) + size_BN
    return np.minimum(np.maximum(left_BN, 0), size_BN)
