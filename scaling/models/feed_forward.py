"""The feed-forward layer: each position by itself, wide in the middle."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from scaling.config import ModelConfig
from scaling.models.layers import Linear


class FeedForward(nnx.Module):
    """GELU(x W_up) W_down, or SwiGLU: (SiLU(x W_gate) * x W_up) W_down (Shazeer 2020, eq. 6)."""

    def __init__(self, config: ModelConfig, dtype: jnp.dtype, key: PRNGKeyArray) -> None:
        D, F = config.d_model, config.ff_width
        up_key, gate_key, down_key = jax.random.split(key, 3)
        wide = ("embed", "ff")
        self.up = Linear(config, up_key, (D,), (F,), wide, dtype)
        gated = config.activation == "swiglu"
        self.gate = Linear(config, gate_key, (D,), (F,), wide, dtype) if gated else None
        self.down = Linear(
            config, down_key, (F,), (D,), ("ff", "embed"), dtype, writes_residual=True
        )

    def __call__(self, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        h_BTF = self.up(x_BTD)
        if self.gate is None:
            return self.down(jax.nn.gelu(h_BTF))
        return self.down(jax.nn.silu(self.gate(x_BTD)) * h_BTF)
