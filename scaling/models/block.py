"""The one block of every Transformer, and a stack of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from scaling.config import ExecutionConfig, ModelConfig
from scaling.models.attention import Attention, Rotation
from scaling.models.feed_forward import FeedForward
from scaling.models.layers import Norm


class Block(nnx.Module):
    """Attention and feed-forward, each normed before and added to the residual stream after."""

    def __init__(self, config: ModelConfig, dtype: jnp.dtype, key: PRNGKeyArray) -> None:
        attention_key, feed_forward_key = jax.random.split(key)
        self.attention_norm = Norm(config)
        self.attention = Attention(config, dtype, attention_key)
        self.feed_forward_norm = Norm(config)
        self.feed_forward = FeedForward(config, dtype, feed_forward_key)

    def __call__(
        self,
        x_BTD: Float[Array, "B T D"],
        mask: Bool[Array, "T S"] | None,
        rotation: Rotation | None,
    ) -> Float[Array, "B T D"]:
        h_BTD = self.attention_norm(x_BTD)
        x_BTD = x_BTD + self.attention(h_BTD, h_BTD, mask, rotation)
        return x_BTD + self.feed_forward(self.feed_forward_norm(x_BTD))


class Stack(nnx.Module):
    """Blocks one after the other.

    Their parameters lie stacked, with the layer as the first axis, whether the layers are scanned
    or unrolled: checkpoints and optimizer see one layout, and a step hands few arrays around.
    """

    def __init__(
        self, config: ModelConfig, dtype: jnp.dtype, execution: ExecutionConfig, key: PRNGKeyArray
    ) -> None:
        self.n_layers = config.n_layers
        self.scan, self.remat = execution.scan_layers, execution.remat
        keys = jax.random.split(key, config.n_layers)
        self.blocks = jax.vmap(lambda key: Block(config, dtype, key))(keys)

    def __call__(
        self,
        x_BTD: Float[Array, "B T D"],
        mask: Bool[Array, "T S"] | None,
        rotation: Rotation | None,
    ) -> Float[Array, "B T D"]:
        def apply(x_BTD: Array, block: Block) -> tuple[Array, None]:
            return block(x_BTD, mask, rotation), None

        if self.remat:
            apply = jax.checkpoint(apply)
        if self.scan:
            return jax.lax.scan(apply, x_BTD, self.blocks)[0]
        for block in _unstacked(self.blocks, self.n_layers):
            x_BTD, _ = apply(x_BTD, block)
        return x_BTD


def _unstacked(blocks: Block, count: int) -> list[Block]:
    """The layers of stacked blocks. A split's gradient is one concatenation, where that of
    indexing would add up as many zero-padded stacks as there are layers."""
    leaves, structure = jax.tree.flatten(blocks)
    layers = zip(*(jax.lax.split(leaf, (1,) * count) for leaf in leaves), strict=True)
    return [structure.unflatten([part[0] for part in layer]) for layer in layers]
