"""Position encodings other than learned vectors: rotary, sinusoidal, ALiBi, T5's relative bias."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from scaling.config import ModelConfig
from scaling.models.layers import reshape, weight_std
from scaling.models.params import ParamInfo, init_param
from scaling.models.tokens import AnyArray
from scaling.parallel import shard

Rotation = tuple[Float[Array, "half T"], Float[Array, "half T"]]
"""Cosines and sines of the rotation angles of each pair of dimensions at each position."""

AttentionBias = Callable[[int | Array, int], Float[Array, "H T S"]]
"""A bias on attention logits: from the first key of a block and the number of its keys, the bias of
every query T on those keys."""


def rotary_angles(length: int, width: int, base: float) -> Rotation:
    """Rotary angles: position t rotates pair i by t * base^(-2i/width).

    Su et al. 2021 (arXiv 2104.09864), eq. 15.
    """
    frequency = base ** (-jnp.arange(0, width, 2) / width)
    angle = frequency[:, None] * jnp.arange(length)
    return jnp.cos(angle), jnp.sin(angle)


def rotate(
    x_BHKT: Float[Array, "B H K T"],
    rotation: Rotation,
    pairs: Literal["halves", "adjacent"] = "halves",
) -> Float[Array, "B H K T"]:
    """Rotate pairs of dimensions of each head by the angles of its position; dimensions beyond the
    pairs are unchanged.

    Pairs are (i, i + half), or (2i, 2i + 1).
    """
    cos, sin = rotation
    half = len(cos)
    x_BHKT, rest = x_BHKT[:, :, : 2 * half], x_BHKT[:, :, 2 * half :]
    if pairs == "halves":
        first, second = x_BHKT[:, :, :half], x_BHKT[:, :, half:]
    else:
        first, second = x_BHKT[:, :, 0::2], x_BHKT[:, :, 1::2]
    rotated = first * cos - second * sin, second * cos + first * sin
    if pairs == "halves":
        return jnp.concatenate([*rotated, rest], axis=2)
    mixed = reshape(jnp.stack(rotated, axis=3), x_BHKT.shape, ("batch", "heads", None, None))
    return jnp.concatenate([mixed, rest], axis=2)


def sinusoids(positions: Int[AnyArray, "*BT"], width: int) -> Float[Array, "*BT D"]:
    """Sinusoidal position vectors: sin(t / 10000^(2i/D)) at 2i, its cosine at 2i + 1.

    Vaswani et al. 2017, section 3.5.
    """
    frequency = 10_000.0 ** (-jnp.arange(0, width, 2) / width)
    angle = positions[..., None] * frequency
    both = jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1)
    return both.reshape(*positions.shape, width)


def alibi(heads: int, length: int) -> AttentionBias:
    """ALiBi: a bias on attention logits that falls linearly with distance, at a rate for each head.

    Press et al. 2021 (arXiv 2108.12409), section 3: rates 2^(-8/H), 2^(-16/H), ... for H a power
    of two; otherwise those of the next lower power of two, and every other one of the next higher.

    Args:
        heads: number of heads H.
        length: number of queries.
    """
    def rates(count: int) -> list[float]:
        return [2 ** (-8 * (head + 1) / count) for head in range(count)]

    power = 2 ** math.floor(math.log2(heads))
    rate_H = jnp.array(rates(power) + rates(2 * power)[0::2][: heads - power], jnp.float32)

    def bias(start: int | Array, size: int) -> Float[Array, "H T S"]:
        distance_TS = jnp.abs(jnp.arange(length)[:, None] - (start + jnp.arange(size)))
        return -rate_H[:, None, None] * distance_TS

    return bias


def bucket_of(
    back: Int[AnyArray, "..."], buckets: int, max_distance: int, *, both_ways: bool
) -> Int[Array, "..."]:
    """T5's relative position bucket (Raffel et al. 2020, section 2.1): small distances have a
    bucket each, larger ones share buckets of logarithmic width, and the last bucket holds all
    distances from `max_distance` on.

    Args:
        back: distance from the query back to the key; negative for keys after the query.
        buckets: number of buckets.
        max_distance: where the last bucket begins.
        both_ways: whether half of the buckets are for keys after the query.
    """
    first: Int[Array, "..."] | int = 0
    if both_ways:
        buckets //= 2
        first = jnp.where(back < 0, buckets, 0)
        back = jnp.abs(back)
    back = jnp.maximum(back, 0)
    exact = buckets // 2
    far = jnp.log(jnp.maximum(back, 1) / exact) / math.log(max_distance / exact)
    shared = jnp.minimum(exact + (far * (buckets - exact)).astype(jnp.int32), buckets - 1)
    return first + jnp.where(back < exact, back, shared)


class RelativeBias(nnx.Module):
    """T5's learned bias on attention logits, for each bucket of distances and each head; one table
    for all layers."""

    def __init__(self, config: ModelConfig, key: PRNGKeyArray, *, both_ways: bool) -> None:
        """Initialise the table; `both_ways` in encoders, whose queries attend to later keys."""
        self.buckets, self.max_distance = config.relative_buckets, config.relative_max_distance
        self.both_ways = both_ways
        std = weight_std(config.init, config.d_model, config.n_heads)
        info = ParamInfo("bias", (None, "heads"), fan_in=(0,), fan_out=(1,))
        self.table = init_param(
            key, (self.buckets, config.n_heads), info, std, config.init.distribution)

    def __call__(self, length: int) -> AttentionBias:
        """The bias of `length` queries."""
        def bias(start: int | Array, size: int) -> Float[Array, "H T S"]:
            back_TS = jnp.arange(length)[:, None] - (start + jnp.arange(size))
            bucket_TS = bucket_of(
                back_TS, self.buckets, self.max_distance, both_ways=self.both_ways)
            hit_TSR = jax.nn.one_hot(bucket_TS, self.buckets)
            return jnp.einsum("TSR,RH->HTS", hit_TSR, shard(self.table[...], None, None))

        return bias


def by_distance(scores_BHTJ: Float[Array, "B H T T"]) -> Float[Array, "B H T T"]:
    """Shift scores by distance J = T-1, ..., 0 to scores by key S = T - distance.

    Transformer-XL (Dai et al. 2019), appendix B: each row is shifted by one more than the row
    before. Entries for keys after the query are meaningless.
    """
    B, H, T, _ = scores_BHTJ.shape
    padded = jnp.pad(scores_BHTJ, ((0, 0), (0, 0), (0, 0), (1, 0)))
    return reshape(padded, (B, H, T + 1, T), ("batch", "heads", None, None))[:, :, 1:]
