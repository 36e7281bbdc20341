"""What the parts of a model are made of: parameters, linear maps and norms."""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from scaling.config import ModelConfig
from scaling.parallel import out_sharding, shard

Names = tuple[str | None, ...]
"""The meaning of each axis of an array: keys of scaling.parallel.mesh.RULES, or None."""


def matrix(key: PRNGKeyArray, shape: tuple[int, ...], names: Names, std: float) -> nnx.Param[Array]:
    """A float32 parameter drawn from a normal distribution, the same on every mesh."""
    return nnx.Param(shard(std * jax.random.normal(key, shape, jnp.float32), *names))


def constant(value: float, shape: tuple[int, ...], names: Names) -> nnx.Param[Array]:
    """A float32 parameter that starts at one value: a bias or a gain."""
    return nnx.Param(shard(jnp.full(shape, value, jnp.float32), *names))


def weight_std(config: ModelConfig, fan_in: int, *, writes_residual: bool = False) -> float:
    """Standard deviation of a matrix at the start (ModelConfig.init_std).

    Args:
        config: the model.
        fan_in: how many products one output sums.
        writes_residual: whether the matrix writes into the residual stream; those are divided by
            sqrt(2 n_layers), so that the stream's variance does not grow with depth.
    """
    std = config.init_std or 1 / math.sqrt(fan_in)
    return std / math.sqrt(2 * config.n_layers) if writes_residual else std


def reshape(x: Array, shape: tuple[int, ...], names: Names) -> Array:
    """A reshape whose result lies as its axes' names say."""
    return jax.lax.reshape(x, shape, out_sharding=out_sharding(shape, *names))


def product(
    x: Float[Array, ...], weight: Float[Array, ...], names: Names, sums: int, dtype: jnp.dtype
) -> Float[Array, ...]:
    """Activations [B, T, *in] times a weight [*in, *out]: activations [B, T, *out], float32.

    Both are read in `dtype` and summed in float32. A weight that lies divided over `fsdp` is
    gathered here, just before it is used and in the narrow type; its gradient goes back scattered.

    The product is taken between two plain matrices, with all tokens in the rows. Written as an
    einsum over [B, T, ...] it is the same arithmetic, but XLA then copies and transposes whole
    activations in the backward pass (benchmarks/train_step.py has the figures).

    Args:
        x: activations.
        weight: the parameter.
        names: meaning of the weight's axes as it is stored.
        sums: number of `in` axes.
        dtype: type in which both operands are read.
    """
    (B, T), outside = x.shape[:2], weight.shape[sums:]
    in_size, out_size = math.prod(weight.shape[:sums]), math.prod(outside)
    names = tuple(None if name == "embed" else name for name in names)
    weight = shard(weight.astype(dtype), *names)
    y = jnp.matmul(
        reshape(x.astype(dtype), (B * T, in_size), ("batch", names[0])),
        reshape(weight, (in_size, out_size), (names[0], names[sums])),
        preferred_element_type=jnp.float32,
        out_sharding=out_sharding((B * T, out_size), "batch", names[sums]),
    )
    return reshape(y, (B, T, *outside), ("batch", None, *names[sums:]))


class Linear(nnx.Module):
    """A weight [*in, *out], and a bias [*out] where the model has biases."""

    def __init__(
        self,
        config: ModelConfig,
        key: PRNGKeyArray,
        inside: tuple[int, ...],
        outside: tuple[int, ...],
        names: Names,
        dtype: jnp.dtype,
        *,
        writes_residual: bool = False,
    ) -> None:
        std = weight_std(config, math.prod(inside), writes_residual=writes_residual)
        self.names, self.sums, self.dtype = names, len(inside), dtype
        self.weight = matrix(key, (*inside, *outside), names, std)
        self.bias = constant(0.0, outside, names[self.sums :]) if config.biases else None

    def __call__(self, x: Float[Array, ...]) -> Float[Array, ...]:
        """Activations [B, T, *in] to [B, T, *out]."""
        y = product(x, self.weight[...], self.names, self.sums, self.dtype)
        if self.bias is None:
            return y
        names = (None if name == "embed" else name for name in self.names[self.sums :])
        return y + shard(self.bias[...], *names)


class Norm(nnx.Module):
    """Layer norm or RMS norm over the last axis, in float32."""

    def __init__(self, config: ModelConfig) -> None:
        self.kind: Literal["layer", "rms"] = config.norm
        self.epsilon = config.norm_epsilon
        self.gain = constant(1.0, (config.d_model,), ("embed",))
        has_bias = config.norm == "layer" and config.biases
        self.bias = constant(0.0, (config.d_model,), ("embed",)) if has_bias else None

    def __call__(self, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        if self.kind == "layer":
            x_BTD = x_BTD - x_BTD.mean(axis=-1, keepdims=True)
        variance_BT1 = jnp.square(x_BTD).mean(axis=-1, keepdims=True)
        x_BTD = x_BTD * jax.lax.rsqrt(variance_BT1 + self.epsilon) * shard(self.gain[...], None)
        return x_BTD if self.bias is None else x_BTD + shard(self.bias[...], None)
