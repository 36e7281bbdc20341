"""Heads: one module for each kind of output.

All are constructed with the same arguments; those without a vocabulary ignore `kernel`. Each is
called with the final hidden states [B, T, D], the embedding table [V, P], which tied heads over the
vocabulary use, and the tokens. Heads over the vocabulary also have `losses`, which computes their
cross-entropy without returning logits.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from scaling.config import ModelConfig
from scaling.config.kernels import CrossEntropyName
from scaling.config.parts import LanguageModel, SpanBoundary
from scaling.models.feed_forward import ACTIVATIONS
from scaling.models.kernels.cross_entropy import CROSS_ENTROPY
from scaling.models.layers import (
    EMBEDDING_AXES,
    Linear,
    Norm,
    embedding,
    sharded_matmul,
    table_std,
)
from scaling.models.params import ParamInfo, constant_param, init_param
from scaling.models.tokens import AnyArray, Tokens
from scaling.parallel import out_sharding, shard


class Vocabulary(nnx.Module):
    """Logits over the vocabulary: products with the embedding table or with a separate matrix."""

    def __init__(
        self, config: ModelConfig, dtype: jnp.dtype, key: PRNGKeyArray, *, bias: bool
    ) -> None:
        V, P = config.vocabulary, config.embedding_width
        self.dtype = dtype
        info = ParamInfo("readout", EMBEDDING_AXES, fan_in=(1,), fan_out=(0,))
        self.weight = (
            None if config.tied_head
            else init_param(key, (V, P), info, table_std(config.init, P), config.init.distribution)
        )
        self.bias = constant_param(0.0, (V,), ("vocab",)) if bias else None

    def __call__(
        self, x_BTP: Float[Array, "B T P"], table_VP: Float[Array, "V P"]
    ) -> Float[Array, "B T V"]:
        """Logits in float32."""
        weight_VP = table_VP if self.weight is None else self.weight[...]
        logits_BTV = sharded_matmul(x_BTP, weight_VP.T, EMBEDDING_AXES[::-1], 1, self.dtype)
        return logits_BTV if self.bias is None else logits_BTV + shard(self.bias[...], "vocab")


class VocabularyHead(nnx.Module):
    """A head over the vocabulary: features of the hidden states, then logits."""

    kernel: CrossEntropyName
    """Name of the cross-entropy kernel."""
    vocabulary: Vocabulary

    def features(self, x_BTD: Float[Array, "B T D"], extra: Any) -> Float[Array, "B M P"]:
        """Inputs of the vocabulary's matrix at the positions that are predicted.

        Args:
            x_BTD: final hidden states.
            extra: the tokens, or for `span_boundary` the spans.
        """
        raise NotImplementedError

    def __call__(
        self, x_BTD: Float[Array, "B T D"], table_VP: Float[Array, "V P"], extra: Any
    ) -> Float[Array, "B M V"]:
        """Logits."""
        return self.vocabulary(self.features(x_BTD, extra), table_VP)

    def losses(
        self, x_BTD: Float[Array, "B T D"], table_VP: Float[Array, "V P"],
        targets_BM: Int[AnyArray, "B M"], extra: Any,
    ) -> Float[Array, "B M"]:
        """Cross-entropy of each prediction, in nats."""
        return CROSS_ENTROPY[self.kernel](
            lambda x_BMP: self.vocabulary(x_BMP, table_VP), self.features(x_BTD, extra), targets_BM)


class LanguageModelHead(VocabularyHead):
    """Logits over the vocabulary, directly from the hidden states (`lm`)."""

    def __init__(
        self, config: ModelConfig, dtype: jnp.dtype, key: PRNGKeyArray, head: LanguageModel, *,
        kernel: CrossEntropyName,
    ) -> None:
        D, P = config.d_model, config.embedding_width
        self.kernel = kernel
        self.scale = D**-0.5 if config.scale_output else 1.0
        self.projection = (
            Linear(config, jax.random.fold_in(key, 1), (D,), (P,), ("embed", None), dtype,
                   bias=False)
            if P != D else None
        )
        self.vocabulary = Vocabulary(config, dtype, key, bias=head.bias)

    def features(self, x_BTD: Float[Array, "B T D"], extra: Tokens) -> Float[Array, "B T P"]:
        if self.projection is not None:
            x_BTD = self.projection(x_BTD)
        return x_BTD * self.scale if self.scale != 1 else x_BTD


class MaskedLMHead(VocabularyHead):
    """A dense layer, activation and norm, then logits over the vocabulary with a bias (`masked_lm`;
    Devlin et al. 2018, as released)."""

    def __init__(
        self, config: ModelConfig, dtype: jnp.dtype, key: PRNGKeyArray, _: Any, *,
        kernel: CrossEntropyName,
    ) -> None:
        D, P = config.d_model, config.embedding_width
        self.kernel, self.activation = kernel, config.activation
        self.dense = Linear(config, key, (D,), (P,), ("embed", None), dtype)
        self.norm = Norm(config, P)
        self.vocabulary = Vocabulary(config, dtype, jax.random.fold_in(key, 1), bias=True)

    def features(self, x_BTD: Float[Array, "B T D"], extra: Tokens) -> Float[Array, "B T P"]:
        return self.norm(ACTIVATIONS[self.activation](self.dense(x_BTD)))


class ReplacedTokenHead(nnx.Module):
    """ELECTRA's discriminator (`replaced_token`; Clark et al. 2020): a dense layer, activation, and
    for each token the logit that it was replaced."""

    def __init__(
        self, config: ModelConfig, dtype: jnp.dtype, key: PRNGKeyArray, _: Any, *,
        kernel: CrossEntropyName,
    ) -> None:
        D = config.d_model
        self.activation = config.activation
        self.dense = Linear(config, key, (D,), (D,), ("embed", None), dtype)
        self.out = Linear(config, jax.random.fold_in(key, 1), (D,), (1,), ("embed", None), dtype,
                          role="readout")

    def __call__(
        self, x_BTD: Float[Array, "B T D"], _table: Array, _tokens: Tokens
    ) -> Float[Array, "B T"]:
        """Log-odds that a token was replaced."""
        return self.out(ACTIVATIONS[self.activation](self.dense(x_BTD)))[..., 0]


class SpanBoundaryHead(VocabularyHead):
    """Predicts a token of a span from the hidden states just outside the span and the token's
    position in it (`span_boundary`; Joshi et al. 2019, section 3.2): two layers of GELU and norm,
    then logits over the vocabulary."""

    def __init__(
        self, config: ModelConfig, dtype: jnp.dtype, key: PRNGKeyArray, head: SpanBoundary, *,
        kernel: CrossEntropyName,
    ) -> None:
        D, P = config.d_model, config.embedding_width
        position_key, first_key, second_key, out_key = jax.random.split(key, 4)
        self.kernel = kernel
        self.positions = embedding(
            position_key, config.init, head.max_span, head.d_position, "position")
        self.first = Linear(
            config, first_key, (2 * D + head.d_position,), (D,), ("embed", None), dtype)
        self.first_norm = Norm(config)
        self.second = Linear(config, second_key, (D,), (P,), ("embed", None), dtype)
        self.second_norm = Norm(config, P)
        self.vocabulary = Vocabulary(config, dtype, out_key, bias=True)

    def features(
        self, x_BTD: Float[Array, "B T D"], extra: Int[AnyArray, "B M 3"]
    ) -> Float[Array, "B M P"]:
        """Features of M masked tokens in each sequence.

        Args:
            x_BTD: final hidden states.
            extra: for each masked token the position before its span, the one after it, and the
                token's position in the span from 0.
        """
        left_BM, right_BM, position_BM = jnp.moveaxis(extra, -1, 0)
        table = shard(self.positions[...], None, None)
        layout = out_sharding((*position_BM.shape, table.shape[1]), "batch", None, None)
        h = jnp.concatenate([
            at_positions(x_BTD, left_BM), at_positions(x_BTD, right_BM),
            table.at[position_BM].get(out_sharding=layout),
        ], axis=-1)
        h = self.first_norm(jax.nn.gelu(self.first(h), approximate=False))
        return self.second_norm(jax.nn.gelu(self.second(h), approximate=False))


class ClassesHead(nnx.Module):
    """Class logits by one linear layer: of every token (`token`, `span`), or of a pooled state
    (`next_sentence`, `sentence_order`, `sequence`, `choice`)."""

    def __init__(
        self, config: ModelConfig, dtype: jnp.dtype, key: PRNGKeyArray, head: Any, *,
        kernel: CrossEntropyName,
    ) -> None:
        self.kind = head.kind
        self.pool = config.pooling(head)
        classes = 1 if head.kind == "choice" else getattr(head, "classes", 2)
        # A head on the last token has no bias, as in GPT.
        bias = None if self.pool != "last" else False
        self.out = Linear(config, key, (config.d_model,), (classes,), ("embed", None), dtype,
                          bias=bias, role="readout")

    def __call__(
        self, x_BTD: Float[Array, "B T D"], _table: Array, tokens: Tokens
    ) -> Float[Array, "B N"] | Float[Array, "B T N"] | Float[Array, " B"]:
        """Logits of each token, or of each sequence; one number for `choice`."""
        if self.pool == "last":
            x_BTD = at_positions(x_BTD, last_token(tokens)[:, None])
        logits_BTN = self.out(x_BTD)
        if self.pool is None:
            return logits_BTN
        return logits_BTN[:, 0, 0] if self.kind == "choice" else logits_BTN[:, 0]


MODULES: dict[str, Any] = {
    "lm": LanguageModelHead, "masked_lm": MaskedLMHead, "replaced_token": ReplacedTokenHead,
    "span_boundary": SpanBoundaryHead,
}
"""Modules by kind of head; ClassesHead for all others."""


def last_token(tokens: Tokens) -> Int[Array, " B"]:
    """Position of the last token that is not padding."""
    B, T = tokens.ids_BT.shape
    if tokens.documents_BT is None:
        return jnp.full((B,), T - 1)
    return jnp.max(jnp.where(tokens.documents_BT > 0, jnp.arange(T), 0), axis=1)


def at_positions(
    x_BTD: Float[Array, "B T D"], position_BM: Int[AnyArray, "B M"]
) -> Float[Array, "B M D"]:
    """Hidden states at M positions of each sequence."""
    x_BMD: Array = jax.vmap(lambda x_TD, position_M: x_TD[position_M])(x_BTD, position_BM)
    return x_BMD
