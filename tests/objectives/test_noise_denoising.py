"""BART's five noises: their rates, and what each of them leaves whole."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from scipy.stats import binom, chisquare, poisson

from scaling.objectives.noise.denoising import (
    delete_tokens,
    denoising,
    infill,
    mask_tokens,
    permute_sentences,
    rotate,
)
from scaling.objectives.noise.keys import sequence_keys

pytestmark = pytest.mark.quick

PAD, MASK = 0, 1


def keys(rows: int):
    return sequence_keys(3, np.arange(rows), np.zeros(rows, np.int64), "denoising")


def numbered(rows: int, width: int):
    """Texts of every length from 0 to width, whose tokens are their places: 2, 3, 4 ..."""
    length = np.arange(rows) % (width + 1)
    valid = np.arange(width) < length[:, None]
    return np.where(valid, 2 + np.arange(width), PAD), valid, length


def sentences(rows: int, width: int):
    return np.random.default_rng(5).random((rows, width)) < 0.2


NOISES = {
    "permutation": lambda key, ids, valid, ends: permute_sentences(key, ids, valid, ends, PAD),
    "masking": lambda key, ids, valid, ends: mask_tokens(key, ids, valid, 0.3, MASK, PAD),
    "deletion": lambda key, ids, valid, ends: delete_tokens(key, ids, valid, 0.3, PAD),
    "infilling": lambda key, ids, valid, ends: infill(key, ids, valid, 0.3, 3.0, MASK, PAD),
    "rotation": lambda key, ids, valid, ends: rotate(key, ids, valid, PAD),
    "all": lambda key, ids, valid, ends: denoising(
        key, ids, valid, ends, mask=MASK, pad=PAD,
        noises=("rotation", "infilling", "masking", "deletion", "permutation")),
}


@pytest.mark.parametrize("noise", NOISES)
def test_rows_are_padded_and_the_same_in_any_batch(noise):
    ids, valid, _ = numbered(90, 40)
    ends = sentences(90, 40)
    out, out_valid = NOISES[noise](keys(90), ids, valid, ends)
    assert out.shape == out_valid.shape == (90, 40)
    assert out.dtype == np.int32
    assert (out[~out_valid] == PAD).all()
    assert (out[out_valid] != PAD).all()
    length = out_valid.sum(axis=1)
    assert (out_valid == (np.arange(40) < length[:, None])).all()
    assert not np.array_equal(out, ids)
    few = [80, 2, 31]
    some, some_valid = NOISES[noise](keys(90)[few], ids[few], valid[few], ends[few])
    np.testing.assert_array_equal(some, out[few])
    np.testing.assert_array_equal(some_valid, out_valid[few])


@pytest.mark.parametrize("noise", ["masking", "deletion", "infilling"])
def test_what_is_left_stands_in_its_order(noise):
    ids, valid, length = numbered(90, 40)
    out, out_valid = NOISES[noise](keys(90), ids, valid, None)
    for row in range(90):
        kept = [token for token in out[row, out_valid[row]].tolist() if token != MASK]
        assert kept == sorted(set(kept))
        assert set(kept) <= set(ids[row, : length[row]].tolist())
        if noise == "masking":
            place = out[row] != MASK
            assert (out[row, place] == ids[row, place]).all()


@pytest.mark.parametrize("noise", [mask_tokens, delete_tokens])
def test_rates_of_masking_and_deletion(noise):
    rows, width, rate = 2000, 500, 0.3
    ids = np.full((rows, width), 2)
    given = (rate, MASK, PAD) if noise is mask_tokens else (rate, PAD)
    out, _ = noise(keys(rows), ids, np.ones((rows, width), bool), *given)
    gone = rows * width - int((out == 2).sum())
    assert abs(gone - rows * width * rate) < 4 * binom(rows * width, rate).std()


def spans_of(row):
    """The masks of an infilled row in which tokens are their places, as far as they are certain:
    the tokens that a mask stands for, where another mask does not touch it."""
    around = [1, *row, None]
    return [after - before - 1
            for before, token, after in zip(around, around[1:], around[2:], strict=False)
            if token == MASK and before != MASK and after not in (MASK, None)]


def test_infilling_has_its_rate_and_its_lengths():
    rows, width, rate, mean = 6000, 500, 0.3, 3.0
    ids = np.tile(2 + np.arange(width), (rows, 1))
    out, valid = infill(keys(rows), ids, np.ones((rows, width), bool), rate, mean, MASK, PAD)
    masks = (out == MASK).sum(axis=1)
    assert (valid.sum(axis=1) - masks == width * (1 - rate)).all()  # the number that stays is exact
    # Another length is drawn as long as the sum of those before, which is Poisson too, is short.
    needed = sum(poisson(k * mean).cdf(width * rate - 1) for k in range(200))
    assert abs(masks.mean() - needed) < 4 * masks.std() / np.sqrt(rows)
    # Their lengths: Poisson's. The last of each row is cut short, and is one of fifty.
    counts = Counter(size for row in out.tolist() for size in spans_of(row))
    total = counts.total()
    assert total > 240_000
    for size in range(8):
        expected = poisson(mean).pmf(size)
        assert abs(counts[size] / total - expected) < 4 * np.sqrt(expected / total) + 1 / 50 / 3


def test_infilled_spans_lie_anywhere():
    rows, width = 20_000, 6
    ids = np.tile(2 + np.arange(width), (rows, 1))
    out, valid = infill(keys(rows), ids, np.ones((rows, width), bool), 1 / 6, 100.0, MASK, PAD)
    # A mean so large that each row has one span, cut to one token: at each place equally often.
    assert (valid.sum(axis=1) == width).all()
    assert ((out == MASK).sum(axis=1) == 1).all()
    assert chisquare((out == MASK).sum(axis=0)).pvalue > 1e-3


def test_infilling_never_overflows():
    ids, valid, length = numbered(3000, 3)
    out, out_valid = infill(keys(3000), ids, valid, 0.3, 0.05, MASK, PAD)
    # Nearly all lengths drawn are 0, and every row is as full of masks as it can be.
    kept = ((out != MASK) & out_valid).sum(axis=1)
    np.testing.assert_array_equal(kept, length - np.rint(0.3 * length))
    assert out_valid[length >= 2].sum(axis=1).max() == 3


def test_permuted_sentences_are_whole_and_in_every_order():
    rows, width = 12_000, 9
    ids = np.tile(2 + np.arange(width), (rows, 1))
    valid = np.tile(np.arange(width) < 8, (rows, 1))
    ends = np.isin(np.arange(width), [2, 3, 8])  # the last sentence has no end in the text
    out, _ = permute_sentences(keys(rows), ids, valid, np.tile(ends, (rows, 1)), PAD)
    parts = [[2, 3, 4], [5], [6, 7, 8, 9]]
    orders = {tuple(itertools.chain(*order)) for order in itertools.permutations(parts)}
    counts = Counter(map(tuple, out[:, :8].tolist()))
    assert set(counts) == orders
    assert chisquare(list(counts.values())).pvalue > 1e-3


def test_permutation_and_rotation_can_be_undone():
    ids, valid, _ = numbered(90, 40)
    for noise in ("permutation", "rotation"):
        out, out_valid = NOISES[noise](keys(90), ids, valid, sentences(90, 40))
        assert (out_valid == valid).all()
        back = np.sort(np.where(valid, out, 1000), axis=1)  # a token says where it was
        np.testing.assert_array_equal(back, np.where(valid, ids, 1000))
        assert (out != ids).any(axis=1).mean() > 0.7


def test_rotation_begins_anywhere():
    rows = 8000
    ids = np.tile([2, 3, 4, 5, PAD], (rows, 1))
    out, _ = rotate(keys(rows), ids, ids != PAD, PAD)
    counts = Counter(map(tuple, out.tolist()))
    assert set(counts) == {(2, 3, 4, 5, 0), (3, 4, 5, 2, 0), (4, 5, 2, 3, 0), (5, 2, 3, 4, 0)}
    assert chisquare(list(counts.values())).pvalue > 1e-3


def test_default_is_permutation_and_then_infilling():
    ids, valid, length = numbered(90, 40)
    ends = sentences(90, 40)
    both, both_valid = denoising(keys(90), ids, valid, ends, mask=MASK, pad=PAD)
    permuted, _ = denoising(keys(90), ids, valid, ends, mask=MASK, pad=PAD, noises=("permutation",))
    for row in range(90):
        kept = [t for t in both[row, both_valid[row]].tolist() if t != MASK]
        assert len(kept) == length[row] - round(0.3 * length[row])
        order = permuted[row].tolist()
        assert [order.index(token) for token in kept] == sorted(order.index(t) for t in kept)


def test_bad_requests():
    ids, valid, _ = numbered(3, 4)
    with pytest.raises(ValueError, match="shuffling"):
        denoising(keys(3), ids, valid, valid, mask=MASK, pad=PAD, noises=("shuffling",))
    with pytest.raises(ValueError, match="rate"):
        mask_tokens(keys(3), ids, valid, 1.5, MASK, PAD)
    with pytest.raises(ValueError, match="mean_span"):
        infill(keys(3), ids, valid, 0.3, 0.0, MASK, PAD)
