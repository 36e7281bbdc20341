"""What is computed from hidden states: one small module for each kind of head.

Each is called with the hidden states, the table of embeddings [V, P], which heads over the
vocabulary use where it is tied, and the tokens.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from scaling.config import ModelConfig
from scaling.config.parts import LanguageModel, SpanBoundary
from scaling.models.feed_forward import ACTIVATIONS
from scaling.models.layers import (
    EMBEDDING,
    Linear,
    Norm,
    constant,
    embedding,
    matrix,
    product,
    table_std,
)
from scaling.models.tokens import Tokens
from scaling.parallel import out_sharding, shard


class Vocabulary(nnx.Module):
    """Logits of every entry: products with the embedding, or with a matrix of its own."""

    def __init__(
        self, config: ModelConfig, dtype: jnp.dtype, key: PRNGKeyArray, *, bias: bool
    ) -> None:
        V, P = config.vocabulary, config.embedding_width
        self.dtype = dtype
        std = table_std(config.init, P)
        self.own = (
            None if config.tied_head
            else matrix(key, (V, P), EMBEDDING, std, config.init.distribution)
        )
        self.bias = constant(0.0, (V,), ("vocab",)) if bias else None

    def __call__(
        self, x_BTP: Float[Array, "B T P"], table_VP: Float[Array, "V P"]
    ) -> Float[Array, "B T V"]:
        """Logits in float32."""
        weight_VP = table_VP if self.own is None else self.own[...]
        logits_BTV = product(x_BTP, weight_VP.T, EMBEDDING[::-1], 1, self.dtype)
        return logits_BTV if self.bias is None else logits_BTV + shard(self.bias[...], "vocab")


class LanguageModelHead(nnx.Module):
    """The vocabulary's logits, straight from the hidden states (`lm`)."""

    def __init__(
        self, config: ModelConfig, dtype: jnp.dtype, key: PRNGKeyArray, head: LanguageModel
    ) -> None:
        D, P = config.d_model, config.embedding_width
        self.scale = D**-0.5 if config.scale_output else 1.0
        self.map = (
            Linear(config, jax.random.fold_in(key, 1), (D,), (P,), ("embed", None), dtype,
                   bias=False)
            if P != D else None
        )
        self.vocabulary = Vocabulary(config, dtype, key, bias=head.bias)

    def __call__(
        self, x_BTD: Float[Array, "B T D"], table_VP: Float[Array, "V P"], _: Tokens
    ) -> Float[Array, "B T V"]:
        """Logits."""
        if self.map is not None:
            x_BTD = self.map(x_BTD)
        return self.vocabulary(x_BTD * self.scale if self.scale != 1 else x_BTD, table_VP)


class MaskedLMHead(nnx.Module):
    """A dense layer, activation and norm, then the vocabulary's logits with a bias (`masked_lm`;
    Devlin et al. 2018, as released)."""

    def __init__(self, config: ModelConfig, dtype: jnp.dtype, key: PRNGKeyArray, _: Any) -> None:
        D, P = config.d_model, config.embedding_width
        self.activation = config.activation
        self.dense = Linear(config, key, (D,), (P,), ("embed", None), dtype)
        self.norm = Norm(config, P)
        self.vocabulary = Vocabulary(config, dtype, jax.random.fold_in(key, 1), bias=True)

    def __call__(
        self, x_BTD: Float[Array, "B T D"], table_VP: Float[Array, "V P"], _: Tokens
    ) -> Float[Array, "B T V"]:
        """Logits."""
        h_BTP = self.norm(ACTIVATIONS[self.activation](self.dense(x_BTD)))
        return self.vocabulary(h_BTP, table_VP)


class ReplacedTokenHead(nnx.Module):
    """ELECTRA's discriminator (`replaced_token`; Clark et al. 2020): a dense layer, activation, and
    one number for each token, positive where it was replaced."""

    def __init__(self, config: ModelConfig, dtype: jnp.dtype, key: PRNGKeyArray, _: Any) -> None:
        D = config.d_model
        self.activation = config.activation
        self.dense = Linear(config, key, (D,), (D,), ("embed", None), dtype)
        self.out = Linear(config, jax.random.fold_in(key, 1), (D,), (1,), ("embed", None), dtype)

    def __call__(
        self, x_BTD: Float[Array, "B T D"], _table: Array, _tokens: Tokens
    ) -> Float[Array, "B T"]:
        """Log-odds that a token was replaced."""
        return self.out(ACTIVATIONS[self.activation](self.dense(x_BTD)))[..., 0]


