"""One step of training, and one of evaluation: the program that runs on the devices."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, UInt32
from numpy.typing import NDArray

from scaling.config import AdamW, ExecutionConfig, ModelConfig, RunConfig
from scaling.models import Routing, Transformer
from scaling.objectives import Said, causal_losses, causal_objective
from scaling.parallel import shard
from scaling.training.microbatch import Batch, value_and_grad


class TrainState(NamedTuple):
    """All that a step changes. The optimizer's moments are shaped, named and laid out over the
    mesh as the model's parameters are."""

    model: Transformer
    optimizer: optax.OptState


class StepMetrics(NamedTuple):
    """What a step says about itself."""

    loss: Float[Array, ""]
    """Mean over the batch, nats per token, before the update."""
    grad_norm: Float[Array, ""]
    """Global norm of the gradient, before clipping."""
    routing: Routing | None = None
    """How experts were shared out, where there are some."""


Step = Callable[..., tuple[TrainState, StepMetrics]]
"""From a state, a batch, the learning rate, and `step_seeds` where there is dropout."""

_UNSEEDED = np.zeros(2, np.uint32)


def step_seeds(run: RunConfig, step: int) -> NDArray[np.uint32]:
    """What seeds a step's dropout: the run's seed and the number of the step, from 0."""
    return (np.array([run.seed, step]) % 2**32).astype(np.uint32)


def make_optimizer(config: AdamW) -> optax.GradientTransformation:
    """AdamW without its learning rate: the direction, which the step scales."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.scale_by_adam(config.b1, config.b2, config.epsilon),
        optax.add_decayed_weights(config.weight_decay, mask=_is_matrix),
    )


def _is_matrix(model: Any) -> Any:
    """True for what is decayed: everything but gains and biases. By name, since the parameters of
    stacked layers have an axis more than they seem to."""
    def decayed(path: tuple[Any, ...], _: Any) -> bool:
        names = [str(getattr(key, "name", "")) for key in path]
        return not any(name == "gain" or name.endswith("bias") for name in names)

    return jax.tree_util.tree_map_with_path(decayed, model)


def without_rate(config: AdamW) -> AdamW:
    """The optimizer less its learning rate, which no compiled program depends on."""
    return config.model_copy(update={"learning_rate": 1.0})


def init_state(run: RunConfig) -> TrainState:
    """Parameters drawn from the run's seed, and an optimizer that has seen nothing.

    The parameters depend on seed and model alone, not on the mesh. Call it with the mesh in force.
    """
    make = _initializer(run.model, without_rate(run.optimizer), run.precision, run.execution)
    return make(jax.random.key(run.seed))


@cache
def _initializer(
    model: ModelConfig, optimizer: AdamW, precision: str, execution: ExecutionConfig
) -> Callable[[Array], TrainState]:
    def init(key: Array) -> TrainState:
        drawn = Transformer(model, key, precision=precision, execution=execution)
        return TrainState(drawn, make_optimizer(optimizer).init(drawn))

    return jax.jit(init)


def make_train_step(config: AdamW, microbatch: int | None = None) -> Step:
    """The compiled step; the state that goes in is donated, and must not be used again.

    One function for each optimizer, whatever its rate, which comes with every call: a process that
    trains several runs compiles each shape once.

    Args:
        config: the optimizer.
        microbatch: sequences that a device works on at once, such as `sequences_at_once` finds;
            None for all that it has.
    """
    return _train_step(without_rate(config), microbatch)


@cache
def _train_step(config: AdamW, microbatch: int | None) -> Step:
    optimizer = make_optimizer(config)

    def train_step(
        state: TrainState, tokens_BT: Int[Array, "B T_plus_1"], rate: float,
        seeds: UInt32[Array, "2"] = _UNSEEDED,
    ) -> tuple[TrainState, StepMetrics]:
        model = state.model
        batch = (tokens_BT, dropout_seeds(model.config, seeds, len(tokens_BT)))
        said, gradient = value_and_grad(_objective, model, batch, microbatch)
        direction, optimizer_state = optimizer.update(gradient, state.optimizer, model)
        model = jax.tree.map(lambda p, d: p - rate * d, model, direction)
        metrics = StepMetrics(said.loss, optax.global_norm(gradient), said.routing)
        return TrainState(model, optimizer_state), metrics

    return jax.jit(train_step, donate_argnums=0)


def _objective(model: Transformer, batch: Batch) -> tuple[Float[Array, ""], Said]:
    tokens_BT, seeds_B2 = batch
    keys_B = None if seeds_B2 is None else jax.random.wrap_key_data(seeds_B2)
    return causal_objective(model, tokens_BT, keys_B)


def dropout_seeds(
    model: ModelConfig, seeds: UInt32[Array, "2"], sequences: int
) -> UInt32[Array, "B 2"] | None:
    """What seeds the dropout of each sequence of a batch; None for a model without dropout.

    It depends on the run's seed, the step and the sequence's place in the batch alone, and so on
    neither mesh nor microbatches.

    Args:
        model: says whether there is dropout.
        seeds: those of the step.
        sequences: how many a batch has.
    """
    if not (model.dropout or model.attention_dropout_rate):
        return None
    key = jax.random.fold_in(jax.random.key(seeds[0]), seeds[1])
    seeds_B2 = jax.random.key_data(jax.random.split(key, sequences))
    return shard(seeds_B2, "batch", None)


@jax.jit
def eval_step(model: Transformer, tokens_BT: Int[Array, "B T_plus_1"]) -> Float[Array, "B"]:
    """Mean loss of each sequence, nats per token."""
    return jnp.mean(causal_losses(model, tokens_BT), axis=-1)
