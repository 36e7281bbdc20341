"""Segment pairs for next-sentence and sentence-order prediction.

A row is `<cls> A <sep> B <sep>`. In next-sentence prediction B follows A in the text, or is from
another document (Devlin et al. 2018, section 3.1); in sentence-order prediction A and B are
consecutive segments in their order, or swapped (Lan et al. 2019, "ALBERT", section 3.1).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scaling.objectives.noise.keys import UInt64, below, fold
from scaling.objectives.noise.rows import Bool, Ids, Integers

MARKS = 3
"""Special tokens in a row: `<cls>` and two `<sep>`."""

_CUT, _LABEL, _START = range(3)  # streams of a row's key


class Pairs(NamedTuple):
    """Rows of two segments."""

    ids_BT: Ids
    """`<cls> A <sep> B <sep>` and padding."""
    types_BT: NDArray[np.int32]
    """0 up to the first `<sep>` and in the padding, 1 after it."""
    documents_BT: NDArray[np.int32]
    """1, and 0 for padding, which no token attends to."""
    labels_B: NDArray[np.int32]
    """0 if B follows A in the text; 1 if it is from another document, or the two are swapped."""
    maskable_BT: Bool
    """True for the tokens of A and B."""


class _Segment(NamedTuple):
    """Start and length of a segment in each row of its source."""

    start_B: NDArray[np.int64]
    length_B: NDArray[np.int64]


def next_sentence(
    key_B: UInt64,
    pieces_BL: Integers,
    lengths_B: Integers,
    others_BO: Integers,
    other_lengths_B: Integers,
    context: int,
    *,
    cls: int,
    sep: int,
    pad: int,
) -> Pairs:
    """Rows whose second segment follows the first (label 0) or is from another document (label 1),
    each with probability 1/2.

    A piece is cut in two at a random position. If the parts do not fit, the longer one is shortened
    first: A at its beginning and B at its end, so that they stay adjacent. A segment of another
    document begins at a random position. B is never longer than the other document's piece,
    whichever is used, so lengths carry no information about the label.

    Args:
        key_B: a key for each row.
        pieces_BL: pieces of documents, padded on the right.
        lengths_B: their lengths, at least 2.
        others_BO: pieces of other documents, padded on the right.
        other_lengths_B: their lengths, at least 1.
        context: T, the width of the rows.
        cls, sep, pad: ids of the special tokens.

    Raises:
        ValueError: a piece or the context is too short.
    """
    if other_lengths_B.min(initial=1) < 1:
        raise ValueError("a piece of another document has no token")
    a, b = _cut(key_B, lengths_B, context, other_lengths_B)
    random_B = _coin(key_B)
    start_B = below(fold(key_B, _START), 1, (other_lengths_B - b.length_B + 1)[:, None])[:, 0]
    second = _Segment(np.where(random_B, pieces_BL.shape[1] + start_B, b.start_B), b.length_B)
    source_BS = np.concatenate([pieces_BL, others_BO], axis=1)
    return _assemble(source_BS, a, second, random_B, context, cls, sep, pad)


def sentence_order(
    key_B: UInt64,
    pieces_BL: Integers,
    lengths_B: Integers,
    context: int,
    *,
    cls: int,
    sep: int,
    pad: int,
) -> Pairs:
    """Rows of two consecutive segments in their order (label 0) or swapped (label 1), each with
    probability 1/2.

    Arguments, cuts and errors are those of `next_sentence`.
    """
    a, b = _cut(key_B, lengths_B, context, lengths_B)
    swapped_B = _coin(key_B)
    first = _Segment(*(np.where(swapped_B, y, x) for x, y in zip(a, b, strict=True)))
    second = _Segment(*(np.where(swapped_B, x, y) for x, y in zip(a, b, strict=True)))
    return _assemble(pieces_BL, first, second, swapped_B, context, cls, sep, pad)


def _coin(key_B: UInt64) -> Bool:
    return below(fold(key_B, _LABEL), 1, 2)[:, 0] > 0


def _cut(
    key_B: UInt64, lengths_B: Integers, context: int, longest_B: Integers
) -> tuple[_Segment, _Segment]:
    """The two parts of each piece, none of them empty and the second of at most `longest_B` tokens,
    shortened until they fit."""
    room = context - MARKS
    if room < 2:
        raise ValueError(f"context = {context} has no room for two segments and {MARKS} marks")
    if lengths_B.min(initial=2) < 2:
        raise ValueError("a piece of one token cannot be cut in two")
    cut_B = 1 + below(fold(key_B, _CUT), 1, (lengths_B - 1)[:, None])[:, 0]
    rest_B = np.minimum(lengths_B - cut_B, longest_B)
    # The same as removing a token of the longer one repeatedly.
    a_B = np.minimum(cut_B, np.maximum(room - rest_B, room - room // 2))
    b_B = np.minimum(rest_B, room - a_B)
    return _Segment(cut_B - a_B, a_B), _Segment(cut_B, b_B)


def _assemble(
    source_BS: Integers, a: _Segment, b: _Segment, label_B: Bool,
    context: int, cls: int, sep: int, pad: int,
) -> Pairs:
    """Rows from segments of the rows of `source_BS`."""
    index_T = np.arange(context)
    a_B1, b_B1 = a.length_B[:, None], b.length_B[:, None]
    middle_B1 = 1 + a_B1
    last_B1 = middle_B1 + 1 + b_B1
    in_a_BT = (index_T > 0) & (index_T < middle_B1)
    in_b_BT = (index_T > middle_B1) & (index_T < last_B1)
    source_BT = np.where(
        in_a_BT, a.start_B[:, None] + index_T - 1, b.start_B[:, None] + index_T - middle_B1 - 1)
    maskable_BT = in_a_BT | in_b_BT
    text_BT = np.take_along_axis(source_BS, np.where(maskable_BT, source_BT, 0), axis=1)
    special_BT = np.where(index_T > last_B1, pad, sep)
    ids_BT = np.where(maskable_BT, text_BT, special_BT).astype(np.int32)
    ids_BT[:, 0] = cls
    return Pairs(
        ids_BT=ids_BT,
        types_BT=((index_T > middle_B1) & (index_T <= last_B1)).astype(np.int32),
        documents_BT=(index_T <= last_B1).astype(np.int32),
        labels_B=label_B.astype(np.int32),
        maskable_BT=maskable_BT,
    )
