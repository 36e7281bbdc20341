"""Optimizers as optax transformations whose numbers are arguments of the compiled step.

No compiled program depends on a number of the optimizer: runs that differ in them alone share one
program, and can be trained side by side (scaling/training/packed.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float32

from scaling.config.training import Optimizer

Numbers = Mapping[str, Any]
"""Numbers of an optimizer by the names of its configuration: Python floats, or scalars of JAX."""


@dataclass(frozen=True)
class Transformation:
    """An optimizer without its learning rate."""

    numbers: tuple[str, ...]
    """Fields of its configuration that `direction` reads."""
    direction: Callable[[Numbers], optax.GradientTransformation]
    """The transformation from a gradient to the direction of the update, which the step multiplies
    by -learning_rate. The structure of its state does not depend on the numbers."""


def decay_mask(params: Any) -> Any:
    """True for parameters with weight decay: all but gains and biases (by their metadata, see
    scaling/models/params.py)."""
    return jax.tree.map(
        lambda param: param.replace(param.info.role not in ("gain", "bias")), params,
        is_leaf=lambda x: isinstance(x, nnx.Param))


def _adamw(numbers: Numbers) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(numbers["clip_norm"]),
        optax.scale_by_adam(numbers["b1"], numbers["b2"], numbers["epsilon"]),
        optax.add_decayed_weights(numbers["weight_decay"], mask=decay_mask),
    )


def _lion(numbers: Numbers) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(numbers["clip_norm"]),
        optax.scale_by_lion(numbers["b1"], numbers["b2"]),
        optax.add_decayed_weights(numbers["weight_decay"], mask=decay_mask),
    )


OPTIMIZERS: dict[str, Transformation] = {
    "adamw": Transformation(("b1", "b2", "epsilon", "weight_decay", "clip_norm"), _adamw),
    "lion": Transformation(("b1", "b2", "weight_decay", "clip_norm"), _lion),
}
"""By the `kind` of the configuration."""


def optimizer_numbers(optimizer: Optimizer, learning_rate: float) -> Float32[np.ndarray, " n"]:
    """The numbers of an optimizer at a step as one array: the learning rate, then those that its
    transformation reads, in their order.

    Args:
        optimizer: the configuration.
        learning_rate: that of the step, not the peak.
    """
    names = OPTIMIZERS[optimizer.kind].numbers
    return np.array([learning_rate, *(getattr(optimizer, name) for name in names)], np.float32)


def make_optimizer(kind: str, numbers: Float32[Array, " n"]) -> optax.GradientTransformation:
    """The transformation of an optimizer with numbers as `optimizer_numbers` orders them."""
    transformation = OPTIMIZERS[kind]
    return transformation.direction(dict(zip(transformation.numbers, numbers[1:], strict=True)))


def init_optimizer(kind: str, params: Any) -> optax.OptState:
    """The initial state of an optimizer. It does not depend on the optimizer's numbers."""
    numbers = jnp.zeros(1 + len(OPTIMIZERS[kind].numbers), jnp.float32)
    return make_optimizer(kind, numbers).init(params)
