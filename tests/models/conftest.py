"""Every variant run once, forward and backward: what many tests look at."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.config import ModelConfig
from scaling.models import States, Tokens, Transformer
from tests.models.variants import batch_for, config_of, filled


class Seen(NamedTuple):
    """What a variant makes of the batch, and what each of its outputs depends on."""

    config: ModelConfig
    model: Transformer
    tokens: Tokens
    source: Tokens | None
    logits: np.ndarray
    """[row, position, vocabulary]"""
    flipped: np.ndarray
    """The same, computed from the rows in the opposite order."""
    reach: np.ndarray
    """Size of the gradient of the logits at one position (first axis) by the embedded input of a
    row (second) at another (third)."""
    source_reach: np.ndarray | None
    """The same by what an encoder reads."""


@cache
def seen(name: str) -> Seen:
    """Run a variant."""
    config = config_of(name)
    model = filled(config)
    tokens, source = batch_for(config)
    probe_V = np.random.default_rng(2).standard_normal(config.vocabulary)

    @jax.jit
    def run(model, tokens, source):
        def forward(x, source_x):
            memory = None if source is None else model.encoder(source_x, source)[0]
            last = model.encoder if model.decoder is None else model.decoder
            states = States(last(x, tokens, memory, source)[0], tokens, None)
            return model.head(config.outputs[0].kind, states)

        source_x = None if source is None else model.embed(source.ids_BT)
        logits, back = jax.vjp(forward, model.embed(tokens.ids_BT), source_x)
        one_at_a_time = jnp.eye(logits.shape[1])[:, None, :, None] * probe_V
        gradients = jax.vmap(back)(
            jnp.broadcast_to(one_at_a_time, (logits.shape[1], *logits.shape)))
        return logits, *jax.tree.map(lambda g: jnp.abs(g).sum(axis=-1), gradients)

    turned = jax.tree.map(lambda a: a[::-1], (tokens, source))
    logits, reach, source_reach = jax.device_get(run(model, tokens, source))
    flipped = np.asarray(run(model, *turned)[0])[::-1]
    return Seen(config, model, tokens, source, logits, flipped, reach, source_reach)


@pytest.fixture(scope="session", name="seen")
def _seen():
    return seen
