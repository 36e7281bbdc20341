"""The Transformer block, which all models share, and the stack of its layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key, PRNGKeyArray

from scaling.config import ExecutionConfig, ModelConfig
from scaling.config.kernels import AttentionName
from scaling.models.attention import Attention
from scaling.models.experts import Experts, Routing
from scaling.models.feed_forward import FeedForward
from scaling.models.kernels.attention import AttentionInputs
from scaling.models.layers import Norm, dropout, fold_in_keys
from scaling.models.params import with_info

Branch = Callable[[Array], tuple[Array, Routing | None]]


class Context(NamedTuple):
    """Inputs that all layers share."""

    local: AttentionInputs
    """Of layers whose attention is local."""
    everywhere: AttentionInputs
    """Of all other layers."""
    memory_BSD: Float[Array, "B S D"] | None = None
    """Hidden states of the encoder, for cross-attention."""
    cross: AttentionInputs | None = None
    """Of cross-attention."""


class Block(nnx.Module):
    """Self-attention, cross-attention in a decoder with an encoder, and feed-forward: branches that
    are added to the residual stream, with a norm before or after."""

    def __init__(
        self,
        config: ModelConfig,
        dtype: jnp.dtype,
        key: PRNGKeyArray,
        *,
        layer: int,
        cross: bool,
        parts: frozenset[str],
        kernel: AttentionName,
    ) -> None:
        """Initialise the parameters.

        Args:
            config: the model.
            dtype: type in which products read their operands.
            key: seeds the parameters.
            layer: index of the first layer of this kind.
            cross: whether the block has cross-attention.
            parts: "attention" (including cross-attention), "feed_forward", or both. A part that the
                layers share is passed to the call instead.
            kernel: name of the attention kernel.
        """
        attention_key, feed_forward_key = jax.random.split(key)
        cross_key = jax.random.fold_in(key, 2)
        self.post = config.norm_place == "post"
        self.parallel = config.parallel != "no"
        self.is_local, self.dropout = config.is_local(layer), config.dropout
        attention, feed_forward = "attention" in parts, "feed_forward" in parts
        cross = cross and attention
        normed = config.norm_place != "none"
        self.attention_norm = Norm(config) if attention and normed else None
        self.attention = (
            Attention(config, dtype, attention_key, kernel=kernel) if attention else None
        )
        self.cross_norm = Norm(config) if cross and normed else None
        self.cross = (
            Attention(config, dtype, cross_key, cross=True, kernel=kernel) if cross else None
        )
        own_norm = feed_forward and normed and config.parallel != "one_norm"
        self.feed_forward_norm = Norm(config) if own_norm else None
        layer_class = Experts if config.has_experts(layer) else FeedForward
        self.feed_forward = layer_class(config, dtype, feed_forward_key) if feed_forward else None

    def __call__(
        self,
        x_BTD: Float[Array, "B T D"],
        context: Context,
        keys_B: Key[Array, " B"] | None,
        shared: Block | None = None,
    ) -> tuple[Float[Array, "B T D"], Routing | None]:
        """The residual stream after this block, and the statistics of its router if it has one.

        Args:
            x_BTD: the residual stream.
            context: inputs that all layers share.
            keys_B: a key for each sequence, in training.
            shared: the block whose parts all layers share, if they share any.
        """
        attending = self if self.attention is not None or shared is None else shared
        feeding = self if self.feed_forward is not None or shared is None else shared
        attention, cross, layer = attending.attention, attending.cross, feeding.feed_forward
        assert attention is not None  # the block's own or the shared one
        assert layer is not None
        inputs = context.local if self.is_local else context.everywhere

        def attend(h_BTD: Array) -> tuple[Array, None]:
            return attention(h_BTD, h_BTD, inputs, fold_in_keys(keys_B, 0)), None

        def attend_to_encoder(h_BTD: Array) -> tuple[Array, None]:
            assert cross is not None
            assert context.memory_BSD is not None
            assert context.cross is not None
            return cross(
                h_BTD, context.memory_BSD, context.cross, fold_in_keys(keys_B, 1)), None

        def feed_forward(h_BTD: Array) -> tuple[Array, Routing | None]:
            return layer(h_BTD) if isinstance(layer, Experts) else (layer(h_BTD), None)

        if self.parallel:
            h_BTD = _normed(x_BTD, attending.attention_norm)
            norm = feeding.feed_forward_norm
            y_BTD, routing = feed_forward(h_BTD if norm is None else norm(x_BTD))
            y_BTD = y_BTD + attend(h_BTD)[0]
            return x_BTD + dropout(y_BTD, self.dropout, fold_in_keys(keys_B, 2)), routing
        x_BTD, _ = self._branch(
            x_BTD, attending.attention_norm, attend, fold_in_keys(keys_B, 2))
        if cross is not None:
            x_BTD, _ = self._branch(
                x_BTD, attending.cross_norm, attend_to_encoder, fold_in_keys(keys_B, 3))
        return self._branch(
            x_BTD, feeding.feed_forward_norm, feed_forward, fold_in_keys(keys_B, 4))

    def _branch(
        self, x_BTD: Array, norm: Norm | None, branch: Branch, keys_B: Key[Array, " B"] | None
    ) -> tuple[Array, Routing | None]:
        """x + branch(norm(x)), or with the norm after the sum: norm(x + branch(x))."""
        y_BTD, routing = branch(x_BTD if self.post else _normed(x_BTD, norm))
        x_BTD = x_BTD + dropout(y_BTD, self.dropout, keys_B)
        return _normed(x_BTD, norm) if self.post else x_BTD, routing


def _normed(x_BTD: Array, norm: Norm | None) -> Array:
    return x_BTD if norm is None else norm(x_BTD)


EVERYTHING = frozenset({"attention", "feed_forward"})
_SHARED = {
    "none": frozenset(), "all": EVERYTHING, "attention": frozenset({"attention"}),
    "feed_forward": frozenset({"feed_forward"}),
}
_REMAT = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class Layers(nnx.Module):
    """The blocks of an encoder or a decoder.

    Kinds of block may alternate. The parameters of each kind are stacked, with the layer as the
    first axis, whether layers are scanned or unrolled: checkpoints and optimizer have one layout,
    and a step passes few arrays.
    """

    def __init__(
        self,
        config: ModelConfig,
        dtype: jnp.dtype,
        execution: ExecutionConfig,
        key: PRNGKeyArray,
        *,
        n_layers: int,
        cross: bool,
    ) -> None:
        """Initialise `n_layers` blocks, with cross-attention or without."""
        self.n_layers, self.period = n_layers, config.period
        self.scan, self.remat = execution.scan_layers, execution.remat
        shared = _SHARED[config.share_layers]
        own = EVERYTHING - shared

        def block(key: PRNGKeyArray, layer: int, parts: frozenset[str]) -> Block:
            return Block(config, dtype, key, layer=layer, cross=cross, parts=parts,
                         kernel=execution.attention)

        self.shared = block(jax.random.fold_in(key, n_layers), 0, shared) if shared else None
        keys = jax.random.split(key, n_layers)
        self.kinds = nnx.List([
            with_info(
                jax.vmap(lambda key, layer=layer: block(key, layer, own))(
                    keys[layer :: self.period]),
                layers=tuple(range(layer, n_layers, self.period)))
            for layer in range(self.period)
        ])

    def __call__(
        self, x_BTD: Float[Array, "B T D"], context: Context, keys_B: Key[Array, " B"] | None
    ) -> tuple[Float[Array, "B T D"], Routing | None]:
        """The residual stream after the last block, and router statistics summed over layers."""
        def apply(x_BTD: Array, period: tuple[Any, Array | int]) -> tuple[Array, Routing | None]:
            blocks, first = period
            total = None
            for place, block in enumerate(blocks):
                keys = fold_in_keys(keys_B, first + place)
                x_BTD, routing = block(x_BTD, context, keys, self.shared)
                total = routing if total is None else _sum(total, routing)
            return x_BTD, total

        if self.remat != "none":
            apply = jax.checkpoint(apply, policy=_REMAT[self.remat])
        kinds = list(self.kinds)
        firsts = jnp.arange(0, self.n_layers, self.period)
        if self.scan:
            x_BTD, routings = jax.lax.scan(apply, x_BTD, (kinds, firsts))
            return x_BTD, jax.tree.map(lambda each: each.sum(axis=0), routings)
        total = None
        for number, blocks in enumerate(_unstacked(kinds, self.n_layers // self.period)):
            x_BTD, routing = apply(x_BTD, (blocks, number * self.period))
            total = routing if total is None else _sum(total, routing)
        return x_BTD, total


def _sum(one: Routing, other: Routing | None) -> Routing:
    return one if other is None else jax.tree.map(jnp.add, one, other)


def _unstacked(kinds: list[Block], count: int) -> list[list[Block]]:
    """The blocks of each period of a stack. The gradient of a split is one concatenation; that of
    indexing would add up as many zero-padded stacks as there are layers."""
    leaves, structure = jax.tree.flatten(kinds)
    if not leaves:
        return [kinds] * count
    layers = zip(*(jax.lax.split(leaf, (1,) * count) for leaf in leaves), strict=True)
    return [jax.tree.unflatten(structure, [part[0] for part in layer]) for layer in layers]
