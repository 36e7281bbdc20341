"""Multi-head attention, in self-attention and cross-attention."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key, PRNGKeyArray

from scaling.config import ModelConfig
from scaling.config.kernels import AttentionName
from scaling.models.kernels.attention import ATTENTION, AttentionInputs
from scaling.models.layers import Linear, reshape, residual_gain
from scaling.models.params import constant_param
from scaling.models.positions import by_distance, rotate, sinusoids
from scaling.parallel import shard


class Attention(nnx.Module):
    """Multi-head scaled dot-product attention (Vaswani et al. 2017, section 3.2)."""

    def __init__(
        self, config: ModelConfig, dtype: jnp.dtype, key: PRNGKeyArray, *, cross: bool = False,
        kernel: AttentionName = "plain",
    ) -> None:
        """Initialise the parameters.

        Args:
            config: the model.
            dtype: type in which products read their operands.
            key: seeds the parameters.
            cross: whether this is cross-attention, which has no relative positions.
            kernel: a name in scaling.models.kernels.ATTENTION.
        """
        D, H, K, kv = config.d_model, config.n_heads, config.head_width, config.kv_heads
        q_key, k_key, v_key, o_key = jax.random.split(key, 4)
        inward, outward = ("embed", "heads", None), ("heads", None, "embed")
        self.dtype, self.pairs, self.kernel = dtype, config.rotary_pairs, kernel
        self.dropout = config.attention_dropout_rate
        self.scale = K**-0.5 if config.scale_attention else 1.0
        # Where queries are not scaled, their weights are initialised smaller by the same factor
        # (T5: Raffel et al. 2020); an explicit std is taken as it is.
        unscaled = not config.scale_attention and config.init.std is None
        self.query = Linear(
            config, q_key, (D,), (H, K), inward, dtype, gain=K**-0.5 if unscaled else 1.0
        )
        self.key = Linear(config, k_key, (D,), (kv, K), inward, dtype)
        self.value = Linear(config, v_key, (D,), (kv, K), inward, dtype)
        self.out = Linear(
            config, o_key, (H, K), (D,), outward, dtype, gain=residual_gain(config)
        )
        relative = config.positions == "transformer_xl" and not cross
        self.relative = RelativeScores(config, dtype, key) if relative else None

    def __call__(
        self,
        x_BTD: Float[Array, "B T D"],
        memory_BSD: Float[Array, "B S D"],
        inputs: AttentionInputs,
        keys_B: Key[Array, " B"] | None = None,
    ) -> Float[Array, "B T D"]:
        """Attention of `x` (queries) to `memory` (keys and values), which in self-attention is `x`.

        Args:
            x_BTD: hidden states of the queries.
            memory_BSD: hidden states of the keys and values.
            inputs: mask, rotation and bias.
            keys_B: a key for each sequence, in training.
        """
        q_BHKT = self.query(x_BTD).transpose(0, 2, 3, 1)
        k_BHKS = self._repeat(self.key(memory_BSD).transpose(0, 2, 3, 1), q_BHKT)
        v_BHKS = self._repeat(self.value(memory_BSD).transpose(0, 2, 3, 1), q_BHKT)
        if inputs.rotation is not None:
            q_BHKT = rotate(q_BHKT, inputs.rotation, self.pairs)
            k_BHKS = rotate(k_BHKS, inputs.rotation, self.pairs)
        if self.scale != 1:
            q_BHKT = q_BHKT * self.scale
        inputs = inputs._replace(dropout=self.dropout, keys_B=keys_B)
        if self.relative is not None:
            inputs = inputs._replace(scores_BHTS=self.relative(q_BHKT, self.scale))
            q_BHKT = self.relative.content(q_BHKT, self.scale)
        y_BHTK = ATTENTION[self.kernel](q_BHKT, k_BHKS, v_BHKS, inputs, self.dtype)
        return self.out(y_BHTK.transpose(0, 2, 1, 3))

    def _repeat(self, x_BGKS: Array, q_BHKT: Array) -> Float[Array, "B H K S"]:
        """Keys or values, repeated for the query heads that share them."""
        B, G, K, S = x_BGKS.shape
        H = q_BHKT.shape[1]
        if G == H:
            return x_BGKS
        each = jnp.broadcast_to(shard(x_BGKS, "batch", None, None, None)[:, :, None],
                                (B, G, H // G, K, S))
        return shard(reshape(each, (B, H, K, S), ("batch", None, None, None)),
                     "batch", "heads", None, None)


class RelativeScores(nnx.Module):
    """Attention scores by relative position (Transformer-XL, Dai et al. 2019, section 3.3).

    They are products of the queries with projected sinusoids of the distance. Two learned biases
    are added to the queries, one for the products with keys and one for those with distances.
    """

    def __init__(self, config: ModelConfig, dtype: jnp.dtype, key: PRNGKeyArray) -> None:
        self.dtype = dtype
        D, heads = config.d_model, (config.n_heads, config.head_width)
        axes = ("embed", "heads", None)
        self.projection = Linear(
            config, jax.random.fold_in(key, 4), (D,), heads, axes, dtype, bias=False
        )
        self.content_bias = constant_param(0.0, heads, axes[1:])
        self.distance_bias = constant_param(0.0, heads, axes[1:])

    def content(self, q_BHKT: Float[Array, "B H K T"], scale: float) -> Float[Array, "B H K T"]:
        """Queries for the products with keys."""
        return q_BHKT + scale * shard(self.content_bias[...], "heads", None)[:, :, None]

    def __call__(
        self, q_BHKT: Float[Array, "B H K T"], scale: float
    ) -> Float[Array, "B H T S"]:
        """Scores of the keys up to each query, by their distance."""
        T, D = q_BHKT.shape[3], self.projection.weight.shape[0]
        distance_JD = sinusoids(jnp.arange(T)[::-1], D)
        weight_DHK = shard(self.projection.weight[...], None, "heads", None)
        r_HKJ = jnp.einsum("JD,DHK->HKJ", distance_JD, weight_DHK)
        q_BHKT = q_BHKT + scale * shard(self.distance_bias[...], "heads", None)[:, :, None]
        scores_BHTJ = jnp.einsum("BHKT,HKJ->BHTJ", q_BHKT.astype(self.dtype),
                                 r_HKJ.astype(self.dtype), preferred_element_type=jnp.float32)
        return by_distance(scores_BHTJ)
