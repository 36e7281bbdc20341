"""One step of training, and one of evaluation: the program that runs on the devices."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Array, Float, Float32, UInt32
from numpy.typing import NDArray

from scaling.config import AdamW, ExecutionConfig, ModelConfig, RunConfig
from scaling.config.objectives import Causal, Objective, ReplacedTokens, generator_of
from scaling.models import Electra, Routing, Transformer
from scaling.objectives import KINDS, Arrays, normalised, taught, weight_sums
from scaling.parallel import shard
from scaling.training.microbatch import value_and_grad

Model = Transformer | Electra


class TrainState(NamedTuple):
    """All that a step changes. The optimizer's moments are shaped, named and laid out over the
    mesh as the model's parameters are."""

    model: Model
    optimizer: optax.OptState


class StepMetrics(NamedTuple):
    """What a step says about itself."""

    loss: Float[Array, ""]
    """The first part of the objective's loss, before the update: nats per predicted token."""
    losses: dict[str, Float[Array, ""]]
    """All parts, each a mean over the batch's predictions."""
    grad_norm: Float[Array, ""]
    """Global norm of the gradient, before clipping."""
    routing: Routing | None = None
    """How experts were shared out, where there are some."""


class Hyperparameters(NamedTuple):
    """Numbers of the optimizer at a step. They come with every call: no compiled program depends
    on them, and runs that differ in them alone can train side by side (training/pack.py)."""

    learning_rate: Any
    b1: Any
    b2: Any
    epsilon: Any
    weight_decay: Any
    clip_norm: Any


def hyperparameters(optimizer: AdamW, learning_rate: float) -> Float32[np.ndarray, "6"]:
    """The numbers of `Hyperparameters`, in their order, as one array.

    Args:
        optimizer: has the others.
        learning_rate: that of the step, not the peak.
    """
    others = (getattr(optimizer, name) for name in Hyperparameters._fields[1:])
    return np.array([learning_rate, *others], np.float32)


Step = Callable[..., tuple[TrainState, StepMetrics]]
"""From a state, a batch, `hyperparameters`, `step_seeds` where there is dropout, and the teacher
where there is one."""

_UNSEEDED = np.zeros(2, np.uint32)


def step_seeds(run: RunConfig, step: int) -> NDArray[np.uint32]:
    """What seeds a step's dropout: the run's seed and the number of the step, from 0."""
    return (np.array([run.seed, step]) % 2**32).astype(np.uint32)


def make_optimizer(config: AdamW | Hyperparameters) -> optax.GradientTransformation:
    """AdamW without its learning rate: the direction, which the step scales. Its state is laid out
    alike whatever the numbers."""
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


def init_state(run: RunConfig) -> TrainState:
    """Parameters drawn from the run's seed, and an optimizer that has seen nothing.

    The parameters depend on seed and model alone, not on the mesh. Call it with the mesh in force.
    """
    generator = (
        generator_of(run.objective, run.model) if isinstance(run.objective, ReplacedTokens)
        else None
    )
    make = _initializer(run.model, generator, run.precision, run.execution)
    return make(jax.random.key(run.seed))


@cache
def _initializer(
    model: ModelConfig, generator: ModelConfig | None, precision: str, execution: ExecutionConfig
) -> Callable[[Array], TrainState]:
    how: dict[str, Any] = {"precision": precision, "execution": execution}

    def init(key: Array) -> TrainState:
        drawn = (
            Transformer(model, key, **how) if generator is None
            else Electra(model, generator, key, **how)
        )
        return TrainState(drawn, make_optimizer(AdamW()).init(drawn))

    return jax.jit(init)


@cache
def make_train_step(
    objective: Objective | None = None, microbatch: int | None = None, packed: bool = False
) -> Step:
    """The compiled step; the state that goes in is donated, and must not be used again.

    One function for each objective, whatever the optimizer's numbers: a process that trains several
    runs compiles each shape once.

    Args:
        objective: what the model learns to do; by default the next token.
        microbatch: sequences that a device works on at once, such as `sequences_at_once` finds;
            None for all that it has.
        packed: several runs train side by side. All that goes in, but for the teacher, and all
            that comes out has an axis K in front for them.
    """
    objective = objective or Causal()
    value, first = _value(objective), next(iter(KINDS[objective.kind].parts(objective)))

    def train_step(
        state: TrainState, batch: Arrays, numbers: Float32[Array, "6"],
        seeds: UInt32[Array, "2"] = _UNSEEDED, teacher: Transformer | None = None,
    ) -> tuple[TrainState, StepMetrics]:
        model, hyper = state.model, Hyperparameters(*numbers)
        batch = normalised(batch if teacher is None else taught(teacher, batch))
        batch = (batch, dropout_seeds(model.config, seeds, len(batch["ids"])))
        (losses, routing), gradient = value_and_grad(value, model, batch, microbatch)
        optimizer = make_optimizer(hyper)
        direction, optimizer_state = optimizer.update(gradient, state.optimizer, model)
        model = jax.tree.map(lambda p, d: p - hyper.learning_rate * d, model, direction)
        metrics = StepMetrics(losses[first], losses, optax.global_norm(gradient), routing)
        return TrainState(model, optimizer_state), metrics

    over_runs = (0, 0, 0, 0, None)
    step = jax.vmap(train_step, in_axes=over_runs) if packed else train_step
    return jax.jit(step, donate_argnums=0)


Said = tuple[dict[str, Float[Array, ""]], Routing | None]
"""Parts of the loss and what routers say, each a mean over sequences."""


def _value(
    objective: Objective
) -> Callable[[Model, tuple[Arrays, Array | None]], tuple[Float[Array, ""], Said]]:
    """What training makes small: the weighted sum of the objective's parts, and with experts the
    weighted losses of their routers (ExpertsConfig.balance_weight, z_weight)."""
    kind = KINDS[objective.kind]
    parts = kind.parts(objective)

    def value(
        model: Model, batch: tuple[Arrays, Array | None]
    ) -> tuple[Float[Array, ""], Said]:
        arrays, seeds_B2 = batch
        keys_B = None if seeds_B2 is None else jax.random.wrap_key_data(seeds_B2)
        terms = kind.terms(objective, model, arrays, keys_B)
        losses = {part: terms.losses[part].mean() for part in parts}
        total = sum((weight * losses[part] for part, weight in parts.items()), start=0.0)
        if (routing := terms.routing) is not None:
            experts = model.config.experts
            total += experts.balance_weight * routing.balance + experts.z_weight * routing.z
        return total, (losses, routing)

    return value


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


class Scores(NamedTuple):
    """What each sequence of a batch adds to the held-out losses, by part."""

    losses: dict[str, Float[Array, "B"]]
    """Sums over its predictions, nats."""
    weights: dict[str, Float[Array, "B"]]
    """Predictions, or 1 where each sequence counts alike."""


@cache
def make_eval_step(objective: Objective) -> Callable[..., Scores]:
    """The compiled scoring of a batch: from a model, a batch, and the teacher where there is
    one."""
    kind = KINDS[objective.kind]

    def eval_step(
        model: Model, batch: Arrays, teacher: Transformer | None = None
    ) -> Scores:
        arrays = batch if teacher is None else taught(teacher, batch)
        terms = kind.terms(objective, model, arrays, None)
        return Scores(terms.losses, weight_sums(kind.parts(objective), batch))

    return jax.jit(eval_step)
