"""Rows of different lengths in one array, padded on the right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]
"""Token ids, rows padded on the right."""
Bool = NDArray[np.bool_]
Integers = NDArray[np.integer[Any]]


def pack(
    flat: Integers | Bool,
    count_B: Integers,
    pad: int,
    width: int | None = None,
    tail: Sequence[int | Integers] = (),
) -> Ids:
    """Rows from their concatenated tokens.

    Args:
        flat: the tokens, or marks of tokens, of all rows, concatenated.
        count_B: number of tokens of each row.
        pad: id of padding, on the right.
        width: of the result; by default that of the longest row.
        tail: ids to append to each row, each one id for all rows or an array [B].

    Returns:
        Token ids, shape [B, width].

    Raises:
        ValueError: a row is longer than `width`.
    """
    longest = int(count_B.max(initial=0)) + len(tail)
    width = longest if width is None else width
    if longest > width:
        raise ValueError(f"a row of {longest} tokens is longer than {width}")
    rows = np.full((len(count_B), width), pad, np.int32)
    rows[first(count_B, width)] = flat
    for offset, ids in enumerate(tail):
        rows[np.arange(len(count_B)), count_B + offset] = ids
    return rows


def first(count_B: Integers, width: int) -> Bool:
    """True for the first `count` entries of each row, shape [B, width]."""
    return np.less(np.arange(width), count_B[:, None])


def ranks(count_N: Integers) -> NDArray[np.int64]:
    """0, 1, ... count - 1 for each count, concatenated, shape [sum of the counts]."""
    end = np.cumsum(count_N)
    return np.arange(end[-1] if len(end) else 0) - np.repeat(end - count_N, count_N)
