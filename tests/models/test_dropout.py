"""Dropout: how much, how strongly, where, and by whose keys."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.config import ModelConfig
from scaling.models.layers import dropout
from tests.models.variants import SMALL, draws_of, filled, random_ids


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_what_is_left_is_scaled_so_that_the_mean_stays(rate):
    x = jnp.ones((4, 50, 50))
    y = np.asarray(dropout(x, rate, keys(4)))
    assert (y == 0).mean() == pytest.approx(rate, abs=0.02)
    np.testing.assert_allclose(y[y != 0], 1 / (1 - rate), rtol=1e-6)
    assert all((y[0] != y[row]).any() for row in (1, 2, 3))
    assert dropout(x, rate, None) is x
    assert dropout(x, 0.0, keys(4)) is x


def test_a_model_drops_in_training_alone_and_each_sequence_by_its_own_key():
    """Without keys all is kept; with them a sequence's logits do not depend on its neighbours."""
    ids = random_ids(4, 12)
    model = filled(ModelConfig(**SMALL, dropout=0.3))
    exact = filled(ModelConfig(**SMALL))  # the same parameters
    train = jax.jit(lambda model, ids, keys: model(ids, keys_B=keys))
    calm = jax.jit(lambda model: model(ids))
    np.testing.assert_array_equal(calm(model), calm(exact))
    logits = np.asarray(train(model, ids, keys(4)))
    assert np.abs(logits - calm(exact)).max() > 0.1
    np.testing.assert_array_equal(train(model, ids, keys(4)), logits)
    np.testing.assert_allclose(train(model, ids[::-1], keys(4)[::-1])[::-1], logits,
                               rtol=1e-4, atol=1e-5)
    assert np.abs(train(model, ids, keys(4, seed=1)) - logits).max() > 0.1


def _draws(config, source=None):
    """How many random masks a training step's forward pass draws, by tracing alone."""
    model, ids = filled(config), random_ids(2, 12)
    return draws_of(jax.make_jaxpr(lambda m, k: m(ids, source, k))(model, keys(2)).jaxpr)


def test_everything_that_is_to_be_dropped_has_a_mask_of_its_own():
    """The embedded input; in each of two layers weights of attention and what each branch adds; an
    encoder's and cross-attention's too."""
    assert _draws(ModelConfig(**SMALL)) == 0
    assert _draws(ModelConfig(**SMALL, dropout=0.1)) == 1 + 2 * 3
    assert _draws(ModelConfig(**SMALL, dropout=0.1, attention_dropout=0.0)) == 1 + 2 * 2
    assert _draws(ModelConfig(**SMALL, attention_dropout=0.1)) == 2
    both = ModelConfig(**SMALL, dropout=0.1, mode="encoder-decoder")
    assert _draws(both, random_ids(2, 12)) == (1 + 2 * 3) + (1 + 2 * 5)
    # Side by side, what both branches add is dropped as one sum.
    assert _draws(ModelConfig(**SMALL, dropout=0.1, parallel="one_norm")) == 1 + 2 * 2


@pytest.mark.parametrize(("changes", "places"), [
    ({}, 1 + 2 * 3),
    ({"mode": "encoder-decoder"}, (1 + 2 * 3) + (1 + 2 * 5)),
    ({"parallel": "one_norm"}, 1 + 2 * 2),
    ({"share_layers": "all"}, 1 + 2 * 3),
])
def test_no_two_places_draw_by_one_key(monkeypatch, changes, places):
    """Nor two layers: with one key for both, the same numbers would be dropped in each."""
    drawn = []
    bernoulli = jax.random.bernoulli

    def watched(key, share, shape):
        jax.debug.callback(lambda data: drawn.append(tuple(np.ravel(data))),
                           jax.random.key_data(key))
        return bernoulli(key, share, shape)

    monkeypatch.setattr(jax.random, "bernoulli", watched)
    model = filled(ModelConfig(**SMALL, dropout=0.1, **changes))
    ids = random_ids(2, 12)
    source = ids if "mode" in changes else None
    jax.jit(lambda model, keys: model(ids, source, keys))(model, keys(2)).block_until_ready()
    jax.effects_barrier()
    assert len(drawn) == 2 * places
    assert len(set(drawn)) == len(drawn)
