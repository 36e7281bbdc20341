"""The one block of every Transformer, and a stack of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from scaling.config import ExecutionConfig, ModelConfig
from scaling.models.attention import Attention, View
from scaling.models.experts import Experts, Routing
from scaling.models.feed_forward import FeedForward
from scaling.models.layers import Norm, drop, keys_for

Branch = Callable[[Array], tuple[Array, Routing | None]]


class Around(NamedTuple):
    """What all blocks of a stack see: of their own sequence, and of an encoder's."""

    near: View
    """Of a layer whose attention is local."""
    all: View
    """Of any other."""
    memory_BSD: Float[Array, "B S D"] | None = None
    cross: View = View()


class Block(nnx.Module):
    """Attention, attention to an encoder where there is one, and feed-forward: branches, each added
    to the residual stream, and normed before or after."""

    def __init__(
        self,
        config: ModelConfig,
        dtype: jnp.dtype,
        key: PRNGKeyArray,
        *,
        layer: int,
        cross: bool,
        parts: frozenset[str],
    ) -> None:
        """Draw the parameters.

        Args:
            config: the model.
            dtype: type in which products read their operands.
            key: seeds them.
            layer: a layer of the same kind as this one.
            cross: whether this is a decoder's, with an encoder to look at.
            parts: "attention" (that to an encoder, too), "feed_forward", or both. What is not here
                comes with the call: layers may share it.
        """
        attention_key, feed_forward_key = jax.random.split(key)
        cross_key = jax.random.fold_in(key, 2)
        self.post = config.norm_place == "post"
        self.parallel = config.parallel != "no"
        self.banded, self.dropout = config.is_banded(layer), config.dropout
        attends, widens = "attention" in parts, "feed_forward" in parts
        looks = attends and cross
        normed = config.norm_place != "none"
        wide = Experts if config.has_experts(layer) else FeedForward
        self.attention_norm = Norm(config) if attends and normed else None
        self.attention = Attention(config, dtype, attention_key) if attends else None
        self.cross_norm = Norm(config) if looks and normed else None
        self.cross = Attention(config, dtype, cross_key, cross=True) if looks else None
        own_norm = widens and normed and config.parallel != "one_norm"
        self.feed_forward_norm = Norm(config) if own_norm else None
        self.feed_forward = wide(config, dtype, feed_forward_key) if widens else None

    def __call__(
        self,
        x_BTD: Float[Array, "B T D"],
        around: Around,
        keys_B: PRNGKeyArray | None,
        shared: Block | None = None,
    ) -> tuple[Float[Array, "B T D"], Routing | None]:
        """The stream after this block, and what its router says if it has one."""
        mine = self if self.attention is not None or shared is None else shared
        wide = self if self.feed_forward is not None or shared is None else shared
        view = around.near if self.banded else around.all

        def attend(h_BTD: Array) -> tuple[Array, None]:
            return mine.attention(h_BTD, h_BTD, view, keys_for(keys_B, 0)), None

        def look_at_encoder(h_BTD: Array) -> tuple[Array, None]:
            return mine.cross(h_BTD, around.memory_BSD, around.cross, keys_for(keys_B, 1)), None

        def feed_forward(h_BTD: Array) -> tuple[Array, Routing | None]:
            y = wide.feed_forward(h_BTD)
            return y if isinstance(wide.feed_forward, Experts) else (y, None)

        if self.parallel:
            h_BTD = _normed(x_BTD, mine.attention_norm)
            side_BTD = h_BTD if wide.feed_forward_norm is None else wide.feed_forward_norm(x_BTD)
            y_BTD, routing = feed_forward(side_BTD)
            y_BTD = y_BTD + attend(h_BTD)[0]
            return x_BTD + drop(y_BTD, self.dropout, keys_for(keys_B, 2)), routing
        x_BTD, _ = self._branch(x_BTD, mine.attention_norm, attend, keys_for(keys_B, 2))
        if mine.cross is not None:
            x_BTD, _ = self._branch(x_BTD, mine.cross_norm, look_at_encoder, keys_for(keys_B, 3))
        return self._branch(x_BTD, wide.feed_forward_norm, feed_forward, keys_for(keys_B, 4))

    def _branch(
        self, x_BTD: Array, norm: Norm | None, branch: Branch, keys_B: PRNGKeyArray | None
    ) -> tuple[Array, Routing | None]:
        """x + branch(norm(x)), or normed after: norm(x + branch(x))."""
        y_BTD, said = branch(x_BTD if self.post else _normed(x_BTD, norm))
        x_BTD = x_BTD + drop(y_BTD, self.dropout, keys_B)
        return _normed(x_BTD, norm) if self.post else x_BTD, said


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


