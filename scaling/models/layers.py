"""Building blocks of all modules: initialisation, linear layers, norms and dropout."""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key, PRNGKeyArray

from scaling.config import ModelConfig
from scaling.config.parts import InitConfig
from scaling.config.trainable import Role
from scaling.models.params import AxisNames, ParamInfo, constant_param, init_param
from scaling.parallel import out_sharding, shard

EMBEDDING_AXES = ("vocab", "embed")

_TRUNCATED_STD = 0.87962566
"""Standard deviation of a standard normal distribution truncated at -2 and 2."""


def weight_std(init: InitConfig, fan_in: int, fan_out: int) -> float:
    """Standard deviation of a weight matrix at initialisation, before truncation (InitConfig.std).

    Args:
        init: how weights are drawn.
        fan_in: number of inputs that an output sums.
        fan_out: number of outputs that an input contributes to.
    """
    if init.std is not None:
        return init.std
    fan = fan_in if init.fan == "in" else (fan_in + fan_out) / 2
    truncation = _TRUNCATED_STD if init.distribution == "truncated" else 1
    return init.gain / math.sqrt(fan) / truncation


def residual_gain(config: ModelConfig) -> float:
    """Initial scale of matrices that write to the residual stream: 1 / sqrt(number of such
    matrices) (InitConfig.residual). A block has two, and three with cross-attention."""
    if config.init.residual == "plain":
        return 1.0
    writers = 3 if config.mode == "encoder-decoder" else 2
    return float((writers * config.n_layers) ** -0.5)


def table_std(init: InitConfig, width: int) -> float:
    """Standard deviation of an embedding table, before truncation: InitConfig.std, or
    1 / sqrt(width), so that dot products of its rows with a normed vector are of order one."""
    truncation = _TRUNCATED_STD if init.distribution == "truncated" else 1
    return init.std or width**-0.5 / truncation


def embedding(
    key: PRNGKeyArray, init: InitConfig, rows: int, width: int, role: Role = "embedding"
) -> nnx.Param[Array]:
    """A table of learned vectors [rows, width]. With the default initialisation the logits of a
    tied head are of order one."""
    std = init.embedding_std or table_std(init, width)
    info = ParamInfo(role, EMBEDDING_AXES, fan_in=(0,), fan_out=(1,))
    return init_param(key, (rows, width), info, std, init.distribution)


def dropout(
    x: Float[Array, "B ..."], rate: float, keys_B: Key[Array, " B"] | None
) -> Float[Array, "B ..."]:
    """Dropout (Srivastava et al. 2014): elements are zeroed with probability `rate`, and the others
    scaled by 1 / (1 - rate). Each sequence draws from its own key, so the result does not depend on
    the mesh. Without keys nothing is dropped."""
    if keys_B is None or rate == 0:
        return x
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys_B)
    return jnp.where(kept, x / (1 - rate), 0)


def fold_in_keys(keys_B: Key[Array, " B"] | None, data: int | Array) -> Key[Array, " B"] | None:
    """`jax.random.fold_in` for the key of each sequence; None without keys."""
    if keys_B is None:
        return None
    return jax.vmap(lambda key: jax.random.fold_in(key, data))(keys_B)


def reshape(x: Array, shape: tuple[int, ...], axes: AxisNames) -> Array:
    """Reshape an array, sharding the result by its axes' names."""
    return jax.lax.reshape(x, shape, out_sharding=out_sharding(shape, *axes))


