"""Predict the next token (Radford et al. 2018, eq. 1)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from scaling.models import Routing, Transformer


class Said(NamedTuple):
    """What a batch's objective says beside its value: means over the batch."""

    loss: Float[Array, ""]
    """Nats per token, without what training adds to it."""
    routing: Routing | None
    """How experts were shared out, where there are some."""


def causal_objective(
    model: Transformer, tokens_BT: Int[Array, "B T_plus_1"], keys_B: PRNGKeyArray | None = None
) -> tuple[Float[Array, ""], Said]:
    """What training makes small: the mean loss, and with experts the weighted losses of their
    routers (ExpertsConfig.balance_weight, z_weight).

    Args:
        model: a decoder.
        tokens_BT: sequences with the token that follows each.
        keys_B: a key for each sequence, where dropout is wanted.
    """
    states = model.states(tokens_BT[:, :-1], keys_B=keys_B)
    loss = cross_entropy(model.head("lm", states), tokens_BT[:, 1:]).mean()
    if states.routing is None:
        return loss, Said(loss, None)
    experts = model.config.experts
    routers = experts.balance_weight * states.routing.balance + experts.z_weight * states.routing.z
    return loss + routers, Said(loss, states.routing)


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
