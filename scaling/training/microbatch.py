"""A batch worked on in parts, whose gradients are added up: the activations of one part at a time
are held, in the memory of an accelerator or in the cache of a CPU."""

from __future__ import annotations

import math

import jax
from jaxtyping import Array, Int

from scaling.config import RunConfig
from scaling.errors import UserError
from scaling.parallel import batch_shares, spec

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


def split(tokens_BT: Int[Array, "B T"], parts: int) -> Int[Array, "K B_over_K T"]:
    """The batch in equal parts, each of them spread over the devices as the batch is."""
    B, T = tokens_BT.shape
    shape = (B // parts, parts, T)
    layout = None
    if not jax.sharding.get_abstract_mesh().empty:
        layout = spec(shape, ("batch", None, None))
    return jax.lax.reshape(tokens_BT, shape, out_sharding=layout).swapaxes(0, 1)
