"""Rotations, sines and biases against independent facts and slow loops."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.models.positions import (
    alibi,
    bucket_of,
    by_distance,
    rotary_angles,
    rotate,
    sinusoids,
)
from tests.models import plain


def test_rotary_products_depend_on_the_distance_alone():
    """The same query and key at all places: products are constant along diagonals."""
    q, k = jnp.asarray(
        np.random.default_rng(0).standard_normal((2, 1, 1, 8, 1)), jnp.float32)
    for pairs in ("halves", "adjacent"):
        q_KT, k_KT = (np.asarray(rotate(jnp.repeat(x, 20, axis=3), rotary_angles(20, 8, 100.0),
                                        pairs))[0, 0] for x in (q, k))
        products = q_KT.T @ k_KT
        for offset in range(-19, 20):
            diagonal = np.diagonal(products, offset)
            np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-4)
        assert np.ptp(products) > 0.1


def test_both_orders_of_pairs_are_one_rotation():
    """Rearranged so that (2i, 2i + 1) become (i, i + half), adjacent pairs are halves; numbers
    beyond the rotated part stay."""
    x = jnp.asarray(np.random.default_rng(1).standard_normal((2, 3, 8, 5)), jnp.float32)
    order = np.array([0, 2, 4, 1, 3, 5, 6, 7])
    angles = rotary_angles(5, 6, 10_000.0)
    adjacent = np.asarray(rotate(x, angles, "adjacent"))[:, :, order]
    halves = np.asarray(rotate(x[:, :, order], angles, "halves"))
    np.testing.assert_allclose(adjacent, halves, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(halves[:, :, 6:], x[:, :, 6:])
    np.testing.assert_allclose(np.linalg.norm(halves, axis=2), np.linalg.norm(x, axis=2), rtol=1e-5)
    assert np.abs(halves - x[:, :, order])[..., 1:].max() > 0.1


@pytest.mark.parametrize(("buckets", "longest", "both_ways"), [
    (32, 128, True), (32, 128, False), (8, 9, True), (6, 20, False),
])
def test_relative_buckets_are_the_papers_rule(buckets, longest, both_ways):
    """Against whole-number arithmetic, well beyond where the last bucket begins."""
    back = np.arange(-3 * longest, 3 * longest)
    ours = bucket_of(back, buckets, longest, both_ways=both_ways)
    np.testing.assert_array_equal(
        ours, [plain.bucket(int(b), buckets, longest, both_ways) for b in back])


def test_relative_buckets_of_t5():
    """Facts of the released configuration (32 buckets, 128): 8 exact distances in each direction,
    the next begins at 8 and at 12, the last at 91; a decoder has 16 exact and the last at 113."""
    both = lambda back: int(bucket_of(np.array(back), 32, 128, both_ways=True))  # noqa: E731
    assert [both(b) for b in (0, 1, 7, 8, 11, 12, 90, 91, 1000)] == [0, 1, 7, 8, 8, 9, 14, 15, 15]
    assert [both(-b) for b in (1, 7, 8, 91)] == [17, 23, 24, 31]
    one = lambda back: int(bucket_of(np.array(back), 32, 128, both_ways=False))  # noqa: E731
    assert [one(b) for b in (-5, 0, 15, 16, 112, 113, 500)] == [0, 0, 15, 16, 30, 31, 31]


def test_alibi_slopes_are_published_ones():
    """Press et al. 2021: 1/2 to 1/256 for 8 heads; for 12 those, and 2^-0.5 to 2^-3.5."""
    eight, twelve = (-np.asarray(alibi(heads, 3)(0, 3))[:, 2, 1] for heads in (8, 12))
    np.testing.assert_allclose(eight, [1 / 2**i for i in range(1, 9)], rtol=1e-6)
    np.testing.assert_allclose(twelve[8:], [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5], rtol=1e-6)
    np.testing.assert_allclose(twelve[:8], eight, rtol=1e-6)
    bias = np.asarray(alibi(8, 4)(0, 4))
    np.testing.assert_allclose(bias[0], -abs(np.subtract.outer(range(4), range(4))) / 2)


def test_sinusoids_are_the_papers_formula():
    places = np.array([[0, 1, 7], [3, 100, 511]])
    expected = [[plain.sines(int(p), 6) for p in row] for row in places]
    np.testing.assert_allclose(sinusoids(places, 6), expected, rtol=1e-4, atol=1e-4)


def test_scores_by_distance_land_on_their_keys():
    """Against a loop: query t and key s <= t get the score of distance t - s."""
    scores = np.random.default_rng(2).standard_normal((2, 3, 5, 5)).astype(np.float32)
    ours = np.asarray(jax.jit(by_distance)(scores))
    for t in range(5):
        for s in range(t + 1):
            np.testing.assert_array_equal(ours[:, :, t, s], scores[:, :, t, 4 - (t - s)])
