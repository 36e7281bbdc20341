"""What the parts of a model are made of: parameters, linear maps and norms."""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from scaling.config import ModelConfig
from scaling.config.parts import InitConfig
from scaling.parallel import out_sharding, shard

EMBEDDING = ("vocab", "embed")

Names = tuple[str | None, ...]
"""The meaning of each axis of an array: keys of scaling.parallel.mesh.RULES, or None."""


def matrix(
    key: PRNGKeyArray,
    shape: tuple[int, ...],
    names: Names,
    std: float,
    distribution: str = "normal",
) -> nnx.Param[Array]:
    """A float32 parameter drawn as InitConfig says, the same on every mesh."""
    if distribution == "uniform":
        drawn = jax.random.uniform(key, shape, jnp.float32, -(3**0.5), 3**0.5)
    elif distribution == "truncated":
        drawn = jax.random.truncated_normal(key, -2, 2, shape, jnp.float32)
    else:
        drawn = jax.random.normal(key, shape, jnp.float32)
    return nnx.Param(shard(std * drawn, *names))


def constant(value: float, shape: tuple[int, ...], names: Names) -> nnx.Param[Array]:
    """A float32 parameter that starts at one value: a bias or a gain."""
    return nnx.Param(shard(jnp.full(shape, value, jnp.float32), *names))


_CUT = 0.87962566
"""Standard deviation of a normal distribution that is cut off at two of its own."""


def weight_std(init: InitConfig, fan_in: int, fan_out: int) -> float:
    """Standard deviation of a matrix at the start, before it is cut off (InitConfig.std).

    Args:
        init: how weights are drawn.
        fan_in: how many numbers one output sums.
        fan_out: how many outputs one number goes into.
    """
    if init.std is not None:
        return init.std
    fan = fan_in if init.fan == "in" else (fan_in + fan_out) / 2
    return init.gain / math.sqrt(fan) / (_CUT if init.distribution == "truncated" else 1)


def residual_gain(config: ModelConfig) -> float:
    """Factor at the start of a matrix that writes into the residual stream: 1 / sqrt(how many do)
    (InitConfig.residual). With an encoder to look at, three in a block do."""
    if config.init.residual == "plain":
        return 1.0
    writers = 3 if config.mode == "encoder-decoder" else 2
    return float((writers * config.n_layers) ** -0.5)


def table_std(init: InitConfig, width: int) -> float:
    """Standard deviation of a table of vectors, before it is cut off: InitConfig.std, or
    1 / sqrt(width), with which products of a vector with the rows of a norm's output are of order
    one."""
    cut = _CUT if init.distribution == "truncated" else 1
    return init.std or width**-0.5 / cut


def embedding(key: PRNGKeyArray, init: InitConfig, rows: int, width: int) -> nnx.Param[Array]:
    """A table of learned vectors. By default it is drawn as the transpose of an output matrix would
    be, with which a tied head's logits are of order one at the start."""
    std = init.embedding_std or table_std(init, width)
    return matrix(key, (rows, width), EMBEDDING, std, init.distribution)


def drop(
    x: Float[Array, "B ..."], rate: float, keys_B: PRNGKeyArray | None
) -> Float[Array, "B ..."]:
    """Dropout (Srivastava et al. 2014): numbers set to nought with probability `rate`, the others
    made larger by 1 / (1 - rate). Each sequence draws by its own key, so that what is dropped does
    not depend on the mesh. No keys: nothing is dropped."""
    if keys_B is None or rate == 0:
        return x
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys_B)
    return jnp.where(kept, x / (1 - rate), 0)


def keys_for(keys_B: PRNGKeyArray | None, place: int | Array) -> PRNGKeyArray | None:
    """Keys of their own for one of several places where something is dropped."""
    if keys_B is None:
        return None
    return jax.vmap(lambda key: jax.random.fold_in(key, place))(keys_B)


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
        bias: bool | None = None,
        gain: float = 1.0,
    ) -> None:
        """Draw the weight.

        Args:
            config: says how, and whether there is a bias.
            key: seeds it.
            inside: sizes of the axes that are summed.
            outside: sizes of the axes that come out.
            names: meaning of the weight's axes.
            dtype: type in which products read their operands.
            bias: whether there is one, whatever `config` says.
            gain: factor on the weight at the start.
        """
        std = gain * weight_std(config.init, math.prod(inside), math.prod(outside))
        self.names, self.sums, self.dtype = names, len(inside), dtype
        self.weight = matrix(key, (*inside, *outside), names, std, config.init.distribution)
        has_bias = config.biases if bias is None else bias
        self.bias = constant(0.0, outside, names[self.sums :]) if has_bias else None

    def __call__(self, x: Float[Array, ...]) -> Float[Array, ...]:
        """Activations [B, T, *in] to [B, T, *out]."""
        y = product(x, self.weight[...], self.names, self.sums, self.dtype)
        if self.bias is None:
            return y
        names = (None if name == "embed" else name for name in self.names[self.sums :])
        return y + shard(self.bias[...], *names)


class Norm(nnx.Module):
    """Layer norm or RMS norm over the last axis, in float32."""

    def __init__(self, config: ModelConfig, width: int | None = None) -> None:
        self.kind: Literal["layer", "rms"] = config.norm
        self.epsilon = config.norm_epsilon
        shape, names = (width or config.d_model,), ("embed",)
        self.gain = constant(1.0, shape, names)
        has_bias = config.norm == "layer" and config.biases
        self.bias = constant(0.0, shape, names) if has_bias else None

    def __call__(self, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        if self.kind == "layer":
            x_BTD = x_BTD - x_BTD.mean(axis=-1, keepdims=True)
        variance_BT1 = jnp.square(x_BTD).mean(axis=-1, keepdims=True)
        x_BTD = x_BTD * jax.lax.rsqrt(variance_BT1 + self.epsilon) * shard(self.gain[...], None)
        return x_BTD if self.bias is None else x_BTD + shard(self.bias[...], None)
