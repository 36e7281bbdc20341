"""The random numbers of sequences are uniform, independent, and their key's alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from scaling.objectives.noise.keys import (
    below,
    bits,
    bits_at,
    columns,
    distinct,
    fold,
    sequence_keys,
    uniform,
)

pytestmark = pytest.mark.quick

ROWS, COLUMNS = 600, 512
UNLIKELY = 1e-4  # of a fair generator to fail: the numbers are fixed, so it fails never or always


def keys(count: int = ROWS, seed: int = 3, epoch: int = 0, stream: str = "test") -> np.ndarray:
    return sequence_keys(seed, np.arange(count), np.full(count, epoch), stream)


def assert_uniform(cells: np.ndarray, count: int) -> None:
    """Whole numbers in range(count) are equally frequent."""
    assert stats.chisquare(np.bincount(cells.ravel(), minlength=count)).pvalue > UNLIKELY


def assert_uncorrelated(x: np.ndarray, y: np.ndarray) -> None:
    r = np.corrcoef(x.ravel(), y.ravel())[0, 1]
    assert 2 * stats.norm.sf(abs(r) * np.sqrt(x.size)) > UNLIKELY


def test_first_numbers_are_splitmix64s():
    # The generator's published outputs for the seed 1234567.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423,
                 4593380528125082431, 16408922859458223821]
    assert bits(np.array([1234567], np.uint64), 5).tolist() == [published]


def test_uniform_is_uniform():
    x = uniform(keys(), COLUMNS)
    assert x.dtype == np.float32
    assert x.min() >= 0
    assert x.max() < 1
    assert stats.kstest(x[:200].ravel(), "uniform").pvalue > UNLIKELY
    assert_uniform((x * 1000).astype(np.int64), 1000)
    # The low bits too, which decide nothing but ties.
    assert_uniform((x * 2**24).astype(np.int64) % 256, 256)


@pytest.mark.parametrize("limit", [1, 2, 7, 1000])
def test_below_is_uniform(limit):
    x = below(keys(), COLUMNS, limit)
    assert x.min() == 0
    assert x.max() == limit - 1
    if limit > 1:
        assert_uniform(x, limit)


def test_below_takes_a_limit_for_each_row():
    limit = np.arange(1, ROWS + 1)[:, None]
    x = below(keys(), COLUMNS, limit)
    assert np.all(x < limit)
    np.testing.assert_allclose((x / limit)[300:].mean(), 0.5, atol=0.005)


def test_neighbours_are_independent():
    x = uniform(keys(), COLUMNS)
    assert_uncorrelated(x[:, 1:], x[:, :-1])
    assert_uncorrelated(x[1:], x[:-1])
    pairs = (x[:, ::2] * 32).astype(np.int64) * 32 + (x[:, 1::2] * 32).astype(np.int64)
    assert_uniform(pairs, 32**2)
    first = (x[:, 0] * 8).astype(np.int64)  # of neighbouring sequences
    assert_uniform(first[1:] * 8 + first[:-1], 64)


@pytest.mark.parametrize("other", [
    keys(seed=4), keys(epoch=1), keys(stream="other"), fold(keys(), 0), fold(keys(), 1),
    fold(fold(keys(), 1), 1),
], ids=["seed", "epoch", "stream", "fold 0", "fold 1", "fold twice"])
def test_streams_are_independent(other):
    x, y = uniform(keys(), COLUMNS), uniform(other, COLUMNS)
    assert_uncorrelated(x, y)
    assert_uniform((x * 16).astype(np.int64) * 16 + (y * 16).astype(np.int64), 256)
    assert not np.intersect1d(bits(keys(), COLUMNS), bits(other, COLUMNS)).size


def test_no_number_comes_twice():
    x = bits(keys(), COLUMNS)
    assert np.unique(x).size == x.size


def test_numbers_are_their_keys_alone():
    x = bits(keys(), COLUMNS)
    np.testing.assert_array_equal(bits(keys(), 10), x[:, :10])
    np.testing.assert_array_equal(bits(keys()[[5, 2]], COLUMNS), x[[5, 2]])
    row, column = np.array([0, 7, 7]), np.array([511, 0, 3])
    np.testing.assert_array_equal(bits_at(keys()[row], column), x[row, column])


def test_distinct_numbers_sort_their_columns():
    # Bits that are all alike: only the columns tell them apart.
    same = distinct(np.full((3, 100), 2**63, np.uint64))
    assert np.all(np.diff(same) > 0)
    x = bits(keys(50), COLUMNS)
    order = columns(np.sort(distinct(x), axis=1))
    assert np.all(np.sort(order, axis=1) == np.arange(COLUMNS))
    np.testing.assert_array_equal(order, np.argsort(x, axis=1))
    # Every order is equally likely.
    orders = columns(np.sort(distinct(bits(keys(60_000), 3)), axis=1)) @ [9, 3, 1]
    assert stats.chisquare(np.unique(orders, return_counts=True)[1]).pvalue > UNLIKELY
    assert np.unique(orders).size == 6
