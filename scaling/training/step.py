"""The compiled training step and evaluation step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Float32, PyTree, UInt32

from scaling.accounting.trained import param_groups
from scaling.config import EVERYTHING, ExecutionConfig, ModelConfig, ParamSelection, RunConfig
from scaling.config.objectives import Causal, Objective
from scaling.models import Electra, Routing, Transformer, count_by_role
from scaling.models.tokens import AnyArray
from scaling.models.trainable import trained_of, with_trained
from scaling.objectives import (
    FUNCTIONS,
    Arrays,
    ObjectiveFunctions,
    normalised,
    weight_sums,
    with_teacher,
)
from scaling.optim.optimizers import init_optimizer, make_optimizer
from scaling.parallel import shard
from scaling.training.microbatch import BatchLoss, PartLoss, value_and_grad

Model = Transformer | Electra


class TrainState(NamedTuple):
    """What a training step updates. The optimizer's state has the shapes, names and sharding of the
    trained parameters (models/trainable.py)."""

    model: Model
    optimizer: optax.OptState


class StepMetrics(NamedTuple):
    """Metrics of a training step."""

    loss: Float[Array, ""]
    """First part of the objective's loss, before the update: nats per predicted token."""
    losses: dict[str, Float[Array, ""]]
    """All parts, each a mean over the batch's predictions."""
    grad_norm: Float[Array, ""]
    """Global norm of the gradient of the trained parameters, before clipping."""
    routing: Routing | None = None
    """Router statistics of a model with experts."""


Step = Callable[..., tuple[TrainState, StepMetrics]]
"""A function of a state, a batch, `optimizer_numbers`, `step_seeds` if there is dropout, and the
teacher if there is one."""

_UNSEEDED = np.zeros(3, np.uint32)


def seed_words(seed: int) -> UInt32[np.ndarray, "2"]:
    """The data of a JAX key: the upper and the lower 32 bits of a seed. `jax.random.key` takes the
    lower bits alone, and makes the same key of them if the upper bits are zero."""
    return np.array(divmod(seed, 2**32), np.uint32)


def step_seeds(run: RunConfig, step: int) -> UInt32[np.ndarray, "3"]:
    """Seeds of a step's dropout: the two words of the run's seed, and the number of the step from
    0."""
    return np.array([*seed_words(run.seed), step % 2**32], np.uint32)


def init_state(run: RunConfig) -> TrainState:
    """The initial state of a run with `init: draw`: parameters drawn from the run's seed, and an
    optimizer at its start. That of any other run has the same structure (initial.py).

    The parameters depend on seed and model alone, not on the mesh, which must be the current one.
    """
    generator = run.objective.generator(run.model)
    make = _initializer(run.model, generator, run.optimizer.kind, run.precision, run.execution,
                        run.trainable)
    return make(jax.random.wrap_key_data(jnp.asarray(seed_words(run.seed))))


@cache
def _initializer(
    model: ModelConfig, generator: ModelConfig | None, optimizer: str, precision: str,
    execution: ExecutionConfig, trainable: tuple[ParamSelection, ...],
) -> Callable[[Array], TrainState]:
    how: dict[str, Any] = {"precision": precision, "execution": execution}

    def init(key: Array) -> TrainState:
        drawn: Model = (
            Transformer(model, key, **how) if generator is None
            else Electra(model, generator, key, **how)
        )
        _check_counts(drawn.discriminator if isinstance(drawn, Electra) else drawn, model)
        return TrainState(
            drawn, init_optimizer(optimizer, trained_of(drawn, model, trainable)))

    return jax.jit(init)


def _check_counts(drawn: Transformer, model: ModelConfig) -> None:
    """Check, while the initialisation is compiled, that the sizes which laws are fitted to
    (scaling/accounting) are those of the parameters.

    Raises:
        RuntimeError: they differ; this is a bug.
    """
    counted: Counter[str] = Counter()
    for group in param_groups(model):
        counted[group.role] += group.size
    if (found := count_by_role(drawn)) != dict(+counted):
        raise RuntimeError(f"accounting counts the parameters {dict(+counted)}, and the model has "
                           f"{found}")


