"""A keyed pseudorandom permutation of range(n), evaluated at any index without a table.

A generalised Feistel network (Black & Rogaway 2002, "Ciphers with Arbitrary Finite Domains",
section 5): a number below a * b is a pair of digits, and each round adds to one digit a
pseudorandom function of the other, which is invertible and hence a permutation. With
a = ceil(sqrt(n)) and b = ceil(n / a) the domain exceeds n by less than a. The few results outside
range(n) are passed through the network again until they fall inside (cycle walking), which gives a
permutation of range(n).

The order of the data is part of a run's identity: any change here changes every run, and requires a
new `LAYOUT` in scaling.config.run.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

from scaling.data.random import UInt64

LARGEST = 2**40
"""Largest n: a digit then has at most 20 bits, and 44 random bits modulo it are uniform to one in
2**24."""

_ROUNDS = 8  # eight keys of 64 bits are one BLAKE2b digest


def _uint64(number: int) -> UInt64:
    """A zero-dimensional array, which numpy adds and multiplies twice as fast as an int."""
    return np.array(number, np.uint64)


_FIRST_FACTOR, _SECOND_FACTOR = _uint64(0xBF58476D1CE4E5B9), _uint64(0x94D049BB133111EB)
_HALF, _LOW_BITS = _uint64(32), _uint64(20)


def permute(index: NDArray[np.integer], n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Apply the permutation of range(n) with key (seed, epoch) to indices.

    Args:
        index: Integers in range(n), of any shape.
        n: Integer from 1 to 2**40.
        seed: Any integer.
        epoch: Any integer.

    Returns:
        Integers in range(n), of the same shape; distinct for distinct indices.

    Raises:
        ValueError: n or an index is out of range.
    """
    if not 1 <= n <= LARGEST:
        raise ValueError(f"n = {n} is not between 1 and {LARGEST}")
    flat = np.asarray(index).reshape(-1)
    if flat.size and not (flat.min() >= 0 and flat.max() < n):
        raise ValueError(f"an index is not in range({n})")
    high_base = math.isqrt(n - 1) + 1
    bases = _uint64(high_base), _uint64(-(-n // high_base))
    keys = _keys(seed, epoch)
    result = _network(flat.astype(np.uint64), *bases, keys)
    while (outside := np.flatnonzero(result >= n)).size:
        result[outside] = _network(result[outside], *bases, keys)
    return result.astype(np.int64).reshape(np.shape(index))


def _keys(seed: int, epoch: int) -> UInt64:
    """The round keys, shape [rounds, 1]."""
    digest = hashlib.blake2b(f"{seed}:{epoch}".encode(), digest_size=8 * _ROUNDS).digest()
    return np.frombuffer(digest, "<u8").astype(np.uint64).reshape(_ROUNDS, 1)


def _network(x: UInt64, high_base: UInt64, low_base: UInt64, keys: UInt64) -> UInt64:
    """The Feistel network: a permutation of range(high_base * low_base), for x of shape [n]."""
    high, low = x // low_base, x % low_base
    for key_of_low, key_of_high in zip(keys[::2], keys[1::2], strict=True):
        high = (high + _mix(low, key_of_low)) % high_base
        low = (low + _mix(high, key_of_high)) % low_base
    return high * low_base + low


def _mix(x: UInt64, key: UInt64) -> UInt64:
    """A pseudorandom function of a digit; below 2**44, so that adding a digit cannot overflow.

    Multiply, xor-shift, multiply, with the factors of SplitMix64's finaliser (Stafford's variant
    13); the high bits of the last product depend on every bit of the digit.
    """
    x = (x + key) * _FIRST_FACTOR
    x = (x ^ (x >> _HALF)) * _SECOND_FACTOR
    return x >> _LOW_BITS
