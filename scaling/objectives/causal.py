"""Predict the next token (Radford et al. 2018, eq. 1)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scaling.models import Transformer


def causal_losses(
    model: Transformer, tokens_BT: Int[Array, "B T_plus_1"]
) -> Float[Array, "B T"]:
    """Loss of every prediction, in nats: -log p(token t+1 | tokens up to t)."""
    return cross_entropy(model(tokens_BT[:, :-1]), tokens_BT[:, 1:])


def cross_entropy(
    logits_BTV: Float[Array, "B T V"], targets_BT: Int[Array, "B T"]
) -> Float[Array, "B T"]:
    """-log softmax(logits)[target], in nats.

    The target's logit is found by a masked sum, not by indexing: its gradient is then arithmetic
    instead of a scatter, and it works where the vocabulary lies divided over devices.
    """
    hit_BTV = jnp.arange(logits_BTV.shape[-1]) == targets_BT[..., None]
    target_BT = jnp.where(hit_BTV, logits_BTV, 0.0).sum(axis=-1)
    return jax.nn.logsumexp(logits_BTV, axis=-1) - target_BT
