"""Parameters, with metadata that says what each of them is.

Weight decay, sharding, learning-rate transfer and parameter counts read the metadata of an
`nnx.Param`; nothing reads its name.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, PRNGKeyArray

from scaling.parallel import shard

Role = Literal["embedding", "position", "hidden", "readout", "gain", "bias"]
"""What a parameter does: a table of token (or segment) vectors; a table of position vectors; a
matrix between activations; a matrix to logits; a factor of a norm; a bias, which includes the
learned biases of attention logits."""

AxisNames = tuple[str | None, ...]
"""Logical name of each axis: a key of `scaling.parallel.mesh.RULES`, or None for an axis that is
never sharded."""

Module = TypeVar("Module")


@dataclass(frozen=True)
class ParamInfo:
    """Metadata of a parameter, as `param.info`."""

    role: Role
    axes: AxisNames
    """Logical names of its axes, the layer axis excluded."""
    fan_in: tuple[int, ...] = ()
    """Axes that are summed over, counted without the layer axis."""
    fan_out: tuple[int, ...] = ()
    """Axes of the outputs, counted without the layer axis."""
    stacked: bool = False
    """Whether there is a layer axis in front of the others."""


def init_param(
    key: PRNGKeyArray, shape: tuple[int, ...], info: ParamInfo, std: float,
    distribution: str = "normal",
) -> nnx.Param[Array]:
    """A float32 parameter drawn at random, the same on every mesh.

    Args:
        key: seeds it.
        shape: its shape.
        info: its metadata; the array is sharded by its axes' names.
        std: standard deviation, before truncation where the distribution is truncated.
        distribution: "normal", "truncated" (at two standard deviations) or "uniform".
    """
    if distribution == "uniform":
        drawn = jax.random.uniform(key, shape, jnp.float32, -(3**0.5), 3**0.5)
    elif distribution == "truncated":
        drawn = jax.random.truncated_normal(key, -2, 2, shape, jnp.float32)
    else:
        drawn = jax.random.normal(key, shape, jnp.float32)
    return nnx.Param(shard(std * drawn, *info.axes), info=info)


def constant_param(
    value: float, shape: tuple[int, ...], axes: AxisNames, role: Role = "bias"
) -> nnx.Param[Array]:
    """A float32 parameter that starts at a constant: a bias or a gain."""
    info = ParamInfo(role, axes)
    return nnx.Param(shard(jnp.full(shape, value, jnp.float32), *axes), info=info)


def map_params(function: Callable[[nnx.Param[Any]], nnx.Param[Any]], module: Module) -> Module:
    """A module with each of its parameters replaced by `function(param)`."""
    mapped: Module = jax.tree.map(function, module, is_leaf=lambda x: isinstance(x, nnx.Param))
    return mapped


def mark_stacked(module: Module) -> Module:
    """The module with its parameters marked as stacked over layers."""
    return map_params(
        lambda param: nnx.Param(param[...], info=replace(param.info, stacked=True)), module)


def count_by_role(module: Any) -> dict[Role, int]:
    """Number of parameters of each role."""
    counts: Counter[Role] = Counter()
    for param in jax.tree.leaves(module, is_leaf=lambda x: isinstance(x, nnx.Param)):
        counts[param.info.role] += math.prod(param.shape)
    return dict(counts)
