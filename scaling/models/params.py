"""Parameters, with metadata that says what each of them is.

Weight decay, sharding, learning-rate transfer and parameter counts read the metadata of an
`nnx.Param`; nothing reads its name.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, PRNGKeyArray

from scaling.config.trainable import Part, Role
from scaling.parallel import shard

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
    part: Part | None = None
    """Part of the model; None in a module that is not in a model."""
    layers: tuple[int, ...] | None = None
    """Layer of each entry of the layer axis, which is in front of the others; None without a layer
    axis."""

    @property
    def stacked(self) -> bool:
        """Whether there is a layer axis in front of the others."""
        return self.layers is not None


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


def is_param(x: Any) -> bool:
    """Whether a node of a tree is a parameter."""
    return isinstance(x, nnx.Param)


def map_params(function: Callable[[nnx.Param[Any]], nnx.Param[Any]], module: Module) -> Module:
    """A module with each of its parameters replaced by `function(param)`."""
    mapped: Module = jax.tree.map(function, module, is_leaf=is_param)
    return mapped


def with_value(param: nnx.Param[Any], value: Any, **changes: Any) -> nnx.Param[Any]:
    """A parameter with another value, and with changes of its metadata."""
    return nnx.Param(value, info=replace(param.info, **changes))


def with_info(module: Module, **changes: Any) -> Module:
    """A module with changes of the metadata of all its parameters."""
    return map_params(lambda param: with_value(param, param[...], **changes), module)


def params_by_path(module: Any) -> dict[str, nnx.Param[Any]]:
    """The parameters of a module by their path in it, in order. The path identifies a parameter;
    what the parameter is, is in its metadata."""
    found, _ = jax.tree_util.tree_flatten_with_path(module, is_leaf=is_param)
    return {jax.tree_util.keystr(path, simple=True, separator="."): param for path, param in found}


def count_by_role(module: Any) -> dict[Role, int]:
    """Number of parameters of each role."""
    counts: Counter[Role] = Counter()
    for param in jax.tree.leaves(module, is_leaf=is_param):
        counts[param.info.role] += math.prod(param.shape)
    return dict(counts)
