"""Causal language modelling (Radford et al. 2018, eq. 1), of whole sequences or after a prefix."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from scaling.config.objectives import Causal, Prefix
from scaling.data.batches import SequenceBatch, SequenceDataset
from scaling.models import Tokens, Transformer, cross_entropy
from scaling.models.tokens import AnyArray
from scaling.objectives.base import Arrays, ExampleContext, LossTerms, ObjectiveFunctions, weighted
from scaling.objectives.noise.prefix import prefix_lengths, prefix_mask


def _causal_examples(
    context: ExampleContext[Causal], _: SequenceDataset, drawn: SequenceBatch
) -> Arrays:
    ids_BT = drawn.ids_BL.astype(np.int32)
    if not context.objective.separate_documents:
        return {"ids": ids_BT}
    ends_BT = ids_BT[:, :-1] == context.special.eos
    document_BT = 1 + np.cumsum(ends_BT, axis=1, dtype=np.int32) - ends_BT
    return {"ids": ids_BT, "documents": document_BT}


def _prefix_examples(
    context: ExampleContext[Prefix], _: SequenceDataset, drawn: SequenceBatch
) -> Arrays:
    length = context.model.context
    prefix_B = prefix_lengths(context.keys(drawn), length)
    prefix_BT, weights_BT = prefix_mask(prefix_B, length)
    return {"ids": drawn.ids_BL.astype(np.int32), "prefix": prefix_BT,
            "weights": {"prefix": weights_BT}}


def _terms(
    objective: Causal | Prefix, model: Transformer, batch: Arrays, keys_B: Key[Array, " B"] | None
) -> LossTerms:
    ids_BT = batch["ids"]
    tokens = Tokens(ids_BT[:, :-1], batch.get("documents"), prefix_BT=batch.get("prefix"))
    states = model.states(tokens, keys_B=keys_B)
    losses_BT = model.losses("lm", states, ids_BT[:, 1:])
    weights_BT = batch.get("weights", {}).get(objective.kind)
    return LossTerms({objective.kind: weighted(losses_BT, weights_BT)}, states.routing)


def causal_losses(
    model: Transformer, ids_BT: Int[AnyArray, "B T_plus_1"]
) -> Float[Array, "B T"]:
    """Loss of each prediction, in nats: -log p(token t+1 | tokens up to t)."""
    return cross_entropy(model(jnp.asarray(ids_BT)[:, :-1]), ids_BT[:, 1:])


CAUSAL = ObjectiveFunctions(lambda objective: {"causal": 1.0}, _causal_examples, _terms)
PREFIX = ObjectiveFunctions(lambda objective: {"prefix": 1.0}, _prefix_examples, _terms)