class SpanBoundaryHead(nnx.Module):
    """A span's token from the states just outside the span and its place in it (`span_boundary`;
    Joshi et al. 2019, section 3.2): two layers of GELU and norm, then the vocabulary."""

    def __init__(
        self, config: ModelConfig, dtype: jnp.dtype, key: PRNGKeyArray, head: SpanBoundary
    ) -> None:
        D, P = config.d_model, config.embedding_width
        place_key, first_key, second_key, out_key = jax.random.split(key, 4)
        self.places = embedding(place_key, config.init, head.longest, head.d_place)
        self.first = Linear(
            config, first_key, (2 * D + head.d_place,), (D,), ("embed", None), dtype)
        self.first_norm = Norm(config)
        self.second = Linear(config, second_key, (D,), (P,), ("embed", None), dtype)
        self.second_norm = Norm(config, P)
        self.vocabulary = Vocabulary(config, dtype, out_key, bias=True)

    def __call__(
        self,
        x_BTD: Float[Array, "B T D"],
        table_VP: Float[Array, "V P"],
        spans_BM3: Int[Array, "B M 3"],
    ) -> Float[Array, "B M V"]:
        """Logits of M masked tokens in each sequence.

        Args:
            x_BTD: hidden states.
            table_VP: the embeddings.
            spans_BM3: for each masked token the position before its span, the one after it, and its
                place in the span from 0.
        """
        left_BM, right_BM, place_BM = jnp.moveaxis(spans_BM3, -1, 0)
        places = shard(self.places[...], None, None)
        layout = out_sharding((*place_BM.shape, places.shape[1]), "batch", None, None)
        h = jnp.concatenate([
            _at(x_BTD, left_BM), _at(x_BTD, right_BM),
            places.at[place_BM].get(out_sharding=layout),
        ], axis=-1)
        h = self.first_norm(jax.nn.gelu(self.first(h), approximate=False))
        h = self.second_norm(jax.nn.gelu(self.second(h), approximate=False))
        return self.vocabulary(h, table_VP)


class ClassesHead(nnx.Module):
    """One linear map (`token`, `span`, and of the pooled state `next_sentence`, `sentence_order`,
    `sequence` and `choice`)."""

    def __init__(self, config: ModelConfig, dtype: jnp.dtype, key: PRNGKeyArray, head: Any) -> None:
        self.kind = head.kind
        self.pool = config.pooling(head)
        classes = {"token": lambda: head.classes, "sequence": lambda: head.classes,
                   "choice": lambda: 1}.get(head.kind, lambda: 2)()
        # The last token's state as it is meets a bare matrix, as GPT's does.
        bias = None if self.pool != "last" else False
        self.out = Linear(
            config, key, (config.d_model,), (classes,), ("embed", None), dtype, bias=bias)

    def __call__(
        self, x_BTD: Float[Array, "B T D"], _table: Array, tokens: Tokens
    ) -> Float[Array, "B N"] | Float[Array, "B T N"] | Float[Array, "B"]:
        """Logits of each token, or of each sequence; of a choice a single number."""
        if self.pool == "last":
            x_BTD = _at(x_BTD, last_token(tokens)[:, None])
        logits_BTN = self.out(x_BTD)
        if self.pool is None:
            return logits_BTN
        return logits_BTN[:, 0, 0] if self.kind == "choice" else logits_BTN[:, 0]


MODULES: dict[str, Any] = {
    "lm": LanguageModelHead, "masked_lm": MaskedLMHead, "replaced_token": ReplacedTokenHead,
    "span_boundary": SpanBoundaryHead,
}
"""The module of a head's kind; ClassesHead where none is named."""


def last_token(tokens: Tokens) -> Int[Array, "B"]:
    """Position of the last token that is no padding."""
    B, T = tokens.ids_BT.shape
    if tokens.documents_BT is None:
        return jnp.full((B,), T - 1)
    return jnp.max(jnp.where(tokens.documents_BT > 0, jnp.arange(T), 0), axis=1)


def _at(x_BTD: Float[Array, "B T D"], place_BM: Int[Array, "B M"]) -> Float[Array, "B M D"]:
    """The states at some positions of each sequence."""
    return jax.vmap(lambda x_TD, place_M: x_TD[place_M])(x_BTD, place_BM)
