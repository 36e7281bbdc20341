"""A Transformer from tokens to logits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from scaling.config import ExecutionConfig, ModelConfig
from scaling.models.attention import causal_mask, rotary_angles
from scaling.models.block import Stack
from scaling.models.layers import Norm, matrix, product, weight_std
from scaling.parallel import out_sharding, shard

EMBEDDING = ("vocab", "embed")


class Transformer(nnx.Module):
    """Embedding, a stack of blocks, a final norm, and a head.

    The decoder-only mode: each position sees itself and those before it, and its logits are for
    the token that follows.
    """

    def __init__(
        self,
        config: ModelConfig,
        key: PRNGKeyArray,
        *,
        precision: str = "float32",
        execution: ExecutionConfig | None = None,
    ) -> None:
        """Draw the parameters.

        Args:
            config: a model whose vocabulary is known.
            key: seeds the parameters, which are the same on every mesh.
            precision: type that matrix products read, "float32" or "bfloat16".
            execution: scanned or unrolled, with or without rematerialisation.
        """
        V, D = config.vocabulary, config.d_model
        self.dtype = jnp.dtype(precision)
        self.rotary = (config.head_width, config.rotary_base)
        embed_key, position_key, stack_key, head_key = jax.random.split(key, 4)
        # Tied or not, the embedding is drawn as the head's transpose would be: its logits are of
        # order one at the start. `scale` then brings its rows to order one as an input.
        std = weight_std(config, D)
        self.scale = 1.0 if config.init_std else D**0.5
        self.embedding = matrix(embed_key, (V, D), EMBEDDING, std)
        learned = config.positions == "learned"
        position_shape = (config.context, D)
        self.positions = (
            matrix(position_key, position_shape, (None, "embed"), std) if learned else None
        )
        self.stack = Stack(config, self.dtype, execution or ExecutionConfig(), stack_key)
        self.norm = Norm(config)
        self.head = None if config.tied_head else matrix(head_key, (V, D), EMBEDDING, std)

    def __call__(self, tokens_BT: Int[Array, "B T"]) -> Float[Array, "B T V"]:
        """Logits (float32) of the token after each position."""
        return self.logits(self.hidden(self.embed(tokens_BT)))

    def embed(self, tokens_BT: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """What enters the first block."""
        B, T = tokens_BT.shape
        table_VD = shard(self.embedding[...], None, None)
        layout = out_sharding((B, T, table_VD.shape[1]), "batch", None, None)
        x_BTD = table_VD.at[tokens_BT].get(out_sharding=layout)
        if self.positions is not None:
            x_BTD = x_BTD + shard(self.positions[...], None, None)[:T]
        return x_BTD * self.scale

    def hidden(self, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """What leaves the last block, normed."""
        length = x_BTD.shape[1]
        rotation = None if self.positions is not None else rotary_angles(length, *self.rotary)
        return self.norm(self.stack(x_BTD, causal_mask(length), rotation))

    def logits(self, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """The head: products with the embedding, or with a matrix of its own."""
        weight = self.embedding if self.head is None else self.head
        return product(x_BTD, weight[...].T, EMBEDDING[::-1], 1, self.dtype)
