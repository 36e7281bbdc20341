"""Who influences whom, by gradients; and that neighbours, packing and padding change nothing."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from scaling.models.tokens import AttentionMask, Tokens
from tests.models import plain
from tests.models.variants import SOURCE_A, SOURCE_B, VARIANTS, A, B

pytestmark = pytest.mark.quick

LEAST = 1e-9
"""Gradients below this are zero: those of a visible token are of order one in these models."""


def sees(config, side, layer, tokens):
    """[T, S]: who sees whom in a layer, and itself through the residual stream."""
    T = len(tokens.ids_BT)
    return np.array([[t == s or plain.may_see(config, side, layer, tokens, t, s)
                      for s in range(T)] for t in range(T)])


def through(config, side, layers, tokens):
    """[T, S]: whom one reaches through several layers."""
    reach = np.eye(len(tokens.ids_BT), dtype=bool)
    for layer in range(layers):
        reach = sees(config, side, layer, tokens) @ reach
    return reach


@pytest.mark.parametrize("name", VARIANTS)
def test_outputs_depend_on_what_they_may_see_and_on_all_of_it(seen, name):
    """The exact pattern in all rows: causality, both directions, the width of a band layer by
    layer, the prefix, documents apart from each other and padding seen by nobody."""
    v = seen(name)
    side = "encoder" if v.config.mode == "encoder-only" else "decoder"
    for row in range(4):
        tokens = jax.tree.map(lambda a, row=row: a[row], v.tokens)
        real = tokens.documents_BT > 0
        expected = through(v.config, side, v.config.n_layers, tokens)
        np.testing.assert_array_equal((v.reach[:, row] > LEAST)[real], expected[real])
        assert (v.reach[:, row][real][~expected[real]] == 0).all()


@pytest.mark.parametrize("name", ["transformer", "t5", "switch"])
def test_targets_see_all_of_their_own_documents_source_and_no_other(seen, name):
    source_reach = seen(name).source_reach[:, 0]
    expected = np.zeros(source_reach.shape, bool)
    expected[:A, :SOURCE_A] = True
    expected[A : A + B, SOURCE_A : SOURCE_A + SOURCE_B] = True
    assert (source_reach[expected] > LEAST).all()
    assert (source_reach[: A + B][~expected[: A + B]] == 0).all()


@pytest.mark.parametrize("name", VARIANTS)
def test_no_row_of_a_batch_sees_another(seen, name):
    """What comes out does not depend on the order of the rows, to the last digits, and no gradient
    crosses (the sum over rows of one position's logits was pulled back: see the first test)."""
    v = seen(name)
    np.testing.assert_allclose(v.flipped, v.logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_packed_documents_are_as_if_alone(seen, name):
    """With positions counted in the document for those models that add them; all others know only
    distances."""
    logits = seen(name).logits
    np.testing.assert_allclose(logits[0, :A], logits[1, :A], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(logits[0, A : A + B], logits[2, :B], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", VARIANTS)
def test_padding_is_invisible_and_harmless(seen, name):
    v = seen(name)
    real = slice(0, A + B)
    np.testing.assert_allclose(v.logits[3, real], v.logits[0, real], rtol=1e-5, atol=1e-5)
    for array in (v.logits, v.reach, v.source_reach):
        assert array is None or np.isfinite(array).all()


def test_a_band_is_as_wide_as_it_says():
    """Window 3 without documents: itself and two back; in an encoder two forward too."""
    tokens = Tokens(np.zeros((1, 6), np.int32))
    back = np.arange(6)[:, None] - np.arange(6)
    causal, full = (np.asarray(AttentionMask.within(tokens, kind, 3).block())
                    for kind in ("causal", "full"))
    np.testing.assert_array_equal(causal, (back >= 0) & (back <= 2))
    np.testing.assert_array_equal(full, (back >= -2) & (back <= 2))


def test_masks_of_bare_tokens():
    """Without documents all is one; a source's padding stays unseen by bare targets."""
    bare = Tokens(np.zeros((2, 4), np.int32))
    padded = bare._replace(documents_BT=np.array([[1, 1, 1, 0], [1, 1, 1, 1]]))
    assert AttentionMask.within(bare, "full", None).block() is None
    assert AttentionMask.across(padded, bare).block() is None
    causal = np.asarray(AttentionMask.within(bare, "prefix", None).block())
    assert (causal == np.tri(4, dtype=bool)).all()
    np.testing.assert_array_equal(AttentionMask.across(bare, padded).block()[:, 0, 0],
                                  [[True, True, True, False], [True] * 4])


@pytest.mark.parametrize("pattern", ["full", "causal", "prefix"])
@pytest.mark.parametrize("window", [None, 3])
def test_blocks_of_keys_are_columns_of_the_mask(pattern, window):
    """And the mask, by hand, of two documents and padding with a prefix of two tokens each."""
    documents = np.array([[1, 1, 1, 1, 2, 2, 2, 0], [1, 1, 2, 2, 2, 2, 3, 3]])
    prefix = np.array([[1, 1, 0, 0, 1, 1, 0, 0], [1, 0, 1, 1, 0, 0, 1, 0]], bool)
    tokens = Tokens(np.zeros((2, 8), np.int32), documents, prefix_BT=prefix)
    mask = AttentionMask.within(tokens, pattern, window)
    whole = np.asarray(mask.block())
    for row, query, key in np.ndindex(2, 8, 8):
        sees = pattern == "full" or key <= query or (pattern == "prefix" and prefix[row, key])
        sees &= window is None or abs(query - key) <= 2
        sees &= documents[row, query] == documents[row, key] > 0
        assert whole[row, 0, query, key] == sees, (row, query, key)
    for start, size in ((0, 3), (3, 3), (2, 6), (7, 1)):
        np.testing.assert_array_equal(mask.block(start, size), whole[..., start : start + size])
    across = AttentionMask.across(Tokens(np.zeros((2, 5), np.int32)), tokens)
    assert np.asarray(across.block(2, 4)).shape == (2, 1, 5, 4)
    np.testing.assert_array_equal(np.asarray(across.block(2, 4))[:, 0, 4], documents[:, 2:6] == 1)
    queries = Tokens(np.zeros((2, 3), np.int32), np.array([[2, 1, 0], [3, 0, 1]]))
    np.testing.assert_array_equal(
        AttentionMask.across(queries, tokens).block()[:, 0],
        [[documents[0] == 2, documents[0] == 1, documents[0] < 0],
         [documents[1] == 3, documents[1] < 0, documents[1] == 1]])


def test_the_pattern_is_the_one_of_the_papers():
    """The table of expected patterns itself, for two layers of which the second is local: what
    lies within the band sees all before it."""
    config = SimpleNamespace(attention_pattern="alternating", window=2, attention_mask="causal")
    tokens = SimpleNamespace(ids_BT=np.zeros(5), documents_BT=np.ones(5))
    assert (sees(config, "decoder", 0, tokens) == np.tri(5)).all()
    assert sees(config, "decoder", 1, tokens).sum() == 9
    assert (through(config, "decoder", 2, tokens) == np.tri(5)).all()
