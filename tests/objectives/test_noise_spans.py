"""Span corruption and the prefix's split: T5's facts, the worked example, and the way back."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from scaling.config.spans import noise_counts, span_lengths
from scaling.errors import UserError
from scaling.objectives.noise.keys import sequence_keys
from scaling.objectives.noise.prefix import prefix_lengths, prefix_mask, split_at_prefix
from scaling.objectives.noise.spans import (
    corrupt_spans,
    noise_mask,
    restore,
)

pytestmark = pytest.mark.quick

PAD, EOS = 0, 1
TEXT = ["I", "love", "this", "red", "car"]
SENTINELS = np.arange(199, 99, -1)  # descending, as T5's are


def keys(rows: int, stream: str = "spans"):
    return sequence_keys(7, np.arange(rows), np.zeros(rows, np.int64), stream)


def texts(rows: int, length: int):
    """Ids that are no special token, with an end of document inside of the text."""
    ids = np.random.default_rng(rows).integers(2, 100, (rows, length)).astype(np.uint16)
    ids[:, length // 2] = EOS
    return ids


# Facts of T5's preprocessing: reference lengths of released tests and of the standard task.
@pytest.mark.parametrize(("given", "lengths"), [
    ((64, 0.20, 2.0), (70, 22)),
    ((64, 0.20, 1.0), (63, 27)),
    ((512, 0.15, 3.0), (568, 114)),
])
def test_lengths_of_t5(given, lengths):
    assert span_lengths(*given) == lengths


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.15, 0.3, 0.8])
@pytest.mark.parametrize("mean", [1.0, 2.5, 64.0])
def test_text_is_the_longest_that_fits(rate, mean):
    inputs_length = 97

    def sides(length):
        noise, _ = noise_counts(length, rate, mean)
        mask = noise_mask(keys(2), length, rate, mean)
        assert (mask.sum(axis=1) == noise).all()
        inputs, targets = corrupt_spans(texts(2, length), mask, np.arange(200, 400), EOS, PAD)
        return inputs.shape[1], targets.shape[1]

    length, targets_length = span_lengths(inputs_length, rate, mean)
    inputs, targets = sides(length)
    assert inputs <= inputs_length
    assert targets == targets_length
    assert sides(length + 1)[0] > inputs_length


def test_at_rate_one_half_the_targets_fit_too():
    given_up = 0
    for inputs_length in range(20, 60):
        length, targets = span_lengths(inputs_length, 0.5, 3.0)
        noise, spans = noise_counts(length + 1, 0.5, 3.0)
        given_up += length + 1 - noise + spans + 1 <= inputs_length
        assert targets <= inputs_length
    assert given_up


@pytest.mark.parametrize("given", [(2, 0.15, 3.0), (64, 1.0, 3.0), (64, -0.1, 3.0), (64, 0.2, 0.5)])
def test_lengths_that_cannot_be(given):
    with pytest.raises(ValueError, match=r"inputs_length|rate|mean_span"):
        span_lengths(*given)


def test_mask_of_t5():
    mask = noise_mask(keys(50), 32, 0.25, 2.0)
    starts = mask & ~np.pad(mask, ((0, 0), (1, 0)))[:, :-1]
    assert (mask.sum(axis=1) == 8).all()
    assert (starts.sum(axis=1) == 4).all()
    assert not mask[:, 0].any()
    assert mask[:, -1].all()
    assert not noise_mask(keys(3), 32, 0.0, 3.0).any()


def test_roll_only_rotates():
    plain, rolled = (noise_mask(keys(400), 12, 0.4, 2.0, roll=roll) for roll in (False, True))
    shifts = Counter()
    for before, after in zip(plain, rolled, strict=True):
        shift = [s for s in range(12) if np.array_equal(np.roll(before, s), after)]
        assert shift
        shifts[shift[0]] += 1
    assert len(shifts) == 12


def test_every_partition_is_equally_likely():
    length, noise, spans = 11, 5, 3
    assert noise_counts(length, noise / length, noise / spans) == (noise, spans)

    def compositions(items):
        return [c for c in itertools.product(range(1, items + 1), repeat=spans) if sum(c) == items]

    expected = set()
    for kept, gone in itertools.product(compositions(length - noise), compositions(noise)):
        row = [b for k, g in zip(kept, gone, strict=True) for b in [False] * k + [True] * g]
        expected.add(tuple(row))
    assert len(expected) == 60  # (5 choose 2) * (4 choose 2)
    counts = Counter(map(tuple, noise_mask(keys(30_000), length, noise / length, noise / spans)
                         .tolist()))
    assert set(counts) == expected
    assert chisquare(list(counts.values())).pvalue > 1e-3


def test_worked_example():
    words = [*TEXT, "<X>", "<Y>", "<Z>"]
    ids = {word: number for number, word in enumerate(words)}
    text = np.array([[ids[word] for word in TEXT]])
    sentinels = np.array([ids["<X>"], ids["<Y>"], ids["<Z>"]])
    mask = np.array([[False, True, False, True, True]])
    inputs, targets = corrupt_spans(text, mask, sentinels, None, -1, final_sentinel=True)
    assert " ".join(words[i] for i in inputs[0]) == "I <X> this <Y>"
    assert " ".join(words[i] for i in targets[0]) == "<X> love <Y> red car <Z>"


def reference(ids, mask, final_sentinel):
    """Span corruption of one row, written a token at a time."""
    inputs, targets, spans = [], [], 0
    for place, (token, noise) in enumerate(zip(ids, mask, strict=True)):
        if not noise:
            inputs.append(token)
            continue
        if place == 0 or not mask[place - 1]:
            inputs.append(SENTINELS[spans])
            targets.append(SENTINELS[spans])
            spans += 1
        targets.append(token)
    return [*inputs, EOS], [*targets, *([SENTINELS[spans]] if final_sentinel else []), EOS]


@pytest.mark.parametrize("final_sentinel", [False, True])
def test_any_mask_is_corrupted_and_restored(final_sentinel):
    ids = texts(60, 40)
    # From no noise to nothing else, with noise at either end.
    rates = np.linspace(0, 1, 60)[:, None]
    mask = np.random.default_rng(1).random((60, 40)) < rates
    inputs, targets = corrupt_spans(ids, mask, SENTINELS, EOS, PAD, final_sentinel=final_sentinel)
    for row in range(60):
        for side, expected in zip((inputs, targets), reference(ids[row], mask[row], final_sentinel),
                                  strict=True):
            assert side[row].tolist() == expected + [PAD] * (side.shape[1] - len(expected))
    np.testing.assert_array_equal(restore(inputs, targets, SENTINELS, EOS, PAD), ids)


def test_restore_refuses_sides_of_different_texts():
    mask = noise_mask(keys(4), 40, 0.3, 3.0)
    inputs, targets = corrupt_spans(texts(4, 40), mask, SENTINELS, EOS, PAD)
    ordinary = np.insert(targets, 0, 50, axis=1)  # a token before the first sentinel
    targets[2, 0] = SENTINELS[5]
    for wrong in (targets, ordinary):
        with pytest.raises(ValueError, match="of the targets differ"):
            restore(inputs, wrong, SENTINELS, EOS, PAD)


def test_too_few_sentinels():
    mask = noise_mask(keys(4), 40, 0.5, 2.0)
    corrupt_spans(texts(4, 40), mask, SENTINELS[:10], EOS, PAD)
    with pytest.raises(UserError, match=r"has 9, and span corruption needs 10"):
        corrupt_spans(texts(4, 40), mask, SENTINELS[:9], EOS, PAD)
    with pytest.raises(UserError, match=r"has 10, and span corruption needs 11"):
        corrupt_spans(texts(4, 40), mask, SENTINELS[:10], EOS, PAD, final_sentinel=True)


def test_a_row_is_the_same_in_any_batch():
    few = [9, 3, 17]
    for roll in (False, True):
        whole, some = (noise_mask(k, 50, 0.2, 3.0, roll=roll) for k in (keys(20), keys(20)[few]))
        np.testing.assert_array_equal(whole[few], some)
    np.testing.assert_array_equal(prefix_lengths(keys(20), 50)[few],
                                  prefix_lengths(keys(20)[few], 50))


def test_prefixes_are_uniform():
    counts = Counter(prefix_lengths(keys(20_000), 11).tolist())
    assert set(counts) == set(range(1, 11))
    assert chisquare(list(counts.values())).pvalue > 1e-3
    with pytest.raises(ValueError, match="no room"):
        prefix_lengths(keys(1), 1)


def test_prefix_of_a_decoder():
    given, following = TEXT[:-1], TEXT[1:]  # GPT's shift
    prefix, weight = prefix_mask(np.array([1, 3]), len(given))
    assert prefix.tolist() == [[True, False, False, False], [True, True, True, False]]
    # One token of prefix is GPT's own objective: all that follows is predicted.
    assert weight[0].tolist() == [1, 1, 1, 1]
    assert [word for word, w in zip(following, weight[1], strict=True) if w] == ["red", "car"]


def test_halves_of_an_encoder_decoder_make_the_text():
    ids = texts(30, 12)
    prefix = prefix_lengths(keys(30), 12)
    for eos in (None, EOS):
        source, source_valid, target, target_valid = split_at_prefix(prefix, ids, eos, PAD)
        assert source.shape == target.shape == (30, 11 + (eos is not None))
        for row in range(30):
            halves = [source[row, source_valid[row]].tolist(),
                      target[row, target_valid[row]].tolist()]
            if eos is not None:
                assert [half.pop() for half in halves] == [EOS, EOS]
            assert len(halves[0]) == prefix[row]
            assert halves[0] + halves[1] == ids[row].tolist()
        assert (source[~source_valid] == PAD).all()
        assert (target[~target_valid] == PAD).all()
