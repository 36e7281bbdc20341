"""Replaced token detection (ELECTRA, Clark et al. 2020, section 3)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from scaling.config.objectives import ReplacedTokens
from scaling.data.batches import SequenceBatch, SequenceDataset
from scaling.data.random import fold
from scaling.models import Electra, States, Tokens, at_positions, cross_entropy
from scaling.objectives.base import (
    Arrays,
    ExampleContext,
    LossTerms,
    ObjectiveFunctions,
    uint32_keys,
    weighted,
)
from scaling.objectives.masked import mask_tokens, with_cls_sep

_SAMPLING = 7  # stream of the generator's samples


def _examples(
    context: ExampleContext[ReplacedTokens], _: SequenceDataset, drawn: SequenceBatch
) -> Arrays:
    """All masked tokens become <mask>; fewer gain nothing (section 3.1)."""
    key_B = context.keys(drawn)
    ids_BT, maskable_BT = with_cls_sep(context, drawn)
    batch = mask_tokens(context, key_B, ids_BT, maskable_BT, mask_share=1.0, random_share=0.0)
    masked = batch.pop("weights")["masked"]
    return batch | {
        "original": ids_BT,
        "seeds": uint32_keys(fold(key_B, _SAMPLING)),
        "weights": {"generator": masked, "discriminator": maskable_BT.astype(np.float32)},
    }


def _terms(
    objective: ReplacedTokens, model: Electra, batch: Arrays, keys_B: Key[Array, " B"] | None
) -> LossTerms:
    table_VP = model.discriminator.table()
    positions_BM, targets_BM, weights = batch["positions"], batch["targets"], batch["weights"]
    generator = model.generator
    states = generator.states(Tokens(batch["ids"]), keys_B=keys_B, table_VP=table_VP)
    masked = States(at_positions(states.x_BTD, positions_BM), states.tokens, None)
    logits_BMV = generator.head("masked_lm", masked, table_VP=table_VP)
    generator_BM = cross_entropy(logits_BMV, targets_BM)

    # The discriminator's loss does not train the generator: a sample has no gradient.
    sample_BM = jax.vmap(_sample)(batch["seeds"], jax.lax.stop_gradient(logits_BMV))
    # Padding of the positions is the first token's, which is not replaced.
    real_BM = weights["generator"] > 0
    sample_BM = jnp.where(real_BM, sample_BM, batch["original"][:, :1])
    corrupted_BT = jax.vmap(lambda ids_T, position_M, sample_M: ids_T.at[position_M].set(sample_M))(
        batch["original"], positions_BM, sample_BM)
    replaced_BT = corrupted_BT != batch["original"]
    discriminator = model.discriminator
    states = discriminator.states(Tokens(corrupted_BT), keys_B=keys_B)
    logits_BT = discriminator.head("replaced_token", states)
    discriminator_BT = jax.nn.softplus(jnp.where(replaced_BT, -logits_BT, logits_BT))
    return LossTerms({
        "generator": weighted(generator_BM, weights["generator"]),
        "discriminator": weighted(discriminator_BT, weights["discriminator"]),
    })


def _sample(seed_2: jax.Array, logits_MV: jax.Array) -> jax.Array:
    key = jax.random.wrap_key_data(seed_2)
    return jax.random.categorical(key, logits_MV).astype(jnp.int32)


REPLACED_TOKENS = ObjectiveFunctions(
    lambda objective: {"generator": 1.0, "discriminator": objective.weight},
    _examples, _terms,
)
