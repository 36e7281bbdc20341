"""Masking of tokens, words and spans: exact budgets, fair draws, and the way back to the text."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from scaling.objectives.noise.keys import sequence_keys
from scaling.objectives.noise.masking import choose_tokens, choose_words, corrupt, masked_count
from scaling.objectives.noise.rows import pack
from scaling.objectives.noise.spanbert import (
    ALBERT,
    SPANBERT,
    boundaries,
    choose_spans,
    geometric,
)

pytestmark = pytest.mark.quick

RATE = 0.15
MASK, CLS, SEP = 3, 1, 2
TEXT_IDS = np.arange(10, 110)
UNLIKELY = 1e-4


def keys(rows: int, stream: str = "masking") -> np.ndarray:
    return sequence_keys(0, np.arange(rows), np.zeros(rows, np.int64), stream)


def framed(rows: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """<cls> text <sep>, and which of it is text."""
    ids = np.random.default_rng(rows).choice(TEXT_IDS, (rows, width)).astype(np.int32)
    ids[:, 0], ids[:, -1] = CLS, SEP
    return ids, ids >= TEXT_IDS[0]


def ragged(rows: int = 300, width: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Rows with holes, ends of all lengths and one of nothing; and starts of words."""
    draw = np.random.default_rng(0)
    maskable = draw.random((rows, width)) < draw.choice([0.5, 0.95, 1], (rows, 1))
    maskable &= np.arange(width) < draw.integers(1, width + 1, (rows, 1))
    maskable[0] = False
    return maskable, draw.random((rows, width)) < draw.choice([0.1, 0.5, 1], (rows, 1))


CHOOSERS = {
    "tokens": lambda key, maskable, starts: choose_tokens(key, maskable, RATE),
    "words": lambda key, maskable, starts: choose_words(key, maskable, starts, RATE),
    "spans": lambda key, maskable, starts: choose_spans(key, maskable, None, RATE)[1],
    "spans of words": lambda key, maskable, starts: choose_spans(key, maskable, starts, RATE)[1],
    "n-grams": lambda key, maskable, starts: choose_spans(key, maskable, starts, RATE, ALBERT)[1],
}


def assert_frequencies(outcomes: list, expected: dict) -> None:
    counts = Counter(outcomes)
    assert set(counts) == set(expected)
    if len(expected) > 1:
        observed = [counts[outcome] for outcome in expected]
        scaled = np.array(list(expected.values())) * len(outcomes)
        assert stats.chisquare(observed, scaled).pvalue > UNLIKELY


def test_worked_example_of_bert():
    words = ["<cls>", "I", "love", "this", "red", "car", "<mask>"]
    text = np.arange(6)
    maskable = np.tile(text > 0, (50, 1))
    chosen = choose_tokens(keys(50), maskable, RATE)
    assert np.all(chosen.sum(axis=1) == 1)
    seen = corrupt(keys(50, "corrupt"), np.tile(text, (50, 1)), chosen, mask=6,
                   replacements=text[1:])
    printed = {(" ".join(words[i] for i in row), words[text[choice][0]])
               for row, choice in zip(seen, chosen, strict=True)}
    assert ("<cls> I <mask> this red car", "love") in printed
    assert {target for _, target in printed} == set(words[1:-1])


@pytest.mark.parametrize("name", ["tokens", "spans", "spans of words"])
def test_budget_is_exact(name):
    maskable, starts = ragged()
    chosen = CHOOSERS[name](keys(len(maskable)), maskable, starts) > 0
    assert not (chosen & ~maskable).any()
    expected = [min(n, max(1, round(RATE * n))) for n in maskable.sum(axis=1).tolist()]
    assert chosen.sum(axis=1).tolist() == expected
    assert expected[0] == 0


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_rates_at_the_ends(rate):
    maskable, _ = ragged()
    budget = masked_count(maskable.sum(axis=1), rate)
    for chosen in (choose_tokens(keys(300), maskable, rate),
                   choose_spans(keys(300), maskable, None, rate)[0]):
        np.testing.assert_array_equal(chosen.sum(axis=1), budget)
    with pytest.raises(ValueError, match=r"rate = 1\.5"):
        choose_tokens(keys(300), maskable, 1.5)