@cache
def make_train_step(
    objective: Objective | None = None, microbatch: int | None = None, packed: bool = False,
    optimizer: str = "adamw", trainable: tuple[ParamSelection, ...] = EVERYTHING,
) -> Step:
    """The compiled training step. The state that is passed in is donated, and must not be used
    again.

    There is one function for each objective and kind of optimizer, whatever the optimizer's
    numbers: a process that trains several runs compiles each shape once.

    Args:
        objective: what the model is trained by; by default the next token.
        microbatch: sequences of each device in a microbatch, as `sequences_at_once` returns; None
            for the whole batch.
        packed: whether several runs are trained side by side. All arguments but the teacher, and
            all results, then have an axis K of runs in front.
        optimizer: kind of the optimizer.
        trainable: the parameters that are trained. The others are returned bit for bit.
    """
    objective = objective or Causal()
    functions = FUNCTIONS[objective.kind]
    part_loss, batch_loss = _losses(functions, objective)
    first = next(iter(functions.parts(objective)))

    def train_step(
        state: TrainState, batch: Arrays, numbers: Float32[Array, " n"],
        seeds: UInt32[AnyArray, "3"] = _UNSEEDED, teacher: Transformer | None = None,
    ) -> tuple[TrainState, StepMetrics]:
        model, learning_rate = state.model, numbers[0]
        batch = normalised(batch if teacher is None else with_teacher(teacher, batch))
        seeded = batch, dropout_seeds(model.config, seeds, len(batch["ids"]))
        trained = trained_of(model, model.config, trainable)
        ((losses, routing), batch_losses), gradient = value_and_grad(
            part_loss, model, seeded, microbatch, batch_loss, trained)
        losses = losses | (batch_losses or {})
        direction, optimizer_state = make_optimizer(optimizer, numbers).update(
            gradient, state.optimizer, trained)
        trained = jax.tree.map(lambda p, d: p - learning_rate * d, trained, direction)
        metrics = StepMetrics(losses[first], losses, optax.global_norm(gradient), routing)
        return TrainState(with_trained(model, trained), optimizer_state), metrics

    over_runs = (0, 0, 0, 0, None)
    step = jax.vmap(train_step, in_axes=over_runs) if packed else train_step
    return jax.jit(step, donate_argnums=0)


Aux = tuple[dict[str, Float[Array, ""]], Routing | None]
"""Parts of the loss and router statistics, each a mean over sequences."""


def _losses(
    functions: ObjectiveFunctions, objective: Objective
) -> tuple[PartLoss, BatchLoss | None]:
    """The training loss: the weighted sum of the objective's parts, and with experts the weighted
    losses of their routers (ExpertsConfig.balance_weight, z_weight).

    Returns:
        The loss of the sequences of a microbatch, and the loss of features of the whole batch if
        the objective has one.
    """
    weights, batch_terms = functions.parts(objective), functions.batch_terms

    def part_loss(
        model: Model, batch: tuple[Arrays, Array | None]
    ) -> tuple[Float[Array, ""], tuple[Aux, PyTree]]:
        arrays, seeds_B2 = batch
        keys_B = None if seeds_B2 is None else jax.random.wrap_key_data(seeds_B2)
        terms = functions.terms(objective, model, arrays, keys_B)
        losses = {part: terms.losses[part].mean() for part in weights if part in terms.losses}
        total: Any = sum((weights[part] * loss for part, loss in losses.items()), start=0.0)
        routing, experts = terms.routing, model.config.experts
        if routing is not None and experts is not None:
            total += experts.balance_weight * routing.balance + experts.z_weight * routing.z
        return total, ((losses, routing), terms.features)

    def batch_loss(features: PyTree) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        assert batch_terms is not None
        losses = batch_terms(objective, features)
        total: Any = sum((weights[part] * loss for part, loss in losses.items()), start=0.0)
        return total, losses

    return part_loss, None if batch_terms is None else batch_loss


def dropout_seeds(
    model: ModelConfig, seeds: UInt32[AnyArray, "3"], sequences: int
) -> UInt32[Array, "B 2"] | None:
    """Seeds of the dropout of each sequence of a batch; None for a model without dropout.

    They depend on the run's seed, the step and the index of the sequence in the batch alone, and so
    neither on the mesh nor on microbatches.

    Args:
        model: for its dropout rates.
        seeds: those of the step.
        sequences: number of sequences in the batch.
    """
    if not (model.dropout or model.attention_dropout_rate):
        return None
    key = jax.random.fold_in(jax.random.wrap_key_data(jnp.asarray(seeds[:2])), seeds[2])
    seeds_B2 = jax.random.key_data(jax.random.split(key, sequences))
    return shard(seeds_B2, "batch", None)


class Scores(NamedTuple):
    """Losses and weights of each sequence of an evaluation batch, by part."""

    losses: dict[str, Float[Array, " B"]]
    """Weighted sums over predictions, in nats."""
    weights: dict[str, Float[Array, " B"]]
    """Sums of the weights of predictions, or 1 if all sequences count alike."""
    features: PyTree = None
    """Inputs of a batch-level loss, for an objective that has one."""


@cache
def make_eval_step(objective: Objective) -> Callable[..., Scores]:
    """The compiled evaluation step: a function of a model, a batch, and the teacher if there is
    one."""
    functions = FUNCTIONS[objective.kind]

    def eval_step(
        model: Model, batch: Arrays, teacher: Transformer | None = None
    ) -> Scores:
        arrays = batch if teacher is None else with_teacher(teacher, batch)
        terms = functions.terms(objective, model, arrays, None)
        sums = weight_sums(functions.parts(objective), batch)
        weights = {part: sums[part] for part in sums if part in terms.losses}
        return Scores(terms.losses, weights, terms.features)

    return jax.jit(eval_step)
