"""Masking for masked language modelling: the choice of tokens, and their corruption (Devlin et al.
2018, "BERT: Pre-training of Deep Bidirectional Transformers", section 3.1).

    text      <cls> I love   this red car
    inputs    <cls> I <mask> this red car
    targets           love

With a new key in each epoch masking is dynamic; with keys that repeat it is static (Liu et al.
2019, "RoBERTa", section 4.1).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scaling.config.objectives import MASK_SHARE, RANDOM_SHARE
from scaling.objectives.noise.keys import (
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

_REPLACEMENT = 1  # stream of random tokens; the kind of corruption uses the key itself
_NEVER = np.array(2**64 - 1, np.uint64)


def masked_count(maskable_B: Integers, rate: float) -> NDArray[np.int64]:
    """Number of tokens to choose, [B]: `rate` times the number of maskable tokens, rounded, and at
    least one if there is one.

    Raises:
        ValueError: the rate is not from 0 to 1.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate = {rate} is not from 0 to 1")
    nearest_B: NDArray[np.int64] = np.rint(maskable_B * rate).astype(np.int64)
    return np.minimum(np.maximum(nearest_B, 1), maskable_B)


def choose_tokens(key_B: UInt64, maskable_BT: Bool, rate: float) -> Bool:
    """Choose `masked_count` tokens of each row, uniformly at random.

    Args:
        key_B: a key for each row.
        maskable_BT: True for tokens that may be chosen.
        rate: share of them to choose.

    Returns:
        Shape [B, T].
    """
    budget_B = masked_count(maskable_BT.sum(axis=1), rate)
    draw_BT = np.where(maskable_BT, distinct(bits(key_B, maskable_BT.shape[1])), _NEVER)
    last_B = np.maximum(budget_B, 1) - 1
    ordered_BT = np.partition(draw_BT, np.unique(last_B), axis=1)
    return maskable_BT & (draw_BT <= np.take_along_axis(ordered_BT, last_B[:, None], axis=1))


def choose_words(key_B: UInt64, maskable_BT: Bool, starts_BT: Bool, rate: float) -> Bool:
    """Choose whole words: in random order each word that keeps the total within `masked_count`, as
    in BERT's whole-word masking. A row whose words are all longer has no chosen tokens.

    Args:
        key_B: a key for each row.
        maskable_BT: True for tokens that may be chosen.
        starts_BT: True for tokens that begin a word; see `words`.
        rate: largest share of the maskable tokens to choose.

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
        # Words that fit one after the other, up to the first that does not. It is longer than the
        # remaining budget, so each round excludes at least one word length.
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
    """Words of each row: a start and the tokens after it, up to the next start or a token that
    cannot be masked, after which a new word begins.

    Returns:
        The index in its row of each maskable token's word [B, T], and the lengths of the words
        [B, W], padded with 0.
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
    """The corrupted text: most chosen tokens become `mask`, some a random token, and the rest are
    unchanged.

    Args:
        key_B: a key for each row, other than that of the choice of tokens.
        ids_BT: the text.
        chosen_BT: True for the tokens to predict.
        mask: id of the mask token.
        replacements: ids of text tokens, from which random tokens are drawn.
        mask_share: share of the chosen tokens that become `mask`.
        random_share: share that become a random token.
        unit_BT: index of the span of each token, if all tokens of a span are corrupted in the same
            way (Joshi et al. 2019, section 3.1); random tokens are still drawn independently. By
            default tokens are corrupted independently.

    Returns:
        Token ids, shape [B, T].

    Raises:
        ValueError: the shares are negative or exceed 1, or there are no replacements.
    """
    if min(mask_share, random_share) < 0 or mask_share + random_share > 1:
        raise ValueError(f"mask_share = {mask_share} and random_share = {random_share} are not "
                         "shares of a whole")
    if random_share > 0 and not len(replacements):
        raise ValueError("there are no replacements to draw random tokens from")
    row, column = np.nonzero(chosen_BT)
    unit = column if unit_BT is None else unit_BT[row, column]
    chance = to_uniform(bits_at(key_B[row], unit))
    masked = chance < mask_share
    random = ~masked & (chance < mask_share + random_share)
    corrupted_BT = ids_BT.copy()
    corrupted_BT[row[masked], column[masked]] = mask
    row, column = row[random], column[random]
    draw = bits_at(fold(key_B, _REPLACEMENT)[row], column)
    corrupted_BT[row, column] = replacements[to_below(draw, len(replacements))]
    return corrupted_BT
