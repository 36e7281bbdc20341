"""The entropy of the beginning of a string of a grammar, where every string has one derivation.

Let the first r tokens of a string be seen. Every symbol all of whose tokens are among them is
known, and so is its rule. What is cut is one symbol F_l of each level l: the root's symbol, the
child of it that is cut, and so on; d_l, the digit of r for children^(l - 1), is how many children
of F_l are whole. With C_l for the symbols of these children, the chain rule gives

    H(x_1 .. x_r) = H(C_L, C_L-1, .. C_1) + the entropy of the rules of all whole symbols

for the rule of a whole symbol depends on nothing else. The C_l are emitted by the hidden Markov
chain F_L, F_L-1, .. F_1: F_l and the rule that is taken determine C_l and F_l-1. Below the
beliefs about F_l are followed from the top, one for each thing that C_L .. C_l+1 can be.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scaling.data.synthetic.distributions import Floats, Ints, entropy, sums

LARGEST_BELIEF = 2**21
"""Pairs of what was seen and a symbol that are followed at most."""

Side = Literal["low", "high"]


def prefix_entropy(
    root: Floats, rule: Floats, writes: tuple[NDArray[np.int32], ...], tokens: int
) -> tuple[float, float]:
    """Bounds on H(C_L .. C_1), in nats; equal where it is exact.

    It is exact while there are at most LARGEST_BELIEF pairs of what C_L .. C_l+1 can be and a
    symbol F_l. Where the next level would have more, the lower bound tells F_l to the
    predictor, and the upper bound lets it forget C_L .. C_l+1. As C_l .. C_1 depend on
    C_L .. C_l+1 through F_l alone,

        H(C_l .. C_1 | F_l) <= H(C_l .. C_1 | C_L .. C_l+1) <= H(C_l .. C_1)

    and the levels above have had their exact share by then.

    Args:
        root: probability of each symbol of the highest level, shape [symbols].
        rule: probability of each rule of a symbol, shape [rules].
        writes: of each level, the lowest first, shape [symbols, rules, children].
        tokens: r, less than those of a whole string.
    """
    children = writes[0].shape[-1]
    digits = [tokens // children**level % children for level in range(len(writes))]
    lowest = next((level for level, digit in enumerate(digits) if digit), len(writes))
    seen = list(zip(writes, digits, strict=True))[lowest:][::-1]
    low, exact = _follow(root, rule, seen, "low")
    return low, low if exact else _follow(root, rule, seen, "high")[0]


class _Belief(NamedTuple):
    """The joint distribution of what was seen and the symbol that is cut; the pairs that have any
    probability."""

    seen: Ints
    """Which of the things that can have been seen, numbered from 0."""
    symbol: Ints
    p: Floats


def _follow(
    root: Floats, rule: Floats, levels: list[tuple[NDArray[np.int32], int]], side: Side
) -> tuple[float, bool]:
    """A bound in nats, and whether it is exact; `levels` have what they write and d_l."""
    symbols = len(root)
    belief = _Belief(np.zeros(symbols, np.int64), np.arange(symbols), root)
    nats, exact = 0.0, True
    for writes, digit in levels:
        if len(belief.p) * len(rule) > max(LARGEST_BELIEF, symbols * len(rule)):
            exact = False
            belief = _simplify(belief, symbols, side)
        before = _seen_entropy(belief)
        belief = _descend(belief, rule, writes, digit)
        nats += _seen_entropy(belief) - before
    return nats, exact


def _descend(
    belief: _Belief, rule: Floats, writes: NDArray[np.int32], digit: int
) -> _Belief:
    """From F_l to F_l-1, its first `digit` siblings being seen."""
    right = writes.reshape(-1, writes.shape[-1])
    taken = (belief.symbol[:, None] * len(rule) + np.arange(len(rule))).reshape(-1)
    p = np.outer(belief.p, rule).reshape(-1)
    seen = np.repeat(belief.seen, len(rule))
    if digit:
        code = right[:, :digit].astype(np.int64) @ len(writes) ** np.arange(digit)
        _, siblings = np.unique(code, return_inverse=True)
        _, seen = np.unique(seen * len(right) + siblings[taken], return_inverse=True)
    pair, place = np.unique(seen * len(writes) + right[taken, digit], return_inverse=True)
    return _Belief(pair // len(writes), pair % len(writes), sums(place, p))


def _simplify(belief: _Belief, symbols: int, side: Side) -> _Belief:
    """One belief for each symbol, which is certain of it, or one belief for whatever was seen."""
    p = sums(belief.symbol, belief.p, symbols)
    seen = np.arange(symbols) if side == "low" else np.zeros(symbols, np.int64)
    return _Belief(seen, np.arange(symbols), p)


def _seen_entropy(belief: _Belief) -> float:
    return entropy(sums(belief.seen, belief.p))
