"""The causal objective's losses."""

from __future__ import annotations

import jax
import numpy as np

from scaling.config import ModelConfig
from scaling.models import Transformer
from scaling.objectives import causal_losses

CONFIG = ModelConfig(d_model=8, n_layers=1, n_heads=2, context=6, vocab_size=11)


def test_losses_are_log_probabilities_of_what_follows():
    model = jax.jit(lambda key: Transformer(CONFIG, key))(jax.random.key(0))
    tokens = np.random.default_rng(0).integers(0, 11, (3, 7)).astype(np.int32)
    log_probability = np.asarray(jax.nn.log_softmax(model(tokens[:, :-1])))
    expected = -np.take_along_axis(log_probability, tokens[:, 1:, None], axis=-1)[..., 0]
    np.testing.assert_allclose(causal_losses(model, tokens), expected, rtol=1e-5)
