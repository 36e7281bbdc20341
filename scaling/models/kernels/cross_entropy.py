"""Kernels of the cross-entropy over a vocabulary.

A kernel is a function of `logits`, which maps hidden states [B, M, P] to logits [B, M, V], of the
hidden states, and of the targets [B, M]. It returns the loss of each prediction [B, M], in nats.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scaling.config.kernels import CROSS_ENTROPY_CHUNK, CrossEntropyName
from scaling.models.layers import reshape
from scaling.models.tokens import AnyArray

Logits = Callable[[Float[Array, "B M P"]], Float[Array, "B M V"]]
Kernel = Callable[[Logits, Float[Array, "B M P"], Int[AnyArray, "B M"]], Float[Array, "B M"]]


def cross_entropy(
    logits_BMV: Float[Array, "B *M V"], targets_BM: Int[AnyArray, " B *M"]
) -> Float[Array, " B *M"]:
    """-log softmax(logits)[target], in nats.

    The target's logit is found by a masked sum, not by indexing: its gradient is then arithmetic
    instead of a scatter, and it works where the vocabulary is sharded.
    """
    hit_BMV = jnp.arange(logits_BMV.shape[-1]) == targets_BM[..., None]
    target_BM = jnp.where(hit_BMV, logits_BMV, 0.0).sum(axis=-1)
    return jax.nn.logsumexp(logits_BMV, axis=-1) - target_BM


def plain(
    logits: Logits, x_BMP: Float[Array, "B M P"], targets_BM: Int[AnyArray, "B M"]
) -> Float[Array, "B M"]:
    """Cross-entropy with the logits of all predictions in memory."""
    return cross_entropy(logits(x_BMP), targets_BM)


def blocked(
    logits: Logits, x_BMP: Float[Array, "B M P"], targets_BM: Int[AnyArray, "B M"]
) -> Float[Array, "B M"]:
    """Cross-entropy with the logits of about CROSS_ENTROPY_CHUNK predictions at a time in memory,
    forward and backward: those of a chunk are computed again in the backward pass
    (`jax.checkpoint`)."""
    B, M, P = x_BMP.shape
    size = max(1, min(M, CROSS_ENTROPY_CHUNK // B))
    chunks = -(-M // size)
    padding = chunks * size - M
    x_BMP = jnp.pad(x_BMP, ((0, 0), (0, padding), (0, 0)))
    targets_BM = jnp.pad(targets_BM, ((0, 0), (0, padding)))
    x_NBCP = reshape(x_BMP, (B, chunks, size, P), ("batch", None, None, None)).swapaxes(0, 1)
    targets_NBC = reshape(targets_BM, (B, chunks, size), ("batch", None, None)).swapaxes(0, 1)

    @jax.checkpoint
    def of_chunk(x_BCP: Array, targets_BC: Array) -> Array:
        return cross_entropy(logits(x_BCP), targets_BC)

    def step(_: None, chunk: tuple[Array, Array]) -> tuple[None, Array]:
        return None, of_chunk(*chunk)

    _, losses_NBC = jax.lax.scan(step, None, (x_NBCP, targets_NBC))
    losses_BM = reshape(losses_NBC.swapaxes(0, 1), (B, chunks * size), ("batch", None))
    return losses_BM[:, :M]


CROSS_ENTROPY: dict[CrossEntropyName, Kernel] = {"plain": plain, "blocked": blocked}
"""Kernels by name (`execution.cross_entropy`)."""
