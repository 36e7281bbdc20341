"""From vectors of tokens to hidden states: what an encoder is, and what a decoder is."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from scaling.config import ExecutionConfig, ModelConfig
from scaling.models.attention import View
from scaling.models.block import Around, Stack
from scaling.models.experts import Routing
from scaling.models.layers import Linear, Norm, drop, embedding, keys_for
from scaling.models.positions import RelativeBias, alibi, rotary_angles, sinusoids
from scaling.models.tokens import Tokens, cross_mask, self_mask
from scaling.parallel import out_sharding, shard


class Tower(nnx.Module):
    """Positions, types and norm of the embeddings, a stack of blocks, and a final norm."""

    def __init__(
        self,
        config: ModelConfig,
        dtype: jnp.dtype,
        execution: ExecutionConfig,
        position_key: PRNGKeyArray,
        stack_key: PRNGKeyArray,
        *,
        side: Literal["encoder", "decoder"],
    ) -> None:
        """Draw the parameters of one side of a model."""
        self.config, self.side = config, side
        encoder = side == "encoder"
        cross = config.mode == "encoder-decoder" and not encoder
        context = config.source_length if encoder else config.context
        narrow = config.embedding_width
        width = narrow if config.embedding_map == "last" else config.d_model
        rows = context + config.position_offset
        learned = config.positions == "learned"
        key = jax.random.fold_in
        self.positions = embedding(position_key, config.init, rows, width) if learned else None
        typed = config.n_types > 0
        self.types = (
            embedding(key(position_key, 1), config.init, config.n_types, width) if typed else None
        )
        self.embedding_norm = Norm(config, width) if config.embedding_norm else None
        self.map = (
            Linear(config, key(position_key, 2), (narrow,), (config.d_model,), ("embed", None),
                   dtype, bias=config.embedding_bias)
            if narrow != config.d_model else None
        )
        self.bias = (
            RelativeBias(config, key(position_key, 3), both_ways=encoder)
            if config.positions == "relative" else None
        )
        layers = config.encoder_layers if encoder else config.decoder_layers
        self.stack = Stack(config, dtype, execution, stack_key, layers=layers, cross=cross)
        self.norm = Norm(config) if config.has_final_norm else None

    def __call__(
        self,
        x_BTP: Float[Array, "B T P"],
        tokens: Tokens,
        memory_BSD: Float[Array, "B S D"] | None = None,
        source: Tokens | None = None,
        keys_B: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "B T D"], Routing | None]:
        """Hidden states, and what routers say.

        Args:
            x_BTP: vectors of the tokens.
            tokens: the tokens.
            memory_BSD: an encoder's hidden states, for a decoder that has one.
            source: the tokens that the encoder read.
            keys_B: a key for each sequence where dropout is wanted.
        """
        x_BTD = self.enter(x_BTP, tokens, keys_for(keys_B, 0))
        cross = View() if source is None else View(cross_mask(tokens, source))
        around = Around(self._view(tokens, local=True), self._view(tokens, local=False),
                        memory_BSD, cross)
        x_BTD, routing = self.stack(x_BTD, around, keys_for(keys_B, 1))
        return x_BTD if self.norm is None else self.norm(x_BTD), routing

    def enter(
        self, x_BTP: Float[Array, "B T P"], tokens: Tokens, keys_B: PRNGKeyArray | None = None
    ) -> Float[Array, "B T D"]:
        """What enters the first block."""
        x = x_BTP
        if self.map is not None and self.config.embedding_map == "first":
            x = self.map(x)
        T = x.shape[1]
        if self.positions is not None:
            offset, table = self.config.position_offset, shard(self.positions[...], None, None)
            if tokens.positions_BT is None:
                x = x + table[offset : offset + T]
            else:
                layout = out_sharding(x.shape, "batch", None, None)
                x = x + table.at[tokens.positions_BT + offset].get(out_sharding=layout)
        if self.config.positions == "sinusoidal":
            places = jnp.arange(T) if tokens.positions_BT is None else tokens.positions_BT
            x = x + sinusoids(places, x.shape[2])
        if self.types is not None:
            table = shard(self.types[...], None, None)
            if tokens.types_BT is None:
                x = x + table[0]
            else:
                x = x + table.at[tokens.types_BT].get(
                    out_sharding=out_sharding(x.shape, "batch", None, None))
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        x = drop(x, self.config.dropout, keys_B)
        if self.map is not None and self.config.embedding_map == "last":
            x = self.map(x)
        return x

    def _view(self, tokens: Tokens, *, local: bool) -> View:
        config, length = self.config, tokens.ids_BT.shape[1]
        sees = "full" if self.side == "encoder" else config.sees
        mask = self_mask(tokens, sees, config.window if local else None)
        rotation = bias_HTS = None
        if config.positions == "rotary":
            rotation = rotary_angles(length, config.rotary_width, config.rotary_base)
        if config.positions == "alibi":
            bias_HTS = alibi(config.n_heads, length)
        if self.bias is not None:
            bias_HTS = self.bias(length)
        return View(mask, rotation, bias_HTS)
