"""Rows of two segments: what they are made of, and that no length tells the label."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from scaling.objectives.noise.keys import sequence_keys
from scaling.objectives.noise.masking import choose_tokens
from scaling.objectives.noise.pairs import MARKS, Pairs, next_sentence, sentence_order

pytestmark = pytest.mark.quick

CLS, SEP, PAD = 1, 2, 0
FIRST, OTHER, STEP = 1000, 10**6, 1000  # ids of piece b are FIRST + STEP b + place
UNLIKELY = 1e-4
ROWS, WIDTH, CONTEXT = 600, 60, 40


def keys(rows: int) -> np.ndarray:
    return sequence_keys(0, np.arange(rows), np.zeros(rows, np.int64), "pairs")


def pieces(lengths: np.ndarray, base: int) -> np.ndarray:
    """Ids that say which piece they are from and where in it."""
    ids = base + STEP * np.arange(len(lengths))[:, None] + np.arange(lengths.max())
    return np.where(np.arange(lengths.max()) < lengths[:, None], ids, PAD).astype(np.uint32)


def lengths_between(low: int, high: int, rows: int = ROWS, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high + 1, rows)


def following(lengths: np.ndarray, others: np.ndarray, context: int = CONTEXT) -> Pairs:
    return next_sentence(keys(len(lengths)), pieces(lengths, FIRST), lengths,
                         pieces(others, OTHER), others, context, cls=CLS, sep=SEP, pad=PAD)


def ordered(lengths: np.ndarray, context: int = CONTEXT) -> Pairs:
    return sentence_order(keys(len(lengths)), pieces(lengths, FIRST), lengths, context,
                          cls=CLS, sep=SEP, pad=PAD)


def segments(pairs: Pairs) -> list[tuple[np.ndarray, np.ndarray]]:
    """A and B of each row, read from its ids; the layout is checked on the way."""
    parts = []
    for ids, types, documents, maskable in zip(
            pairs.ids_BT, pairs.types_BT, pairs.documents_BT, pairs.maskable_BT, strict=True):
        middle, end = np.flatnonzero(ids == SEP)
        assert ids[0] == CLS
        assert np.all(ids[end + 1:] == PAD)
        a, b = ids[1:middle], ids[middle + 1:end]
        assert len(a)
        assert len(b)
        rest = len(ids) - end - 1
        assert types.tolist() == [0] * (len(a) + 2) + [1] * (len(b) + 1) + [0] * rest
        assert documents.tolist() == [1] * (len(a) + len(b) + MARKS) + [0] * rest
        np.testing.assert_array_equal(maskable, ~np.isin(ids, [CLS, SEP, PAD]))
        parts.append((a, b))
    return parts


def is_run(ids: np.ndarray) -> bool:
    return bool(np.all(np.diff(ids.astype(np.int64)) == 1))


def length_of(parts: list, which: int) -> np.ndarray:
    return np.array([len(part[which]) for part in parts])


def test_next_sentence_follows_or_is_from_elsewhere():
    lengths, others = lengths_between(2, WIDTH), lengths_between(1, WIDTH, seed=1)
    pairs = following(lengths, others)
    for row, (a, b) in enumerate(segments(pairs)):
        assert is_run(a)
        assert is_run(b)
        assert (a[0] - FIRST) // STEP == row
        if pairs.labels_B[row]:
            assert (b[0] - OTHER) // STEP == row
        else:
            assert is_run(np.concatenate([a, b]))
    assert stats.binomtest(int(pairs.labels_B.sum()), ROWS).pvalue > UNLIKELY


def test_sentence_order_is_kept_or_swapped():
    lengths = lengths_between(2, WIDTH)
    pairs = ordered(lengths)
    for row, (a, b) in enumerate(segments(pairs)):
        text = np.concatenate([b, a] if pairs.labels_B[row] else [a, b])
        assert is_run(text)
        assert (text[0] - FIRST) // STEP == row
        # Nothing is lost but for want of room.
        assert len(text) == min(lengths[row], CONTEXT - MARKS)
    assert stats.binomtest(int(pairs.labels_B.sum()), ROWS).pvalue > UNLIKELY


@pytest.mark.parametrize("context", [CONTEXT, CONTEXT + 1])
def test_the_longer_segment_gives_way(context):
    """Token by token, and the second of two equal ones (BERT's truncate_seq_pair); of the first it
    is the beginning that goes, and of the second the end."""
    room = context - MARKS
    lengths = np.full(ROWS, WIDTH)
    pairs = ordered(lengths, context)
    parts, halves = segments(pairs), 0
    for row, (a, b) in enumerate(parts):
        first, second = (b, a) if pairs.labels_B[row] else (a, b)
        cut = first[-1] - FIRST - STEP * row + 1
        left, right = cut, WIDTH - cut
        while left + right > room:
            left, right = (left - 1, right) if left > right else (left, right - 1)
        assert (len(first), len(second)) == (left, right)
        assert second[0] - FIRST - STEP * row == cut
        halves += min(cut, WIDTH - cut) > room // 2 + 1
    assert 0 < halves < ROWS


def test_every_cut_is_equally_likely():
    parts = segments(ordered(np.full(4000, 6)))
    pairs = ordered(np.full(4000, 6))
    first = np.where(pairs.labels_B == 1, length_of(parts, 1), length_of(parts, 0))
    counts = np.bincount(first)
    assert len(counts) == 6
    assert stats.chisquare(counts[1:]).pvalue > UNLIKELY


@pytest.mark.parametrize("context", [20, 200])
def test_lengths_say_nothing_about_the_label(context):
    rows = 4000
    lengths, others = lengths_between(2, 30, rows), lengths_between(1, 30, rows, seed=1)
    pairs = following(lengths, others, context)
    parts = segments(pairs)
    for length in (length_of(parts, 0), length_of(parts, 1),
                   length_of(parts, 0) + length_of(parts, 1)):
        same, other = length[pairs.labels_B == 0], length[pairs.labels_B == 1]
        assert stats.mannwhitneyu(same, other).pvalue > UNLIKELY
        assert stats.ks_2samp(same, other).pvalue > UNLIKELY


def test_a_segment_from_elsewhere_begins_anywhere():
    rows = 4000
    pairs = following(np.full(rows, 2), np.full(rows, 8))
    begins = np.array([
        b[0] - OTHER - STEP * row for row, (_, b) in enumerate(segments(pairs))
        if pairs.labels_B[row]
    ])
    counts = np.bincount(begins)
    assert len(counts) == 8
    assert stats.chisquare(counts).pvalue > UNLIKELY


def test_a_row_does_not_depend_on_its_batch():
    lengths, others = lengths_between(2, WIDTH), lengths_between(1, WIDTH, seed=1)
    some = np.array([17, 3, 400])
    whole = following(lengths, others), ordered(lengths)
    part = (
        next_sentence(keys(ROWS)[some], pieces(lengths, FIRST)[some], lengths[some],
                      pieces(others, OTHER)[some], others[some], CONTEXT,
                      cls=CLS, sep=SEP, pad=PAD),
        sentence_order(keys(ROWS)[some], pieces(lengths, FIRST)[some], lengths[some], CONTEXT,
                       cls=CLS, sep=SEP, pad=PAD),
    )
    for all_rows, few in zip(whole, part, strict=True):
        for a, b in zip(all_rows, few, strict=True):
            np.testing.assert_array_equal(a[some], b)


def test_marks_are_never_chosen():
    pairs = ordered(lengths_between(2, WIDTH))
    chosen = choose_tokens(keys(ROWS), pairs.maskable_BT, 1.0)
    assert not np.isin(pairs.ids_BT[chosen], [CLS, SEP, PAD]).any()
    assert chosen.sum() == (pairs.ids_BT >= FIRST).sum()


def test_what_cannot_be_paired_is_refused():
    two = np.array([2, 2])
    with pytest.raises(ValueError, match="context = 4 has no room"):
        ordered(two, 4)
    with pytest.raises(ValueError, match="one token cannot be cut"):
        ordered(np.array([2, 1]))
    with pytest.raises(ValueError, match="another document has no token"):
        following(two, np.array([3, 0]))
    assert [len(part) for part in segments(ordered(two, 5))[0]] == [1, 1]
