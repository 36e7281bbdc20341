"""The feed-forward layer, applied to each position."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from scaling.config import ModelConfig
from scaling.models.layers import Linear, residual_gain

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": jax.nn.gelu,
    "gelu_exact": partial(jax.nn.gelu, approximate=False),
    "relu": jax.nn.relu,
    "squared_relu": lambda x: jnp.square(jax.nn.relu(x)),
    "swiglu": jax.nn.silu,
    "geglu": jax.nn.gelu,
}
"""Activation of the hidden layer; in gated layers, of the gate."""


class FeedForward(nnx.Module):
    """f(x W_up) W_down, or gated: (f(x W_gate) * x W_up) W_down (Shazeer 2020, eq. 6)."""

    def __init__(self, config: ModelConfig, dtype: jnp.dtype, key: PRNGKeyArray) -> None:
        D, F = config.d_model, config.ff_width
        up_key, gate_key, down_key = jax.random.split(key, 3)
        wide = ("embed", "ff")
        self.activation = config.activation
        self.up = Linear(config, up_key, (D,), (F,), wide, dtype)
        self.gate = Linear(config, gate_key, (D,), (F,), wide, dtype) if config.gated else None
        self.down = Linear(
            config, down_key, (F,), (D,), ("ff", "embed"), dtype, gain=residual_gain(config)
        )

    def __call__(self, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        h_BTF = self.up(x_BTD)
        f = ACTIVATIONS[self.activation]
        if self.gate is None:
            return self.down(f(h_BTF))
        return self.down(f(self.gate(x_BTD)) * h_BTF)
