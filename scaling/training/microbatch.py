"""Gradients of a batch, accumulated over microbatches, so that the activations of one of them are
held at a time: in the memory of an accelerator, or in the cache of a CPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, PyTree, Shaped

from scaling.config import RunConfig
from scaling.errors import UserError
from scaling.models.trainable import with_trained
from scaling.parallel import batch_shards, out_sharding, shard

_CPU_ACTIVATIONS = 2**16  # elements of a microbatch's residual stream, and
_CPU_TOKENS = (512, 1024)  # fewest and most tokens: experiments/LOG.md


def sequences_at_once(run: RunConfig) -> int:
    """Sequences of each device in a microbatch, on the current mesh: a divisor of its share of
    the batch. Unless the run gives it: the whole share on an accelerator, and on a CPU about as
    many as a core's cache holds the activations of.

    Raises:
        UserError: the number that the run gives does not divide the share.
    """
    share = run.batch_sequences // batch_shards()
    asked = run.execution.microbatch_sequences
    if asked is not None:
        if share % asked:
            raise UserError(
                f"execution.microbatch_sequences = {asked} does not divide the {share} sequences "
                f"of a batch that each device has; choose a divisor of {share}, or leave it out"
            )
        return asked
    if jax.default_backend() != "cpu":
        return share
    least, most = _CPU_TOKENS
    wanted = min(max(_CPU_ACTIVATIONS / run.model.d_model, least), most) / _positions(run)
    divisors = [n for n in range(1, share + 1) if share % n == 0]
    return min(divisors, key=lambda n: abs(math.log(n / wanted)))


def _positions(run: RunConfig) -> int:
    """Positions of a sequence whose activations are held."""
    encoder = run.model.source_length if run.model.mode == "encoder-decoder" else 0
    return run.model.context + encoder


Batch = Any
"""A tree of arrays whose first axis is the sequence."""
Model = Any
Aux = Any
"""A tree of metrics, each a mean over sequences."""

PartLoss = Callable[[Model, Batch], tuple[Float[Array, ""], tuple[Aux, PyTree]]]
"""From a model and a microbatch: a loss, its metrics, and features of each sequence. Loss and
metrics are means over sequences."""

BatchLoss = Callable[[PyTree], tuple[Float[Array, ""], Aux]]
"""From the features of all sequences of a batch: a further loss, and its metrics."""


def value_and_grad(
    part_loss: PartLoss,
    model: Model,
    batch: Batch,
    at_once: int | None,
    batch_loss: BatchLoss | None = None,
    trained: Model | None = None,
) -> tuple[tuple[Aux, Aux | None], Model]:
    """Metrics and gradient of a batch's loss, in microbatches.

    The devices along the mesh axis `data` hold the same parameters. That axis is manual
    (`jax.shard_map`): each device adds up the gradients of its microbatches, and the sums are
    averaged once a batch.

    A loss of the whole batch, such as a contrastive one, is exact whatever the microbatches: a
    first pass computes the features of all sequences, then the gradient of the loss by them is
    computed, and a second pass back-propagates it through each microbatch (Gao et al. 2021, arXiv
    2101.06983, section 3.2).

    Args:
        part_loss: the loss of the sequences of a microbatch.
        model: the parameters.
        batch: the batch.
        at_once: sequences of each device in a microbatch, a divisor of its share; None for all.
        batch_loss: the loss of the whole batch, which is added; None if there is none.
        trained: the parameters that have a gradient (`trained_of`); by default all. The others are
            constants: neither their gradient is computed, nor that of activations that no trained
            parameter influences.

    Returns:
        Metrics of the microbatches and of the whole batch, and the gradient, with the structure of
        `trained`.
    """
    share = len(jax.tree.leaves(batch)[0]) // batch_shards()
    parts = share // (at_once or share)
    is_manual = jax.sharding.get_abstract_mesh().shape.get("data", 1) > 1
    frozen = None if trained is None or trained is model else model
    trained = model if trained is None else trained
    if parts == 1:
        return _whole(_of_trained(part_loss, frozen), batch_loss, trained, batch)
    if not is_manual:
        return _accumulated(
            _of_trained(part_loss, frozen), batch_loss, trained, batch, parts, devices=1)

    def over_devices(
        trained: Model, frozen: Model | None, batch: Batch
    ) -> tuple[tuple[Aux, Aux | None], Model]:
        # Marked as varying, the parameters have a gradient on each device, not yet summed.
        trained = jax.tree.map(lambda x: jax.lax.pcast(x, "data", to="varying"), trained)
        devices = jax.lax.axis_size("data")
        accumulated = _accumulated(
            _of_trained(part_loss, frozen), batch_loss, trained, batch, parts, devices)
        mean: tuple[tuple[Aux, Aux | None], Model] = jax.lax.pmean(accumulated, "data")
        return mean

    return jax.shard_map(
        over_devices, in_specs=(PartitionSpec(), PartitionSpec(), PartitionSpec("data")),
        out_specs=PartitionSpec(), axis_names={"data"},
    )(trained, frozen, batch)


def _of_trained(part_loss: PartLoss, frozen: Model | None) -> PartLoss:
    """The loss as a function of the trained parameters of a model; None if they are all."""
    if frozen is None:
        return part_loss
    return lambda trained, batch: part_loss(with_trained(frozen, trained), batch)


def _whole(
    part_loss: PartLoss, batch_loss: BatchLoss | None, model: Model, batch: Batch
) -> tuple[tuple[Aux, Aux | None], Model]:
    """Metrics and gradient of a batch that is one microbatch."""
    def loss(model: Model) -> tuple[Float[Array, ""], tuple[Aux, Aux | None]]:
        total, (aux, features) = part_loss(model, batch)
        if batch_loss is None:
            return total, (aux, None)
        further, batch_aux = batch_loss(_replicated(features))
        return total + further, (aux, batch_aux)

    gradient, aux = jax.grad(loss, has_aux=True)(model)
    return aux, gradient


def _accumulated(
    part_loss: PartLoss, batch_loss: BatchLoss | None, model: Model, batch: Batch, parts: int,
    devices: int,
) -> tuple[tuple[Aux, Aux | None], Model]:
    """Metrics and gradient, averaged over microbatches: where the axis `data` is manual,
    over those of this device.

    Args:
        part_loss: see `value_and_grad`.
        batch_loss: see `value_and_grad`.
        model: the parameters.
        batch: the sequences of this device.
        parts: number of microbatches.
        devices: size of the axis `data` if it is manual, otherwise 1.
    """
    batch_K = jax.tree.map(partial(_split, parts), batch)
    slopes_K, batch_aux = None, None
    if batch_loss is not None:
        slopes, batch_aux = _feature_gradients(part_loss, batch_loss, model, batch_K, devices)
        # What is averaged over microbatches and devices has to be their sum.
        slopes_K = jax.tree.map(lambda x: parts * devices * _split(parts, x), slopes)

    def loss(model: Model, part: Batch, slopes: PyTree) -> tuple[Float[Array, ""], Aux]:
        total, (aux, features) = part_loss(model, part)
        if slopes is not None:
            total += sum(map(_dot, jax.tree.leaves(features), jax.tree.leaves(slopes)))
        return total, aux

    def add(total: Model, part: tuple[Batch, PyTree]) -> tuple[Model, Aux]:
        gradient, aux = jax.grad(loss, has_aux=True)(model, *part)
        return jax.tree.map(jnp.add, total, gradient), aux

    nothing = jax.tree.map(jnp.zeros_like, model)
    total, aux_K = jax.lax.scan(add, nothing, (batch_K, slopes_K))
    mean = jax.tree.map(lambda x_K: x_K.mean(), aux_K)
    return (mean, batch_aux), jax.tree.map(lambda x: x / parts, total)


def _feature_gradients(
    part_loss: PartLoss, batch_loss: BatchLoss, model: Model, batch_K: Batch, devices: int
) -> tuple[PyTree, Aux]:
    """The gradient of the loss of the whole batch by the features of this device's sequences, in
    the order of the batch, and its metrics."""
    def features_of(_: None, part: Batch) -> tuple[None, PyTree]:
        return None, part_loss(model, part)[1][1]

    _, features_K = jax.lax.scan(features_of, None, batch_K)
    mine = jax.tree.map(_merged, features_K)
    every = jax.lax.all_gather(mine, "data", tiled=True) if devices > 1 else mine
    slopes, batch_aux = jax.grad(batch_loss, has_aux=True)(_replicated(every))
    if devices > 1:
        index = jax.lax.axis_index("data")
        slopes = jax.tree.map(
            lambda x, own: jax.lax.dynamic_slice_in_dim(x, index * len(own), len(own)),
            slopes, mine)
    return slopes, batch_aux


def _dot(x: Array, y: Array) -> Float[Array, ""]:
    return (x * jax.lax.stop_gradient(y)).sum()


def _replicated(features: PyTree) -> PyTree:
    """Features of all sequences on each device."""
    return jax.tree.map(lambda x: shard(x, *[None] * x.ndim), features)


def _split(parts: int, x_BX: Shaped[Array, "B ..."]) -> Shaped[Array, "K B_over_K ..."]:
    """The batch in equal parts, each of them sharded as the batch is."""
    B, *rest = x_BX.shape
    shape = (B // parts, parts, *rest)
    layout = out_sharding(shape, "batch", *[None] * (1 + len(rest)))
    return jax.lax.reshape(x_BX, shape, out_sharding=layout).swapaxes(0, 1)


def _merged(x_KBX: Shaped[Array, "K B_over_K ..."]) -> Shaped[Array, "B ..."]:
    """The parts of `_split` as one batch."""
    K, B, *rest = x_KBX.shape
    layout = out_sharding((K * B, *rest), "batch", *[None] * len(rest))
    return jax.lax.reshape(x_KBX.swapaxes(0, 1), (K * B, *rest), out_sharding=layout)
