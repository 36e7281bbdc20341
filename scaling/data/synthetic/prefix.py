"""The entropy of a prefix of a string of a grammar with unique derivations.

Suppose the first r tokens of a string are observed. Every symbol whose tokens are all among them
(a whole symbol) is known, and so is its rule. One symbol F_l of each level l is truncated: the
root, its truncated child, and so on; d_l, the digit of r for children^(l - 1), is the number of
whole children of F_l. With C_l the symbols of these children, the chain rule gives

    H(x_1 .. x_r) = H(C_L, C_L-1, .. C_1) + the entropy of the rules of all whole symbols

since the rule of a whole symbol is independent of everything else. The C_l are emitted by the
hidden Markov chain F_L, F_L-1, .. F_1: F_l and its rule determine C_l and F_l-1. The forward
algorithm below propagates the belief about F_l from the top, for each possible C_L .. C_l+1.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scaling.data.synthetic.distributions import Floats, Ints, entropy, sum_by_index

LARGEST_BELIEF = 2**21
"""Largest number of (observation, symbol) pairs in a belief."""

BoundSide = Literal["low", "high"]


def prefix_entropy(
    root: Floats, rule: Floats, right_sides: tuple[NDArray[np.int32], ...], tokens: int
) -> tuple[float, float]:
    """Lower and upper bound of H(C_L .. C_1), in nats; equal if it is exact.

    It is exact as long as there are at most LARGEST_BELIEF pairs of an observation C_L .. C_l+1 and
    a symbol F_l. If the next level would have more, the lower bound conditions on F_l, and the
    upper bound drops the condition on C_L .. C_l+1. Since C_l .. C_1 depend on C_L .. C_l+1 through
    F_l only,

        H(C_l .. C_1 | F_l) <= H(C_l .. C_1 | C_L .. C_l+1) <= H(C_l .. C_1)

    and the contribution of the levels above is exact.

    Args:
        root: Probability of each symbol of the highest level, shape [symbols].
        rule: Probability of each rule of a symbol, shape [rules].
        right_sides: Right sides of the rules of each level, lowest first, shape [symbols, rules,
            children].
        tokens: r, less than the tokens of a whole string.
    """
    children = right_sides[0].shape[-1]
    digits = [tokens // children**level % children for level in range(len(right_sides))]
    lowest = next((level for level, digit in enumerate(digits) if digit), len(right_sides))
    observed = list(zip(right_sides, digits, strict=True))[lowest:][::-1]
    low, exact = _propagate(root, rule, observed, "low")
    return low, low if exact else _propagate(root, rule, observed, "high")[0]


class _Belief(NamedTuple):
    """Joint distribution of the observation and the truncated symbol, as a list of pairs with
    non-zero probability."""

    observation: Ints
    """Index of the observation, from 0."""
    symbol: Ints
    p: Floats


def _propagate(
    root: Floats, rule: Floats, levels: list[tuple[NDArray[np.int32], int]], side: BoundSide
) -> tuple[float, bool]:
    """A bound in nats, and whether it is exact; `levels` are pairs of right sides and d_l."""
    symbols = len(root)
    belief = _Belief(np.zeros(symbols, np.int64), np.arange(symbols), root)
    nats, exact = 0.0, True
    for right_sides, digit in levels:
        if len(belief.p) * len(rule) > max(LARGEST_BELIEF, symbols * len(rule)):
            exact = False
            belief = _simplify(belief, symbols, side)
        before = _observation_entropy(belief)
        belief = _descend(belief, rule, right_sides, digit)
        nats += _observation_entropy(belief) - before
    return nats, exact


def _descend(
    belief: _Belief, rule: Floats, right_sides: NDArray[np.int32], digit: int
) -> _Belief:
    """Propagate a belief from F_l to F_l-1, whose first `digit` siblings are observed."""
    symbols = len(right_sides)
    right = right_sides.reshape(-1, right_sides.shape[-1])
    rules = (belief.symbol[:, None] * len(rule) + np.arange(len(rule))).reshape(-1)
    p = np.outer(belief.p, rule).reshape(-1)
    observation = np.repeat(belief.observation, len(rule))
    if digit:
        code = right[:, :digit].astype(np.int64) @ symbols ** np.arange(digit)
        _, siblings = np.unique(code, return_inverse=True)
        _, observation = np.unique(observation * len(right) + siblings[rules],
                                   return_inverse=True)
    pair, place = np.unique(observation * symbols + right[rules, digit], return_inverse=True)
    return _Belief(pair // symbols, pair % symbols, sum_by_index(place, p))


def _simplify(belief: _Belief, symbols: int, side: BoundSide) -> _Belief:
    """Reveal the symbol to the observer (lower bound), or discard the observation (upper bound)."""
    p = sum_by_index(belief.symbol, belief.p, symbols)
    observation = np.arange(symbols) if side == "low" else np.zeros(symbols, np.int64)
    return _Belief(observation, np.arange(symbols), p)


def _observation_entropy(belief: _Belief) -> float:
    return entropy(sum_by_index(belief.observation, belief.p))
