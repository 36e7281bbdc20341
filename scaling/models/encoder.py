"""Encoder and decoder: from embedded tokens to hidden states."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key, PRNGKeyArray

from scaling.config import ExecutionConfig, ModelConfig
from scaling.models.block import Context, Layers
from scaling.models.experts import Routing
from scaling.models.kernels.attention import AttentionInputs
from scaling.models.layers import Linear, Norm, dropout, embedding, fold_in_keys
from scaling.models.positions import RelativeBias, alibi, rotary_angles, sinusoids
from scaling.models.tokens import AttentionMask, Tokens
from scaling.parallel import out_sharding, shard


class _Side(nnx.Module):
    """One side of a model: position and type embeddings, layers, and a final norm."""

    is_encoder: ClassVar[bool]

    def __init__(
        self,
        config: ModelConfig,
        dtype: jnp.dtype,
        execution: ExecutionConfig,
        position_key: PRNGKeyArray,
        layers_key: PRNGKeyArray,
    ) -> None:
        """Initialise the parameters."""
        self.config = config
        encoder = self.is_encoder
        cross = config.mode == "encoder-decoder" and not encoder
        context = config.source_length if encoder else config.context
        narrow = config.embedding_width
        width = narrow if config.embedding_projection == "last" else config.d_model
        rows = context + config.position_offset
        learned = config.positions == "learned"
        key = jax.random.fold_in
        self.positions = (
            embedding(position_key, config.init, rows, width, "position") if learned else None
        )
        typed = config.n_token_types > 0
        self.types = (
            embedding(key(position_key, 1), config.init, config.n_token_types, width)
            if typed else None
        )
        self.embedding_norm = Norm(config, width) if config.embedding_norm else None
        self.projection = (
            Linear(config, key(position_key, 2), (narrow,), (config.d_model,), ("embed", None),
                   dtype, bias=config.embedding_projection_bias)
            if narrow != config.d_model else None
        )
        self.relative_bias = (
            RelativeBias(config, key(position_key, 3), both_ways=encoder)
            if config.positions == "relative" else None
        )
        n_layers = config.encoder_layers if encoder else config.decoder_layers
        self.layers = Layers(
            config, dtype, execution, layers_key, n_layers=n_layers, cross=cross)
        self.norm = Norm(config) if config.has_final_norm else None

    def __call__(
        self,
        x_BTP: Float[Array, "B T P"],
        tokens: Tokens,
        memory_BSD: Float[Array, "B S D"] | None = None,
        source: Tokens | None = None,
        keys_B: Key[Array, " B"] | None = None,
    ) -> tuple[Float[Array, "B T D"], Routing | None]:
        """Hidden states, and router statistics summed over layers.

        Args:
            x_BTP: embedded tokens.
            tokens: the tokens.
            memory_BSD: hidden states of the encoder, for a decoder with cross-attention.
            source: the tokens that the encoder read.
            keys_B: a key for each sequence, in training; without, nothing is dropped.
        """
        x_BTD = self.embed_positions(x_BTP, tokens, fold_in_keys(keys_B, 0))
        cross = None if source is None else AttentionInputs(AttentionMask.across(tokens, source))
        context = Context(self._inputs(tokens, local=True), self._inputs(tokens, local=False),
                          memory_BSD, cross)
        x_BTD, routing = self.layers(x_BTD, context, fold_in_keys(keys_B, 1))
        return x_BTD if self.norm is None else self.norm(x_BTD), routing

    def embed_positions(
        self, x_BTP: Float[Array, "B T P"], tokens: Tokens, keys_B: Key[Array, " B"] | None = None
    ) -> Float[Array, "B T D"]:
        """The input of the first block: embedded tokens with positions, types and norm, of width
        d_model."""
        x = x_BTP
        if self.projection is not None and self.config.embedding_projection == "first":
            x = self.projection(x)
        T = x.shape[1]
        if self.positions is not None:
            offset, table = self.config.position_offset, shard(self.positions[...], None, None)
            if tokens.positions_BT is None:
                x = x + table[offset : offset + T]
            else:
                layout = out_sharding(x.shape, "batch", None, None)
                x = x + table.at[tokens.positions_BT + offset].get(out_sharding=layout)
        if self.config.positions == "sinusoidal":
            index = jnp.arange(T) if tokens.positions_BT is None else tokens.positions_BT
            x = x + sinusoids(index, x.shape[2])
        if self.types is not None:
            table = shard(self.types[...], None, None)
            if tokens.types_BT is None:
                x = x + table[0]
            else:
                x = x + table.at[tokens.types_BT].get(
                    out_sharding=out_sharding(x.shape, "batch", None, None))
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        x = dropout(x, self.config.dropout, keys_B)
        if self.projection is not None and self.config.embedding_projection == "last":
            x = self.projection(x)
        return x

    def _inputs(self, tokens: Tokens, *, local: bool) -> AttentionInputs:
        config, length = self.config, tokens.ids_BT.shape[1]
        pattern = "full" if self.is_encoder else config.attention_mask
        mask = AttentionMask.within(tokens, pattern, config.window if local else None)
        rotation = bias = None
        if config.positions == "rotary":
            rotation = rotary_angles(length, config.rotary_width, config.rotary_base)
        if config.positions == "alibi":
            bias = alibi(config.n_heads, length)
        if self.relative_bias is not None:
            bias = self.relative_bias(length)
        return AttentionInputs(mask, rotation, bias)


class Encoder(_Side):
    """An encoder: attention is bidirectional."""

    is_encoder = True


class Decoder(_Side):
    """A decoder: attention is causal or has a prefix, and there is cross-attention if the model has
    an encoder."""

    is_encoder = False