def test_million_tokens_have_the_rates_of_bert():
    ids, maskable = framed(2000, 514)
    chosen = choose_tokens(keys(2000), maskable, RATE)
    seen = corrupt(keys(2000, "corrupt"), ids, chosen, mask=MASK, replacements=TEXT_IDS)
    assert maskable.sum() > 10**6
    assert abs(chosen.sum() / maskable.sum() - RATE) < 0.5 / 512
    np.testing.assert_array_equal(seen[~chosen], ids[~chosen])
    before, after = ids[chosen], seen[chosen]
    n, again = len(before), 0.1 / len(TEXT_IDS)  # a random token may be the same one
    for hits, share in ((after == MASK, 0.8), (after == before, 0.1 + again)):
        assert stats.binomtest(int(hits.sum()), n, share).pvalue > UNLIKELY
    drawn = after[(after != MASK) & (after != before)]
    counts = np.bincount(drawn, minlength=TEXT_IDS[-1] + 1)
    assert counts[:TEXT_IDS[0]].sum() == 0
    # What a token becomes says nothing about what it was.
    table = np.zeros((100, 100))
    np.add.at(table, (before[after != MASK] - 10, after[after != MASK] - 10), 1)
    off_diagonal = table[~np.eye(100, dtype=bool)]
    assert stats.chisquare(off_diagonal).pvalue > UNLIKELY
    # Put the targets back.
    count = chosen.sum(axis=1)
    targets = pack(before, count, 0, 77)
    seen[chosen] = targets[np.arange(77) < count[:, None]]
    np.testing.assert_array_equal(seen, ids)


def test_every_place_is_as_likely():
    rows, width = 20_000, 40
    chosen = choose_tokens(keys(rows), np.ones((rows, width), bool), RATE)
    z = (chosen.sum(axis=0) - rows * RATE) / np.sqrt(rows * RATE * (1 - RATE))
    assert np.abs(z).max() < 4.5
    assert z.std() < 1.5


def test_every_set_is_as_likely():
    maskable = np.tile([False, True, True, False, True, True], (6000, 1))
    chosen = choose_tokens(keys(6000), maskable, 0.5)
    sets = list(itertools.combinations([1, 2, 4, 5], 2))
    assert_frequencies([tuple(np.flatnonzero(row)) for row in chosen], dict.fromkeys(sets, 1 / 6))


@pytest.mark.parametrize(("lengths", "rate"), [
    ((1, 1, 2), 0.5), ((5, 3, 2, 1), 0.5), ((4, 3, 3, 2, 1, 1), 0.6), ((3, 3), 0.3),
])
def test_words_are_taken_greedily_in_random_order(lengths, rate):
    budget = round(rate * sum(lengths))
    expected: Counter = Counter()
    orders = list(itertools.permutations(range(len(lengths))))
    for order in orders:
        taken, left = set(), budget
        for word in order:
            if lengths[word] <= left:
                taken.add(word)
                left -= lengths[word]
        expected[tuple(sorted(taken))] += 1 / len(orders)
    starts = np.concatenate([np.arange(n) == 0 for n in lengths])
    starts[0] = False  # the first maskable token begins a word in any case
    word = np.repeat(np.arange(len(lengths)), lengths)
    rows = 6000
    chosen = choose_words(keys(rows), np.ones((rows, len(word)), bool),
                          np.tile(starts, (rows, 1)), rate)
    for row in chosen[:200]:
        assert all(len(set(row[word == w])) == 1 for w in range(len(lengths)))
    assert_frequencies([tuple(np.unique(word[row]).tolist()) for row in chosen], dict(expected))


def test_words_keep_within_the_budget_and_no_other_fits():
    maskable, starts = ragged()
    chosen = choose_words(keys(300), maskable, starts, RATE)
    assert not (chosen & ~maskable).any()
    left = masked_count(maskable.sum(axis=1), RATE) - chosen.sum(axis=1)
    assert left.min() >= 0
    for row in range(300):
        for word in runs(maskable[row], starts[row]):
            assert len(set(chosen[row, word])) == 1
            assert chosen[row, word[0]] or len(word) > left[row]


def runs(maskable: np.ndarray, starts: np.ndarray) -> list[list[int]]:
    """The places of each word of a row, token by token."""
    found: list[list[int]] = []
    for place in np.flatnonzero(maskable):
        if place == 0 or starts[place] or not maskable[place - 1]:
            found.append([])
        found[-1].append(int(place))
    return found


