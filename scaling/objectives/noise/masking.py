"""Masked language modelling: some tokens are chosen, and what the model sees of them is corrupted
(Devlin et al. 2018, "BERT: Pre-training of Deep Bidirectional Transformers", section 3.1).

    text      <cls> I love   this red car
    inputs    <cls> I <mask> this red car
    targets           love

A new key for each epoch makes the masking dynamic; keys that come back make it static (Liu et al.
2019, "RoBERTa", section 4.1).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scaling.config.objectives import MASK_SHARE, RANDOM_SHARE
from scaling.objectives.noise.random import (
    UInt64,
    bits,
    bits_at,
    columns,
    distinct,
    fold,
    to_below,
    to_uniform,
)
from scaling.objectives.noise.rows import Bool, Integers

_REPLACEMENT = 1  # the stream of random tokens; what becomes of a token has the key's own
_NEVER = np.array(2**64 - 1, np.uint64)


def masked_count(maskable_B: Integers, rate: float) -> NDArray[np.int64]:
    """How many of so many maskable tokens are chosen: the nearest whole number to `rate` of them,
    at least one where there is one. Shape [B].

    Raises:
        ValueError: the rate is not from 0 to 1.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate = {rate} is not from 0 to 1")
    nearest_B: NDArray[np.int64] = np.rint(maskable_B * rate).astype(np.int64)
    return np.minimum(np.maximum(nearest_B, 1), maskable_B)


def choose_tokens(key_B: UInt64, maskable_BT: Bool, rate: float) -> Bool:
    """Choose `masked_count` tokens of each row; every set of so many is equally likely.

    Args:
        key_B: a key for each row.
        maskable_BT: tokens that may be chosen.
        rate: part of them that is.

    Returns:
        Shape [B, T].
    """
    budget_B = masked_count(maskable_BT.sum(axis=1), rate)
    draw_BT = np.where(maskable_BT, distinct(bits(key_B, maskable_BT.shape[1])), _NEVER)
    last_B = np.maximum(budget_B, 1) - 1
    ordered_BT = np.partition(draw_BT, np.unique(last_B), axis=1)
    return maskable_BT & (draw_BT <= np.take_along_axis(ordered_BT, last_B[:, None], axis=1))


def choose_words(key_B: UInt64, maskable_BT: Bool, starts_BT: Bool, rate: float) -> Bool:
    """Choose whole words: in random order each one that keeps within `masked_count`, as BERT's
    whole-word masking does it. A row whose words are all longer has none.

    Args:
        key_B: a key for each row.
        maskable_BT: tokens that may be chosen.
        starts_BT: tokens that begin a word; see `words`.
        rate: part of the maskable tokens that is chosen at most.

    Returns:
        Shape [B, T].
    """
    word_BT, length_BW = words(maskable_BT, starts_BT)
    if not length_BW.size:
        return np.zeros_like(maskable_BT)
    left_B1 = masked_count(maskable_BT.sum(axis=1), rate)[:, None]
    order_BW = columns(np.sort(distinct(bits(key_B, length_BW.shape[1])), axis=1))
    length_BW = np.take_along_axis(length_BW, order_BW, axis=1)
    taken_BW = np.zeros(length_BW.shape, np.bool_)
    open_BW = length_BW > 0
    while True:
        # All that fit one after the other, up to the first that does not. It is longer than what
        # is left then, so that each round is rid of one length of word at least.
        open_BW &= length_BW <= left_B1
        total_BW = np.cumsum(np.where(open_BW, length_BW, 0), axis=1)
        new_BW = open_BW & (total_BW <= left_B1)
        if not new_BW.any():
            break
        taken_BW |= new_BW
        open_BW &= ~new_BW
        left_B1 = left_B1 - np.where(new_BW, length_BW, 0).sum(axis=1, keepdims=True)
    chosen_BW = np.empty_like(taken_BW)
    np.put_along_axis(chosen_BW, order_BW, taken_BW, axis=1)
    return maskable_BT & np.take_along_axis(chosen_BW, np.maximum(word_BT, 0), axis=1)


def words(maskable_BT: Bool, starts_BT: Bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The words of each row: a start and what follows it up to the next start, or to a token that
    cannot be masked, after which a new word begins in any case.

    Returns:
        The number of each maskable token's word in its row, from 0, shape [B, T], and the tokens of
        each word, 0 after a row's last, shape [B, most words in a row].
    """
    begins_BT = maskable_BT & starts_BT
    begins_BT[:, 0] = maskable_BT[:, 0]
    begins_BT[:, 1:] |= maskable_BT[:, 1:] & ~maskable_BT[:, :-1]
    word_BT = np.cumsum(begins_BT, axis=1) - 1
    rows, most = len(word_BT), int(word_BT[:, -1].max(initial=-1)) + 1
    flat_BT = word_BT + most * np.arange(rows)[:, None]
    length = np.bincount(flat_BT[maskable_BT], minlength=rows * most)
    return word_BT, length.reshape(rows, most)


def corrupt(
    key_B: UInt64,
    ids_BT: Integers,
    chosen_BT: Bool,
    *,
    mask: int,
    replacements: Integers,
    mask_share: float = MASK_SHARE,
    random_share: float = RANDOM_SHARE,
    unit_BT: Integers | None = None,
) -> Integers:
    """What the model sees: of the chosen tokens most give way to `mask`, some to a random token,
    and the rest stay, so that no state can rely on what it sees.

    Args:
        key_B: a key for each row, not the one that the tokens were chosen with.
        ids_BT: the text.
        chosen_BT: the tokens to predict.
        mask: id that stands for a hidden token.
        replacements: ids that random tokens are drawn from: those that stand for text.
        mask_share: part that becomes `mask`.
        random_share: part that becomes random.
        unit_BT: numbers of spans whose tokens fare alike, though each random token is drawn by
            itself (Joshi et al. 2019, section 3.1); by default each token is by itself.

    Returns:
        Token ids, shape [B, T].

    Raises:
        ValueError: the shares are no parts of a whole, or there is nothing to replace with.
    """
    if min(mask_share, random_share) < 0 or mask_share + random_share > 1:
        raise ValueError(f"mask_share = {mask_share} and random_share = {random_share} are no "
                         "parts of a whole")
    if random_share > 0 and not len(replacements):
        raise ValueError("there are no replacements to draw random tokens from")
    row, place = np.nonzero(chosen_BT)
    fate = to_uniform(bits_at(key_B[row], place if unit_BT is None else unit_BT[row, place]))
    hidden = fate < mask_share
    other = ~hidden & (fate < mask_share + random_share)
    seen_BT = ids_BT.copy()
    seen_BT[row[hidden], place[hidden]] = mask
    row, place = row[other], place[other]
    draw = bits_at(fold(key_B, _REPLACEMENT)[row], place)
    seen_BT[row, place] = replacements[to_below(draw, len(replacements))]
    return seen_BT
