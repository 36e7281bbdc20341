"""Counter-based random numbers per sequence: a function of (seed, sequence, epoch), independent of
the batch, the host and interruptions.

Each sequence has a 64-bit key; its numbers are SplitMix64's (Steele et al. 2014, "Fast Splittable
Pseudorandom Number Generators", figure 17): a counter that starts at the key and is incremented by
an odd constant, with a finaliser applied to each value.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

UInt64 = NDArray[np.uint64]

# Zero-dimensional arrays, which numpy multiplies twice as fast as an int.
_STEP = np.array(0x9E3779B97F4A7C15, np.uint64)
_FIRST_FACTOR = np.array(0xBF58476D1CE4E5B9, np.uint64)
_SECOND_FACTOR = np.array(0x94D049BB133111EB, np.uint64)
_SHIFTS = tuple(np.array(bits, np.uint64) for bits in (30, 27, 31))
_ONE = np.array(1, np.uint64)
_HALF = np.array(32, np.uint64)
_FLOAT_BITS = np.array(40, np.uint64)
_DOUBLE_BITS = np.array(11, np.uint64)


def sequence_keys(
    seed: int, sequence_B: NDArray[np.integer], epoch_B: NDArray[np.integer], stream: str
) -> UInt64:
    """The key of each sequence, shape [B].

    Args:
        seed: Seed of the run.
        sequence_B: Index of each sequence in the split.
        epoch_B: Epoch of each sequence.
        stream: Name of the use of the numbers; different streams are independent.
    """
    digest = hashlib.blake2b(f"{seed}:{stream}".encode(), digest_size=8).digest()
    base = np.array(int.from_bytes(digest, "little"), np.uint64)
    return _finalise(_finalise(base + sequence_B.astype(np.uint64) * _STEP)
                     + epoch_B.astype(np.uint64) * _STEP)


def fold(key_B: UInt64, number: int) -> UInt64:
    """Derive keys of another, independent stream, shape [B]."""
    return _finalise(key_B ^ _finalise(np.array(number, np.uint64) + _STEP))


def bits(key_B: UInt64, count: int) -> UInt64:
    """Random 64-bit integers, shape [B, count]; the first columns do not depend on `count`."""
    return bits_at(key_B[:, None], np.arange(count))


def bits_at(key: UInt64, place: NDArray[np.integer]) -> UInt64:
    """Columns `place` of `bits`; key and place are broadcast against each other."""
    return _finalise(key + (place.astype(np.uint64) + _ONE) * _STEP)


def uniform(key_B: UInt64, count: int) -> NDArray[np.float32]:
    """Uniform float32 in [0, 1), shape [B, count], multiples of 2^-24."""
    return to_uniform(bits(key_B, count))


def to_uniform(bits: UInt64) -> NDArray[np.float32]:
    """Convert random bits to uniform float32 in [0, 1), multiples of 2^-24."""
    return (bits >> _FLOAT_BITS).astype(np.float32) * np.float32(2.0**-24)


def uniform_double(key_B: UInt64, count: int) -> NDArray[np.float64]:
    """Uniform float64 in [0, 1), shape [B, count], multiples of 2^-53."""
    return (bits(key_B, count) >> _DOUBLE_BITS).astype(np.float64) * 2.0**-53


def below(key_B: UInt64, count: int, limit: NDArray[np.integer] | int) -> NDArray[np.int64]:
    """Random integers in range(limit), shape [B, count], uniform to one in 2^32 / limit.

    `limit` is at most 2^32; a scalar, or an array that broadcasts to [B, count].
    """
    return to_below(bits(key_B, count), limit)


def to_below(bits: UInt64, limit: NDArray[np.integer] | int) -> NDArray[np.int64]:
    """Convert random bits to integers in range(limit), as in `below`."""
    return ((bits >> _HALF) * np.asarray(limit, np.uint64) >> _HALF).astype(np.int64)


def _finalise(x: UInt64) -> UInt64:
    x = (x ^ (x >> _SHIFTS[0])) * _FIRST_FACTOR
    x = (x ^ (x >> _SHIFTS[1])) * _SECOND_FACTOR
    return x ^ (x >> _SHIFTS[2])