class Stack(nnx.Module):
    """Blocks one after the other.

    Kinds of block may alternate; those of a kind have their parameters stacked, with the layer as
    the first axis, whether the layers are scanned or unrolled: checkpoints and optimizer see one
    layout, and a step hands few arrays around.
    """

    def __init__(
        self,
        config: ModelConfig,
        dtype: jnp.dtype,
        execution: ExecutionConfig,
        key: PRNGKeyArray,
        *,
        layers: int,
        cross: bool,
    ) -> None:
        self.n_layers, self.period = layers, config.period
        self.scan, self.remat = execution.scan_layers, execution.remat
        shared = _SHARED[config.share_layers]
        own = EVERYTHING - shared

        def block(key: PRNGKeyArray, layer: int, parts: frozenset[str]) -> Block:
            return Block(config, dtype, key, layer=layer, cross=cross, parts=parts)

        self.shared = block(jax.random.fold_in(key, layers), 0, shared) if shared else None
        keys = jax.random.split(key, layers)
        self.kinds = nnx.List([
            jax.vmap(lambda key, layer=layer: block(key, layer, own))(keys[layer :: self.period])
            for layer in range(self.period)
        ])

    def __call__(
        self, x_BTD: Float[Array, "B T D"], around: Around, keys_B: PRNGKeyArray | None
    ) -> tuple[Float[Array, "B T D"], Routing | None]:
        """The stream after the last block, and the sum of what routers say over their layers."""
        def apply(x_BTD: Array, period: tuple[Any, Array]) -> tuple[Array, Routing | None]:
            blocks, first = period
            total = None
            for place, block in enumerate(blocks):
                keys = keys_for(keys_B, first + place)
                x_BTD, routing = block(x_BTD, around, keys, self.shared)
                total = routing if total is None else _sum(total, routing)
            return x_BTD, total

        if self.remat != "none":
            apply = jax.checkpoint(apply, policy=_REMAT[self.remat])
        kinds = list(self.kinds)
        firsts = jnp.arange(0, self.n_layers, self.period)
        if self.scan:
            x_BTD, routings = jax.lax.scan(apply, x_BTD, (kinds, firsts))
            return x_BTD, jax.tree.map(lambda said: said.sum(axis=0), routings)
        total = None
        for number, blocks in enumerate(_unstacked(kinds, self.n_layers // self.period)):
            x_BTD, routing = apply(x_BTD, (blocks, number * self.period))
            total = routing if total is None else _sum(total, routing)
        return x_BTD, total


def _sum(one: Routing, other: Routing | None) -> Routing:
    return one if other is None else jax.tree.map(jnp.add, one, other)


def _unstacked(kinds: list[Block], count: int) -> list[list[Block]]:
    """The periods of stacked blocks. A split's gradient is one concatenation, where that of
    indexing would add up as many zero-padded stacks as there are layers."""
    leaves, structure = jax.tree.flatten(kinds)
    if not leaves:
        return [kinds] * count
    layers = zip(*(jax.lax.split(leaf, (1,) * count) for leaf in leaves), strict=True)
    return [structure.unflatten([part[0] for part in layer]) for layer in layers]
