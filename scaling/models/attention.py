"""Multi-head attention: who looks at whom is a mask, where a token stands is a rotation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from scaling.config import ModelConfig
from scaling.models.layers import Linear

Rotation = tuple[Float[Array, "half T"], Float[Array, "half T"]]
"""Cosines and sines of the angles by which each position turns each pair of a head."""

MASKED = -1e30
"""Logit of a position that may not be seen; finite, so that a row with nothing to see is no NaN."""


def causal_mask(length: int) -> Bool[Array, "T S"]:
    """True where the query T may see the key S: itself and all before it."""
    return jnp.tril(jnp.ones((length, length), bool))


def rotary_angles(length: int, width: int, base: float) -> Rotation:
    """Angles of rotary positions: position t turns pair i by t * base^(-2i/width).

    Su et al. 2021 (arXiv 2104.09864), eq. 15. The pairs are (i, i + width/2).
    """
    frequency = base ** (-jnp.arange(0, width, 2) / width)
    angle = frequency[:, None] * jnp.arange(length)
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x_BHKT: Float[Array, "B H K T"], rotation: Rotation) -> Float[Array, "B H K T"]:
    """Turn each pair (i, i + K/2) of each head by its position's angle."""
    cos, sin = rotation
    first, second = jnp.split(x_BHKT, 2, axis=2)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=2)


class Attention(nnx.Module):
    """Scaled dot-product attention in several heads (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, config: ModelConfig, dtype: jnp.dtype, key: PRNGKeyArray) -> None:
        D, H, K = config.d_model, config.n_heads, config.head_width
        q_key, k_key, v_key, o_key = jax.random.split(key, 4)
        inward, outward = ("embed", "heads", None), ("heads", None, "embed")
        self.dtype = dtype
        self.query = Linear(config, q_key, (D,), (H, K), inward, dtype)
        self.key = Linear(config, k_key, (D,), (H, K), inward, dtype)
        self.value = Linear(config, v_key, (D,), (H, K), inward, dtype)
        self.out = Linear(config, o_key, (H, K), (D,), outward, dtype, writes_residual=True)

    def __call__(
        self,
        x_BTD: Float[Array, "B T D"],
        memory_BSD: Float[Array, "B S D"],
        mask: Bool[Array, "T S"] | None,
        rotation: Rotation | None,
    ) -> Float[Array, "B T D"]:
        """What each position of `x` gathers from `memory` (which is `x` in self-attention)."""
        # Positions last: in the backward pass the large matrices [T, S] are then never read
        # across their rows, which a CPU does three times slower.
        q_BHKT = self.query(x_BTD).transpose(0, 2, 3, 1)
        k_BHKS = self.key(memory_BSD).transpose(0, 2, 3, 1)
        v_BHKS = self.value(memory_BSD).transpose(0, 2, 3, 1)
        if rotation is not None:
            q_BHKT, k_BHKS = rotate(q_BHKT, rotation), rotate(k_BHKS, rotation)
        q_BHKT = q_BHKT * q_BHKT.shape[2] ** -0.5
        logits_BHTS = self._einsum("BHKT,BHKS->BHTS", q_BHKT, k_BHKS)
        if mask is not None:
            logits_BHTS = jnp.where(mask, logits_BHTS, MASKED)
        # A softmax that divides after the product with the values: K divisions a row, not S.
        top_BHT1 = jax.lax.stop_gradient(logits_BHTS.max(axis=-1, keepdims=True))
        weight_BHTS = jnp.exp(logits_BHTS - top_BHT1)
        total_BHT1 = weight_BHTS.sum(axis=-1, keepdims=True)
        y_BHTK = self._einsum("BHTS,BHKS->BHTK", weight_BHTS, v_BHKS) / total_BHT1
        return self.out(y_BHTK.transpose(0, 2, 1, 3))

    def _einsum(self, equation: str, x: Array, y: Array) -> Array:
        return jnp.einsum(
            equation, x.astype(self.dtype), y.astype(self.dtype),
            preferred_element_type=jnp.float32,
        )
