"""How a token knows its place, apart from learned vectors: angles, sines, biases by distance."""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from scaling.config import ModelConfig
from scaling.models.layers import matrix, reshape, weight_std
from scaling.parallel import shard

Rotation = tuple[Float[Array, "half T"], Float[Array, "half T"]]
"""Cosines and sines of the angles by which each position turns each pair of a head."""


def rotary_angles(length: int, width: int, base: float) -> Rotation:
    """Angles of rotary positions: position t turns pair i by t * base^(-2i/width).

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
    """Turn each pair of each head by its position's angle; numbers beyond the pairs stay.

    Pairs are (i, i + half), or (2i, 2i + 1).
    """
    cos, sin = rotation
    half = len(cos)
    x_BHKT, rest = x_BHKT[:, :, : 2 * half], x_BHKT[:, :, 2 * half :]
    if pairs == "halves":
        first, second = x_BHKT[:, :, :half], x_BHKT[:, :, half:]
    else:
        first, second = x_BHKT[:, :, 0::2], x_BHKT[:, :, 1::2]
    turned = first * cos - second * sin, second * cos + first * sin
    if pairs == "halves":
        return jnp.concatenate([*turned, rest], axis=2)
    mixed = reshape(jnp.stack(turned, axis=3), x_BHKT.shape, ("batch", "heads", None, None))
    return jnp.concatenate([mixed, rest], axis=2)


def sinusoids(positions: Int[Array, "*BT"], width: int) -> Float[Array, "*BT D"]:
    """Vaswani et al. 2017, section 3.5: sin(t / 10000^(2i/D)) at 2i, its cosine at 2i + 1."""
    frequency = 10_000.0 ** (-jnp.arange(0, width, 2) / width)
    angle = positions[..., None] * frequency
    both = jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1)
    return both.reshape(*positions.shape, width)


def alibi(heads: int, length: int) -> Float[Array, "H T T"]:
    """A bias on attention that falls with distance, each head at its own rate.

    Press et al. 2021 (arXiv 2108.12409), section 3: rates 2^(-8/H), 2^(-16/H), ... for H a power
    of two; for others those of the power below, and every other one of the power above.
    """
    def rates(count: int) -> list[float]:
        return [2 ** (-8 * (head + 1) / count) for head in range(count)]

    power = 2 ** math.floor(math.log2(heads))
    rate_H = np.array(rates(power) + rates(2 * power)[0::2][: heads - power], np.float32)
    distance_TS = jnp.abs(jnp.arange(length)[:, None] - jnp.arange(length))
    return -rate_H[:, None, None] * distance_TS


def bucket_of(
    back: Int[Array, "..."], buckets: int, max_distance: int, *, both_ways: bool
) -> Int[Array, "..."]:
    """T5's bucket of a distance (Raffel et al. 2020, section 2.1): near ones have one each, farther
    ones share by the logarithm, and the last has all from `max_distance` on.

    Args:
        back: how far back the key is from the query; negative where it comes after.
        buckets: how many there are.
        max_distance: where the last begins.
        both_ways: half of the buckets for keys that come after, or none.
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
    """T5's bias on attention by distance, learned for each bucket and head; one for all layers."""

    def __init__(self, config: ModelConfig, key: PRNGKeyArray, *, both_ways: bool) -> None:
        self.buckets, self.max_distance = config.relative_buckets, config.relative_max_distance
        self.both_ways = both_ways
        std = weight_std(config.init, config.d_model, config.n_heads)
        shape = (self.buckets, config.n_heads)
        self.table = matrix(key, shape, (None, "heads"), std, config.init.distribution)

    def __call__(self, length: int) -> Float[Array, "H T T"]:
        """The bias of every query T on every key S."""
        back_TS = jnp.arange(length)[:, None] - jnp.arange(length)
        bucket_TS = bucket_of(back_TS, self.buckets, self.max_distance, both_ways=self.both_ways)
        hit_TSR = jax.nn.one_hot(bucket_TS, self.buckets)
        return jnp.einsum("TSR,RH->HTS", hit_TSR, shard(self.table[...], None, None))


def by_distance(scores_BHTJ: Float[Array, "B H T T"]) -> Float[Array, "B H T T"]:
    """From scores of distance J = T-1, ..., 0 to scores of keys S = T - distance.

    Transformer-XL (Dai et al. 2019), appendix B: each row moves by one more than the row before.
    Where the key comes after the query, what comes out has no meaning.
    """
    B, H, T, _ = scores_BHTJ.shape
    padded = jnp.pad(scores_BHTJ, ((0, 0), (0, 0), (0, 0), (1, 0)))
    return reshape(padded, (B, H, T + 1, T), ("batch", "heads", None, None))[:, :, 1:]
