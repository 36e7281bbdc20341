"""The shuffle is a permutation, different for each key, and statistically random."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.data.permutation import LARGEST, permute

pytestmark = pytest.mark.quick

ORDER_OF_TEN = [8, 3, 4, 0, 7, 2, 9, 1, 6, 5]
FIRST_OF_A_BILLION = [982545861, 161541577, 23331474, 595155066, 23456779]
FIRST_OF_THE_LARGEST = [575133147565, 656735682132, 1021961688120]


@pytest.mark.parametrize("n", [*range(1, 40), 257, 1000, 4096, 99_991])
def test_it_is_a_bijection(n):
    for key in ((0, 0), (1, 0), (0, 1)):
        assert np.array_equal(np.sort(permute(np.arange(n), n, *key)), np.arange(n))


@given(
    st.integers(1, LARGEST), st.lists(st.integers(0, LARGEST - 1), min_size=1),
    st.integers(0, 2**70), st.integers(0, 2**40),
)
@settings(max_examples=50, deadline=None)
def test_large_ranges_stay_in_range_and_distinct(n, indices, seed, epoch):
    index = np.unique(np.array(indices) % n)
    sent = permute(index, n, seed, epoch)
    assert sent.min() >= 0
    assert sent.max() < n
    assert len(np.unique(sent)) == len(index)


def test_any_subset_of_indices_can_be_permuted_alone():
    n = 1000
    whole = permute(np.arange(n), n, 3, 4)
    assert np.array_equal(permute(np.arange(700, 716), n, 3, 4), whole[700:716])
    assert np.array_equal(permute(np.array([[5], [999]]), n, 3, 4), whole[[[5], [999]]])


def test_seeds_and_epochs_give_different_orders():
    n = 1000
    keys = [(seed, epoch) for seed in range(20) for epoch in range(20)] + [(1, 23), (12, 3)]
    orders = {tuple(permute(np.arange(n), n, *key)) for key in dict.fromkeys(keys)}
    assert len(orders) == len(dict.fromkeys(keys))


@pytest.mark.parametrize("n", [2, 3, 4])
def test_all_orders_of_a_small_range_are_equally_frequent(n):
    draws = 200 * math.factorial(n)
    counts = Counter(tuple(permute(np.arange(n), n, seed, 0)) for seed in range(draws))
    assert len(counts) == math.factorial(n)
    # Five standard deviations of a count whose mean is 200.
    assert all(abs(count - 200) < 5 * math.sqrt(200) for count in counts.values())


def test_the_order_of_the_data_is_that_of_earlier_versions():
    """It is part of a run's identity: with another, trained runs would no longer be those that
    their identities name. A change needs a new LAYOUT (scaling/config/run.py)."""
    assert permute(np.arange(10), 10, 0, 0).tolist() == ORDER_OF_TEN
    assert permute(np.arange(5), 10**9, 3, 7).tolist() == FIRST_OF_A_BILLION
    assert permute(np.arange(3), 2**40, 2**70, 2**40).tolist() == FIRST_OF_THE_LARGEST


@pytest.mark.parametrize("n", [97, 1000, 4096])
def test_it_looks_like_a_random_permutation(n):
    draws = 200
    orders = np.stack([permute(np.arange(n), n, seed, seed % 7) for seed in range(draws)])
    # Fixed points and neighbours that stay neighbours: Poisson, one in each permutation.
    for events in ((orders == np.arange(n)).sum(), (np.diff(orders) == 1).sum()):
        assert abs(events - draws) < 5 * math.sqrt(draws)
    # No correlation with the place, with the next one, with the one a digit on, with other keys.
    stride = math.isqrt(n)
    pairs = {
        "place": (orders, np.broadcast_to(np.arange(n), orders.shape)),
        "next": (orders[:, 1:], orders[:, :-1]),
        "stride": (orders[:, stride:], orders[:, :-stride]),
        "seed": (orders[1:], orders[:-1]),
    }
    for name, (a, b) in pairs.items():
        correlation = np.corrcoef(a.ravel(), b.ravel())[0, 1]
        expected = 0.0 if name in ("place", "seed") else -1 / n
        assert abs(correlation - expected) < 5 / math.sqrt(a.size), name
    # Means over 16 in a row spread as those of draws without replacement do.
    means = orders[:, : n // 16 * 16].reshape(draws, -1, 16).mean(2)
    expected = (n**2 - 1) / 12 / 16 * (n - 16) / (n - 1)
    assert abs(means.var() / expected - 1) < 5 * math.sqrt(2 / means.size)


def test_where_an_index_lands_is_uniform():
    n, draws = 16, 4000
    for index in (0, 7, 15):
        landed = [int(permute(np.array([index]), n, seed, 0)[0]) for seed in range(draws)]
        counts = np.bincount(landed, minlength=n)
        chi_square = ((counts - draws / n) ** 2).sum() / (draws / n)
        assert chi_square < 50  # 15 degrees of freedom: one in 100,000


@pytest.mark.parametrize(("index", "n"), [(0, 0), (0, LARGEST + 1), (5, 5), (-1, 5)])
def test_out_of_range_is_refused(index, n):
    with pytest.raises(ValueError, match=r"range|between"):
        permute(np.array([index]), n, 0, 0)
