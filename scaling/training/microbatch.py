"""A batch worked on in parts, whose gradients are added up: the activations of one part at a time
are held, in the memory of an accelerator or in the cache of a CPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Shaped

from scaling.config import RunConfig
from scaling.errors import UserError
from scaling.parallel import batch_shares, out_sharding

_CPU_ACTIVATIONS = 2**16  # numbers in the residual stream of one part, and
_CPU_TOKENS = (512, 1024)  # the least and the most tokens: experiments/LOG.md


def sequences_at_once(run: RunConfig) -> int:
    """Sequences that a device works on at once, with the mesh in force: a divisor of its share of
    the batch. Where the run does not say: all of them on an accelerator, and on a CPU about as many
    as a core's cache holds the activations of.

    Raises:
        UserError: what the run asks for does not divide the share.
    """
    share = run.batch_sequences // batch_shares()
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
Said = Any
"""A tree of means over sequences."""


def value_and_grad(
    objective: Callable[[Model, Batch], tuple[Float[Array, ""], Said]],
    model: Model,
    batch: Batch,
    at_once: int | None,
) -> tuple[Said, Model]:
    """What a batch's objective says, and its gradient, each device working on so many sequences at
    once.

    The devices of the mesh axis `data` hold the same parameters. That axis is divided by hand:
    each of its devices adds up the gradients of its own parts, and the sums meet once a batch.

    Args:
        objective: a mean over sequences, and what it says beside: further means.
        model: what the gradient is by.
        batch: what the objective is of.
        at_once: a divisor of a device's share of the batch; None for all of it.
    """
    share = len(jax.tree.leaves(batch)[0]) // batch_shares()
    parts = share // (at_once or share)
    of_part = jax.value_and_grad(objective, has_aux=True)

    def mean_over_parts(model: Model, batch: Batch) -> tuple[Said, Model]:
        def add(total: Model, part: Batch) -> tuple[Model, Said]:
            (_, said), gradient = of_part(model, part)
            return jax.tree.map(jnp.add, total, gradient), said

        nothing = jax.tree.map(jnp.zeros_like, model)
        total, said_K = jax.lax.scan(add, nothing, jax.tree.map(partial(_split, parts), batch))
        mean = jax.tree.map(lambda x_K: x_K.mean(), said_K)
        return mean, jax.tree.map(lambda x: x / parts, total)

    if parts == 1:
        (_, said), gradient = of_part(model, batch)
        return said, gradient
    if jax.sharding.get_abstract_mesh().shape.get("data", 1) == 1:
        return mean_over_parts(model, batch)

    def mean_over_devices(model: Model, batch: Batch) -> tuple[Said, Model]:
        # Called varying, the parameters have a gradient for each device, not yet summed.
        model = jax.tree.map(lambda x: jax.lax.pcast(x, "data", to="varying"), model)
        return jax.lax.pmean(mean_over_parts(model, batch), "data")

    return jax.shard_map(
        mean_over_devices, in_specs=(PartitionSpec(), PartitionSpec("data")),
        out_specs=PartitionSpec(), axis_names={"data"},
    )(model, batch)


def _split(parts: int, x_BX: Shaped[Array, "B ..."]) -> Shaped[Array, "K B_over_K ..."]:
    """The batch in equal parts, each of them spread over the devices as the batch is."""
    B, *rest = x_BX.shape
    shape = (B // parts, parts, *rest)
    layout = out_sharding(shape, "batch", *[None] * (1 + len(rest)))
    return jax.lax.reshape(x_BX, shape, out_sharding=layout).swapaxes(0, 1)
