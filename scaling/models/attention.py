"""Multi-head attention: who looks at whom is a mask, where a token stands a rotation or a bias."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from scaling.config import ModelConfig
from scaling.models.layers import Linear, constant, drop, reshape, residual_gain
from scaling.models.positions import Rotation, by_distance, rotate, sinusoids
from scaling.models.tokens import Mask
from scaling.parallel import shard

MASKED = -1e30
"""Logit of a position that may not be seen; finite, so that a row with nothing to see is no NaN."""


class View(NamedTuple):
    """What a position sees of a sequence, and how it knows where things stand there."""

    mask: Mask | None = None
    rotation: Rotation | None = None
    bias_HTS: Float[Array, "H T S"] | None = None


class Attention(nnx.Module):
    """Scaled dot-product attention in several heads (Vaswani et al. 2017, section 3.2)."""

    def __init__(
        self, config: ModelConfig, dtype: jnp.dtype, key: PRNGKeyArray, *, cross: bool = False
    ) -> None:
        """Draw the parameters; `cross` for attention to another sequence."""
        D, H, K, kv = config.d_model, config.n_heads, config.head_width, config.kv_heads
        q_key, k_key, v_key, o_key = jax.random.split(key, 4)
        inward, outward = ("embed", "heads", None), ("heads", None, "embed")
        self.dtype, self.pairs = dtype, config.rotary_pairs
        self.dropout = config.attention_dropout_rate
        self.scale = K**-0.5 if config.scale_attention else 1.0
        # Where queries are not scaled their weights are smaller at the start by the same factor
        # (T5: Raffel et al. 2020; a fixed std is meant as it stands).
        unscaled = not config.scale_attention and config.init.std is None
        self.query = Linear(
            config, q_key, (D,), (H, K), inward, dtype, gain=K**-0.5 if unscaled else 1.0
        )
        self.key = Linear(config, k_key, (D,), (kv, K), inward, dtype)
        self.value = Linear(config, v_key, (D,), (kv, K), inward, dtype)
        self.out = Linear(
            config, o_key, (H, K), (D,), outward, dtype, gain=residual_gain(config)
        )
        by_distance_too = config.positions == "transformer_xl" and not cross
        self.relative = Relative(config, dtype, key) if by_distance_too else None

    def __call__(
        self,
        x_BTD: Float[Array, "B T D"],
        memory_BSD: Float[Array, "B S D"],
        view: View,
        keys_B: PRNGKeyArray | None = None,
    ) -> Float[Array, "B T D"]:
        """What each position of `x` gathers from `memory` (which is `x` in self-attention)."""
        # Positions last: in the backward pass the large matrices [T, S] are then never read
        # across their rows, which a CPU does three times slower.
        q_BHKT = self.query(x_BTD).transpose(0, 2, 3, 1)
        k_BHKS = self._for_each_query(self.key(memory_BSD).transpose(0, 2, 3, 1), q_BHKT)
        v_BHKS = self._for_each_query(self.value(memory_BSD).transpose(0, 2, 3, 1), q_BHKT)
        if view.rotation is not None:
            q_BHKT = rotate(q_BHKT, view.rotation, self.pairs)
            k_BHKS = rotate(k_BHKS, view.rotation, self.pairs)
        if self.scale != 1:
            q_BHKT = q_BHKT * self.scale
        for_content_BHKT = q_BHKT
        if self.relative is not None:
            for_content_BHKT = self.relative.content(q_BHKT, self.scale)
        logits_BHTS = self._einsum("BHKT,BHKS->BHTS", for_content_BHKT, k_BHKS)
        if self.relative is not None:
            logits_BHTS = logits_BHTS + self.relative(q_BHKT, self.scale)
        if view.bias_HTS is not None:
            logits_BHTS = logits_BHTS + view.bias_HTS
        if view.mask is not None:
            logits_BHTS = jnp.where(view.mask, logits_BHTS, MASKED)
        # A softmax that divides after the product with the values: K divisions a row, not S.
        top_BHT1 = jax.lax.stop_gradient(logits_BHTS.max(axis=-1, keepdims=True))
        weight_BHTS = jnp.exp(logits_BHTS - top_BHT1)
        total_BHT1 = weight_BHTS.sum(axis=-1, keepdims=True)
        weight_BHTS = drop(weight_BHTS, self.dropout, keys_B)
        y_BHTK = self._einsum("BHTS,BHKS->BHTK", weight_BHTS, v_BHKS) / total_BHT1
        return self.out(y_BHTK.transpose(0, 2, 1, 3))

    def _for_each_query(self, x_BGKS: Array, q_BHKT: Array) -> Float[Array, "B H K S"]:
        """Keys or values once for each head of queries that they serve."""
        B, G, K, S = x_BGKS.shape
        H = q_BHKT.shape[1]
        if G == H:
            return x_BGKS
        each = jnp.broadcast_to(shard(x_BGKS, "batch", None, None, None)[:, :, None],
                                (B, G, H // G, K, S))
        return shard(reshape(each, (B, H, K, S), ("batch", None, None, None)),
                     "batch", "heads", None, None)

    def _einsum(self, equation: str, x: Array, y: Array) -> Array:
        return jnp.einsum(
            equation, x.astype(self.dtype), y.astype(self.dtype),
            preferred_element_type=jnp.float32,
        )


class Relative(nnx.Module):
    """Scores by distance (Transformer-XL, Dai et al. 2019, section 3.3): queries against a map of
    the distance's sines, and two learned biases of queries, one for what a key holds and one for
    how far it is."""

    def __init__(self, config: ModelConfig, dtype: jnp.dtype, key: PRNGKeyArray) -> None:
        self.dtype = dtype
        D, heads = config.d_model, (config.n_heads, config.head_width)
        names = ("embed", "heads", None)
        self.map = Linear(
            config, jax.random.fold_in(key, 4), (D,), heads, names, dtype, bias=False
        )
        self.content_bias = constant(0.0, heads, names[1:])
        self.distance_bias = constant(0.0, heads, names[1:])

    def content(self, q_BHKT: Float[Array, "B H K T"], scale: float) -> Float[Array, "B H K T"]:
        """Queries for what keys hold."""
        return q_BHKT + scale * shard(self.content_bias[...], "heads", None)[:, :, None]

    def __call__(
        self, q_BHKT: Float[Array, "B H K T"], scale: float
    ) -> Float[Array, "B H T S"]:
        """Scores of keys at or before each query by their distance."""
        T, D = q_BHKT.shape[3], self.map.weight.shape[0]
        distance_JD = sinusoids(jnp.arange(T)[::-1], D)
        map_DHK = shard(self.map.weight[...], None, "heads", None)
        r_HKJ = jnp.einsum("JD,DHK->HKJ", distance_JD, map_DHK)
        q_BHKT = q_BHKT + scale * shard(self.distance_bias[...], "heads", None)[:, :, None]
        scores_BHTJ = jnp.einsum("BHKT,HKJ->BHTJ", q_BHKT.astype(self.dtype),
                                 r_HKJ.astype(self.dtype), preferred_element_type=jnp.float32)
        return by_distance(scores_BHTJ)
