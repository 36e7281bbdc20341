"""A batch worked on in parts, whose gradients are added up: the activations of one part at a time
are held, in the memory of an accelerator or in the cache of a CPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from scaling.config import RunConfig
from scaling.errors import UserError
from scaling.models import Transformer
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
    wanted = min(max(_CPU_ACTIVATIONS / run.model.d_model, least), most) / run.model.context
    divisors = [n for n in range(1, share + 1) if share % n == 0]
    return min(divisors, key=lambda n: abs(math.log(n / wanted)))


def value_and_grad(
    loss: Callable[[Transformer, Int[Array, "B T"]], Float[Array, ""]],
    model: Transformer,
    tokens_BT: Int[Array, "B T"],
    at_once: int | None,
) -> tuple[Float[Array, ""], Transformer]:
    """Loss of a batch and its gradient, each device working on so many sequences at once.

    The devices of the mesh axis `data` hold the same parameters. That axis is divided by hand:
    each of its devices adds up the gradients of its own parts, and the sums meet once a batch.

    Args:
        loss: a mean over sequences.
        model: what the gradient is by.
        tokens_BT: the batch.
        at_once: a divisor of a device's share of the batch; None for all of it.
    """
    share = len(tokens_BT) // batch_shares()
    parts = share // (at_once or share)
    if parts == 1:
        return jax.value_and_grad(loss)(model, tokens_BT)

    def mean_over_parts(model: Transformer, tokens_BT: Int[Array, "B T"]) -> Any:
        def add(total: Transformer, part_BT: Int[Array, "B_over_K T"]) -> tuple[Transformer, Array]:
            value, gradient = jax.value_and_grad(loss)(model, part_BT)
            return jax.tree.map(jnp.add, total, gradient), value

        nothing = jax.tree.map(jnp.zeros_like, model)
        total, values_K = jax.lax.scan(add, nothing, _split(tokens_BT, parts))
        return values_K.mean(), jax.tree.map(lambda x: x / parts, total)

    if jax.sharding.get_abstract_mesh().shape.get("data", 1) == 1:
        return mean_over_parts(model, tokens_BT)

    def mean_over_devices(model: Transformer, tokens_BT: Int[Array, "B T"]) -> Any:
        # Called varying, the parameters have a gradient for each device, not yet summed.
        model = jax.tree.map(lambda x: jax.lax.pcast(x, "data", to="varying"), model)
        return jax.lax.pmean(mean_over_parts(model, tokens_BT), "data")

    return jax.shard_map(
        mean_over_devices, in_specs=(PartitionSpec(), PartitionSpec("data")),
        out_specs=PartitionSpec(), axis_names={"data"},
    )(model, tokens_BT)


def _split(tokens_BT: Int[Array, "B T"], parts: int) -> Int[Array, "K B_over_K T"]:
    """The batch in equal parts, each of them spread over the devices as the batch is."""
    B, T = tokens_BT.shape
    shape = (B // parts, parts, T)
    layout = out_sharding(shape, "batch", None, None)
    return jax.lax.reshape(tokens_BT, shape, out_sharding=layout).swapaxes(0, 1)