def test_tokens_of_a_span_fare_alike():
    ids, maskable = framed(400, 130)
    chosen, span = choose_spans(keys(400), maskable, None, RATE)
    seen = corrupt(keys(400, "corrupt"), ids, chosen, mask=MASK, replacements=TEXT_IDS + 100,
                   unit_BT=span)
    np.testing.assert_array_equal(seen[~chosen], ids[~chosen])
    fates = np.where(seen == MASK, 0, np.where(seen == ids, 2, 1))
    shares, different = Counter(), 0
    for row in range(400):
        for number in range(1, span[row].max() + 1):
            here = span[row] == number
            assert len(set(fates[row, here])) == 1
            shares[int(fates[row, here][0])] += 1
            drawn = seen[row, here] if fates[row, here][0] == 1 else []
            different += len(set(drawn)) > 1
    assert different > 100
    assert stats.chisquare(
        [shares[i] for i in range(3)], np.array([0.8, 0.1, 0.1]) * shares.total()
    ).pvalue > UNLIKELY


def test_other_shares():
    ids, maskable = framed(20, 50)
    chosen = choose_tokens(keys(20), maskable, RATE)
    seen = corrupt(keys(20), ids, chosen, mask=MASK, replacements=TEXT_IDS[:0], mask_share=1.0,
                   random_share=0.0)
    np.testing.assert_array_equal(seen, np.where(chosen, MASK, ids))
    for mask_share, random_share in ((0.8, 0.3), (-0.1, 0.5)):
        with pytest.raises(ValueError, match="not shares of a whole"):
            corrupt(keys(20), ids, chosen, mask=MASK, replacements=TEXT_IDS,
                    mask_share=mask_share, random_share=random_share)
    with pytest.raises(ValueError, match="no replacements"):
        corrupt(keys(20), ids, chosen, mask=MASK, replacements=TEXT_IDS[:0])


def test_published_lengths():
    lengths = np.arange(1, 11)
    assert round(float(SPANBERT @ lengths), 1) == 3.8
    np.testing.assert_allclose(SPANBERT[1:] / SPANBERT[:-1], 0.8)
    np.testing.assert_allclose(ALBERT, np.array([6, 3, 2]) / 11)
    with pytest.raises(ValueError, match="longest = 0"):
        geometric(0.2, 0)


@pytest.mark.parametrize("lengths", [SPANBERT, ALBERT], ids=["SpanBERT", "ALBERT"])
@pytest.mark.parametrize("words", [False, True], ids=["tokens", "words"])
def test_spans_have_the_lengths_that_were_asked_for(lengths, words):
    # Rows so long that the one span of each that is cut does not count.
    rows, width = 12, 12_000
    maskable = np.ones((rows, width), bool)
    starts = np.random.default_rng(0).random((rows, width)) < 0.6
    starts[:, 0] = True
    _, span = choose_spans(keys(rows), maskable, starts if words else None, RATE, lengths)
    row, place = np.nonzero(span)
    number = np.unique(row * width + span[row, place], return_inverse=True)[1]
    size = np.bincount(number, starts[row, place] if words else None).astype(np.int64)
    counts = np.bincount(size, minlength=len(lengths) + 1)
    assert counts[0] == 0
    assert len(size) > 3000
    assert len(counts) == len(lengths) + 1
    assert stats.chisquare(counts[1:], lengths * counts[1:].sum()).pvalue > UNLIKELY


@pytest.mark.parametrize("words", [False, True], ids=["tokens", "words"])
def test_spans_are_runs_of_whole_words(words):
    maskable, starts = ragged()
    chosen, span = choose_spans(keys(300), maskable, starts if words else None, 0.4)
    np.testing.assert_array_equal(chosen, span > 0)
    for row in range(300):
        found = span[row, chosen[row]]
        # Numbered from 1 in the order of the text.
        assert np.unique(found).tolist() == list(range(1, len(set(found)) + 1))
        assert np.all(np.diff(found) >= 0)
        for number in np.unique(found):
            assert np.all(np.diff(np.flatnonzero(span[row] == number)) == 1)
        if words:
            parts = [w for w in runs(maskable[row], starts[row])
                     if len(set(span[row, w])) > 1]
            assert len(parts) <= 1  # the word at which the budget was spent
            for word in parts:
                assert np.all(np.diff(chosen[row, word].astype(int)) <= 0)


