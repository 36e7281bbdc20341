"""Say of every token whether it was replaced (ELECTRA, Clark et al. 2020, section 3)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from scaling.config.objectives import ReplacedTokens
from scaling.data.batches import Drawn, Sequences
from scaling.data.random import fold
from scaling.models import Electra, Tokens
from scaling.models.transformer import States
from scaling.objectives.base import (
    Arrays,
    Kind,
    Setting,
    Terms,
    cross_entropy,
    uint32_keys,
    weighted,
)
from scaling.objectives.masked import at_places, framed, hidden

_SAMPLING = 7  # the stream of what the generator's samples are drawn with


def _examples(setting: Setting, _: Sequences, drawn: Drawn) -> Arrays:
    """Every hidden token is <mask>, as nothing is gained by fewer (section 3.1)."""
    key_B = setting.keys(drawn)
    ids_BT, maskable_BT = framed(setting, drawn)
    batch = hidden(setting, key_B, ids_BT, maskable_BT, mask_share=1.0, random_share=0.0)
    found = batch.pop("weights")["masked"]
    return batch | {
        "original": ids_BT,
        "seeds": uint32_keys(fold(key_B, _SAMPLING)),
        "weights": {"generator": found, "discriminator": maskable_BT.astype(np.float32)},
    }


def _terms(
    objective: ReplacedTokens, model: Electra, batch: Arrays, keys_B: PRNGKeyArray | None
) -> Terms:
    table_VP = model.discriminator.embedding[...]
    places_BM, targets_BM, weights = batch["places"], batch["targets"], batch["weights"]
    generator = model.generator
    states = generator.states(Tokens(batch["ids"]), keys_B=keys_B, table_VP=table_VP)
    there = States(at_places(states.x_BTD, places_BM), states.tokens, None)
    logits_BMV = generator.head("masked_lm", there, table_VP=table_VP)
    found_BM = cross_entropy(logits_BMV, targets_BM)

    # The discriminator's loss does not train the generator: a sample has no gradient.
    guess_BM = jax.vmap(_sample)(batch["seeds"], jax.lax.stop_gradient(logits_BMV))
    # Places behind a row's last are the first token's, which stays as it is.
    real_BM = weights["generator"] > 0
    guess_BM = jnp.where(real_BM, guess_BM, batch["original"][:, :1])
    seen_BT = jax.vmap(lambda ids_T, place_M, guess_M: ids_T.at[place_M].set(guess_M))(
        batch["original"], places_BM, guess_BM)
    replaced_BT = seen_BT != batch["original"]
    discriminator = model.discriminator
    states = discriminator.states(Tokens(seen_BT), keys_B=keys_B)
    odds_BT = discriminator.head("replaced_token", states)
    said_BT = jax.nn.softplus(jnp.where(replaced_BT, -odds_BT, odds_BT))
    return Terms({
        "generator": weighted(found_BM, weights["generator"]),
        "discriminator": weighted(said_BT, weights["discriminator"]),
    })


def _sample(seed_2: jax.Array, logits_MV: jax.Array) -> jax.Array:
    key = jax.random.wrap_key_data(seed_2)
    return jax.random.categorical(key, logits_MV).astype(jnp.int32)


REPLACED_TOKENS = Kind(
    lambda objective: {"generator": 1.0, "discriminator": objective.weight},
    _examples, _terms,
)