def sharded_matmul(
    x: Float[Array, "B T ..."], weight: Float[Array, "..."], axes: AxisNames, n_in: int,
    dtype: jnp.dtype,
) -> Float[Array, "B T ..."]:
    """Activations [B, T, *in] times a weight [*in, *out]: activations [B, T, *out] in float32.

    Operands are read in `dtype` and summed in float32. A weight that is sharded over `fsdp` is
    gathered just before its use, in `dtype`; its gradient is scattered back.

    The product is computed between two matrices, with all tokens in the rows. Written as an einsum
    over [B, T, ...] it is the same arithmetic, but XLA then copies and transposes whole activations
    in the backward pass (benchmarks/train_step.py has the figures).

    Args:
        x: activations.
        weight: the parameter.
        axes: names of the weight's axes as it is stored.
        n_in: number of `in` axes.
        dtype: type in which both operands are read.
    """
    (B, T), outside = x.shape[:2], weight.shape[n_in:]
    in_size, out_size = math.prod(weight.shape[:n_in]), math.prod(outside)
    axes = tuple(None if name == "embed" else name for name in axes)
    weight = shard(weight.astype(dtype), *axes)
    y = jnp.matmul(
        reshape(x.astype(dtype), (B * T, in_size), ("batch", axes[0])),
        reshape(weight, (in_size, out_size), (axes[0], axes[n_in])),
        preferred_element_type=jnp.float32,
        out_sharding=out_sharding((B * T, out_size), "batch", axes[n_in]),
    )
    return reshape(y, (B, T, *outside), ("batch", None, *axes[n_in:]))


class Linear(nnx.Module):
    """A linear layer: a weight [*in, *out], and a bias [*out] if the model uses biases."""

    def __init__(
        self,
        config: ModelConfig,
        key: PRNGKeyArray,
        inside: tuple[int, ...],
        outside: tuple[int, ...],
        axes: AxisNames,
        dtype: jnp.dtype,
        *,
        bias: bool | None = None,
        gain: float = 1.0,
        role: Role = "hidden",
    ) -> None:
        """Initialise the parameters.

        Args:
            config: the model, for its initialisation and whether it uses biases.
            key: seeds the weight.
            inside: sizes of the input axes, which are summed over.
            outside: sizes of the output axes.
            axes: names of the weight's axes.
            dtype: type in which products read their operands.
            bias: whether there is a bias; by default `config.use_bias`.
            gain: factor on the weight at initialisation.
            role: of the weight.
        """
        self.axes, self.n_in, self.dtype = axes, len(inside), dtype
        std = gain * weight_std(config.init, math.prod(inside), math.prod(outside))
        info = ParamInfo(role, axes, fan_in=tuple(range(self.n_in)),
                         fan_out=tuple(range(self.n_in, len(axes))))
        self.weight = init_param(key, (*inside, *outside), info, std, config.init.distribution)
        use_bias = config.use_bias if bias is None else bias
        self.bias = constant_param(0.0, outside, axes[self.n_in :]) if use_bias else None

    def __call__(self, x: Float[Array, "B T ..."]) -> Float[Array, "B T ..."]:
        """Activations [B, T, *in] to [B, T, *out]."""
        y = sharded_matmul(x, self.weight[...], self.axes, self.n_in, self.dtype)
        if self.bias is None:
            return y
        axes = (None if name == "embed" else name for name in self.axes[self.n_in :])
        return y + shard(self.bias[...], *axes)


class Norm(nnx.Module):
    """LayerNorm or RMSNorm over the last axis, in float32."""

    def __init__(self, config: ModelConfig, width: int | None = None) -> None:
        """Initialise the parameters; `width` is d_model by default."""
        self.kind: Literal["layer", "rms"] = config.norm
        self.epsilon = config.norm_epsilon
        shape, axes = (width or config.d_model,), ("embed",)
        self.gain = constant_param(1.0, shape, axes, "gain")
        use_bias = config.norm == "layer" and config.use_bias
        self.bias = constant_param(0.0, shape, axes) if use_bias else None

    def __call__(self, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        if self.kind == "layer":
            x_BTD = x_BTD - x_BTD.mean(axis=-1, keepdims=True)
        variance_BT1 = jnp.square(x_BTD).mean(axis=-1, keepdims=True)
        x_BTD = x_BTD * jax.lax.rsqrt(variance_BT1 + self.epsilon) * shard(self.gain[...], None)
        return x_BTD if self.bias is None else x_BTD + shard(self.bias[...], None)