def test_every_place_among_the_other_tokens_is_as_likely():
    """All outcomes enumerated: three spans of one token lie before any of the three others, or
    behind them, each on its own."""
    expected: Counter = Counter()
    for gaps in itertools.product(range(4), repeat=3):
        expected[tuple(gap + i for i, gap in enumerate(sorted(gaps)))] += 1 / 4**3
    chosen, _ = choose_spans(keys(20_000), np.ones((20_000, 6), bool), None, 0.5, np.ones(1))
    assert_frequencies([tuple(np.flatnonzero(row).tolist()) for row in chosen], dict(expected))


def test_spans_lie_anywhere():
    rows, width, edge = 20_000, 120, 30
    chosen, span = choose_spans(keys(rows), np.ones((rows, width), bool), None, RATE)
    p = chosen.mean(axis=0)
    # A token at an end is in fewer of the spans that might hold it; within there is no difference.
    inner = p[edge:-edge]
    z = (inner - inner.mean()) / np.sqrt(inner.mean() * (1 - inner.mean()) / rows)
    assert np.abs(z).max() < 4.5
    np.testing.assert_allclose(inner.mean(), RATE, rtol=0.05)
    # Nor between the two directions.
    z = (p[:10] - p[::-1][:10]) / np.sqrt((p[:10] + p[::-1][:10]) / rows)
    assert np.abs(z).max() < 4.5
    assert span[:, -1].max() > 0


def test_spans_that_are_used_are_not_the_first_of_those_drawn():
    # Words of 1 and of 19 tokens: of the spans that would do in any case only some are used.
    rows, period, periods = 8000, 20, 20
    starts = np.tile(np.arange(period * periods) % period < 2, (rows, 1))
    chosen, _ = choose_spans(keys(rows), np.ones_like(starts), starts, RATE)
    p = chosen.mean(axis=0).reshape(periods, period).mean(axis=1)
    assert p[0] < p[5:-5].mean()
    assert p.max() < 1.15 * p[5:-5].mean()


@pytest.mark.parametrize("width", [40, 60])
def test_boundaries_are_the_neighbours_of_each_span(width):
    maskable, starts = ragged()
    _, span = choose_spans(keys(300), maskable, starts, 0.4)
    places = 4
    spans, position, weights = boundaries(span, width, places)
    assert spans.shape == (300, width, 3)
    assert weights.dtype == np.float32
    kinds = Counter()
    for row in range(300):
        at = 0
        for place in np.flatnonzero(span[row]):
            begin, end = place, place
            while begin >= 0 and span[row, begin] == span[row, place]:
                begin -= 1
            while end < span.shape[1] and span[row, end] == span[row, place]:
                end += 1
            known = begin >= 0 and end < span.shape[1] and place - begin - 1 < places
            kinds[known] += 1
            assert position[row, at] == place
            assert weights[row, at] == known
            if known:
                assert spans[row, at].tolist() == [begin, end, place - begin - 1]
            at += 1
        assert not weights[row, at:].any()
    assert min(kinds[True], kinds[False]) > 100
    assert spans.min() >= 0
    assert spans[..., :2].max() < span.shape[1]
    assert spans[..., 2].max() < places
    with pytest.raises(ValueError, match="longer than 3"):
        boundaries(span, 3, places)


@pytest.mark.parametrize("name", list(CHOOSERS))
def test_a_row_does_not_depend_on_its_batch(name):
    maskable, starts = ragged()
    choose = CHOOSERS[name]
    ids = np.random.default_rng(1).choice(TEXT_IDS, maskable.shape)
    key = keys(300)

    def noise(some: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        chosen = choose(key[some], maskable[some], starts[some])
        return chosen, corrupt(key[some], ids[some], chosen > 0, mask=MASK, replacements=TEXT_IDS)

    whole = noise(np.arange(300))
    for some in (np.array([5]), np.array([299, 0, 17]), np.array([0]), np.arange(0, 300, 7)):
        for all_rows, few in zip(whole, noise(some), strict=True):
            np.testing.assert_array_equal(all_rows[some], few)
    assert len({row.tobytes() for row in choose(keys(50, "a"), maskable[[9] * 50],
                                                starts[[9] * 50])}) > 10
