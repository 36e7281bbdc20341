"""Prefix language modelling: the text after a prefix is predicted (Raffel et al. 2019, section
3.2.1)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scaling.objectives.noise.keys import UInt64, below
from scaling.objectives.noise.rows import Bool, Ids, Integers, first, pack


def prefix_lengths(key_B: UInt64, length: int) -> NDArray[np.int64]:
    """Prefix lengths, uniform over 1 ... length - 1, shape [B].

    Raises:
        ValueError: the text is shorter than two tokens.
    """
    if length < 2:
        raise ValueError(f"length = {length} has no room for a prefix and what follows it")
    return 1 + below(key_B, 1, length - 1)[:, 0]


def prefix_mask(prefix_B: Integers, length: int) -> tuple[Bool, NDArray[np.float32]]:
    """Prefix mask and loss weights of a decoder.

    Input t is token t of a row and its target is token t + 1, for t below `length`.

    Args:
        prefix_B: prefix lengths, at least 1.
        length: number of inputs in a row.

    Returns:
        True for the inputs in the prefix, which all tokens attend to, and a weight for each
        target: 1 after the prefix, 0 in it. Each shape [B, length].
    """
    return first(prefix_B, length), (~first(prefix_B - 1, length)).astype(np.float32)


def split_at_prefix(
    prefix_B: Integers, ids_BT: Integers, eos: int | None, pad: int
) -> tuple[Ids, Bool, Ids, Bool]:
    """Split rows at their prefix, into sources and targets of an encoder-decoder.

    Args:
        prefix_B: prefix lengths, from 1 to T - 1.
        ids_BT: the text.
        eos: id at the end of source and target; None adds none.
        pad: id of padding, on the right.

    Returns:
        Source, its mask of text, target, its mask of text. All have the largest possible width,
        T - 1, and one more for `eos`.
    """
    length = ids_BT.shape[1]
    end = () if eos is None else (eos,)
    width = length - 1 + len(end)
    in_prefix = first(prefix_B, length)
    rest_B = length - prefix_B
    return (
        pack(ids_BT[in_prefix], prefix_B, pad, width, tail=end),
        first(prefix_B + len(end), width),
        pack(ids_BT[~in_prefix], rest_B, pad, width, tail=end),
        first(rest_B + len(end), width),
    )
