"""Kernels of scaled dot-product attention.

A kernel is a function of queries [B, H, K, T], keys and values [B, H, K, S], `AttentionInputs`, and
the type `dtype` in which products read their operands. It returns [B, H, T, K] in float32. Queries
are already scaled and rotated. Positions come last, so that the backward pass never reads the
matrices [T, S] across their rows, which a CPU does three times slower.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from scaling.config.kernels import ATTENTION_BLOCK, AttentionName
from scaling.models.layers import dropout
from scaling.models.positions import AttentionBias, Rotation
from scaling.models.tokens import AttentionMask

MASKED = -1e30
"""Logit of a masked key; finite, so that a query that attends to nothing has no NaN."""


class AttentionInputs(NamedTuple):
    """What attention depends on in addition to queries, keys and values."""

    mask: AttentionMask
    rotation: Rotation | None = None
    """Rotary angles, which the layer applies to queries and keys before the kernel is called."""
    bias: AttentionBias | None = None
    """Bias on the logits."""
    scores_BHTS: Float[Array, "B H T S"] | None = None
    """Further logits, of Transformer-XL's relative positions."""
    dropout: float = 0.0
    """Dropout rate of attention weights."""
    keys_B: Key[Array, " B"] | None = None
    """Seeds the dropout of each sequence; without them nothing is dropped."""


Sums = tuple[Float[Array, "B H T K"], Float[Array, "B H T"]]

Kernel = Callable[
    [Float[Array, "B H K T"], Float[Array, "B H K S"], Float[Array, "B H K S"], AttentionInputs,
     jnp.dtype],
    Float[Array, "B H T K"],
]


def plain(
    q_BHKT: Float[Array, "B H K T"], k_BHKS: Float[Array, "B H K S"],
    v_BHKS: Float[Array, "B H K S"], inputs: AttentionInputs, dtype: jnp.dtype,
) -> Float[Array, "B H T K"]:
    """Attention with the logits of all pairs of positions in memory."""
    logits_BHTS = _product("BHKT,BHKS->BHTS", q_BHKT, k_BHKS, dtype)
    if inputs.scores_BHTS is not None:
        logits_BHTS = logits_BHTS + inputs.scores_BHTS
    logits_BHTS = _biased_and_masked(logits_BHTS, inputs, 0, k_BHKS.shape[-1])
    # A softmax that divides after the product with the values: K divisions a row, not S.
    top_BHT1 = jax.lax.stop_gradient(logits_BHTS.max(axis=-1, keepdims=True))
    weight_BHTS = jnp.exp(logits_BHTS - top_BHT1)
    total_BHT1 = weight_BHTS.sum(axis=-1, keepdims=True)
    weight_BHTS = dropout(weight_BHTS, inputs.dropout, inputs.keys_B)
    return _product("BHTS,BHKS->BHTK", weight_BHTS, v_BHKS, dtype) / total_BHT1


def blocked(
    q_BHKT: Float[Array, "B H K T"], k_BHKS: Float[Array, "B H K S"],
    v_BHKS: Float[Array, "B H K S"], inputs: AttentionInputs, dtype: jnp.dtype,
) -> Float[Array, "B H T K"]:
    """Memory-efficient attention (Rabe and Staats 2021) over blocks of ATTENTION_BLOCK keys. One
    block at a time has its logits in memory, forward and backward: memory grows as T + S instead of
    T S.

    A first pass finds the maximum of each query's logits, a second sums numerator and denominator
    of the softmax. Sums are linear in their terms, so the backward pass keeps no partial sum, and
    the terms of a block are computed again there (`jax.checkpoint`).

    Raises:
        NotImplementedError: attention weights are dropped, or there are scores of relative
            positions; RunConfig refuses both.
    """
    if inputs.scores_BHTS is not None or (inputs.dropout and inputs.keys_B is not None):
        raise NotImplementedError("dropout of attention weights and Transformer-XL's positions")
    S = k_BHKS.shape[-1]
    size = min(ATTENTION_BLOCK, S)
    # The last block overlaps the one before it where S is no multiple of the size.
    first = jnp.arange(0, S, size)
    start = jnp.minimum(first, S - size)

    def block(x_BHKS: Array, at: Array) -> Array:
        return jax.lax.dynamic_slice_in_dim(x_BHKS, at, size, axis=-1)

    def logits(at: Array, new: Array) -> Float[Array, "B H T block"]:
        found = _product("BHKT,BHKS->BHTS", q_BHKT, block(k_BHKS, at), dtype)
        found = _biased_and_masked(found, inputs, at, size)
        return jnp.where(at + jnp.arange(size) >= new, found, -jnp.inf)

    def higher(top_BHT: Array, place: tuple[Array, Array]) -> tuple[Array, None]:
        return jnp.maximum(top_BHT, jax.lax.stop_gradient(logits(*place)).max(axis=-1)), None

    @jax.checkpoint
    def terms(top_BHT: Array, at: Array, new: Array) -> tuple[Array, Array]:
        weight_BHTS = jnp.exp(logits(at, new) - top_BHT[..., None])
        values = _product("BHTS,BHKS->BHTK", weight_BHTS, block(v_BHKS, at), dtype)
        return values, weight_BHTS.sum(axis=-1)

    def add(sums: Sums, place: tuple[Array, Array]) -> tuple[Sums, None]:
        return jax.tree.map(jnp.add, sums, terms(top_BHT, *place)), None

    zero_BHT = jnp.zeros_like(q_BHKT[:, :, 0])
    top_BHT, _ = jax.lax.scan(higher, zero_BHT - jnp.inf, (start, first))
    zero_BHTK = jnp.zeros_like(q_BHKT).swapaxes(-1, -2)
    (y_BHTK, total_BHT), _ = jax.lax.scan(add, (zero_BHTK, zero_BHT), (start, first))
    return y_BHTK / total_BHT[..., None]


def _biased_and_masked(
    logits_BHTS: Array, inputs: AttentionInputs, start: int | Array, size: int
) -> Array:
    if inputs.bias is not None:
        logits_BHTS = logits_BHTS + inputs.bias(start, size)
    mask = inputs.mask.block(start, size)
    return logits_BHTS if mask is None else jnp.where(mask, logits_BHTS, MASKED)


def _product(equation: str, x: Array, y: Array, dtype: jnp.dtype) -> Array:
    return jnp.einsum(
        equation, x.astype(dtype), y.astype(dtype), preferred_element_type=jnp.float32)


ATTENTION: dict[AttentionName, Kernel] = {"plain": plain, "blocked": blocked}
"""Kernels by name (`execution.attention`)."""
