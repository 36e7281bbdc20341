"""The five ways in which BART spoils a text (Lewis et al. 2019, "BART: Denoising
Sequence-to-Sequence Pre-training", section 2.2); the targets are the text as it was.

Every transform takes a key for each row, token ids [B, T] and which of them are text [B, T], True
up to a row's length, and gives back the same two; what is no text holds `pad`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from scaling.config.objectives import Noise
from scaling.objectives.noise.random import UInt64, below, bits, fold, uniform
from scaling.objectives.noise.rows import Bool, Ids, Integers, first, pack, ranks


def denoising(
    key_B: UInt64,
    ids_BT: Integers,
    valid_BT: Bool,
    sentence_end_BT: Bool,
    *,
    mask: int,
    pad: int,
    noises: Sequence[Noise] = ("permutation", "infilling"),
    rate: float = 0.3,
    mean_span: float = 3.0,
) -> tuple[Ids, Bool]:
    """Several noises, one after the other; by default those of BART's large model (section 4.2):
    sentences permuted, and 30% of the tokens infilled.

    Args:
        key_B: a key for each row; each noise has a stream of its own.
        ids_BT: the text.
        valid_BT: which of it is text.
        sentence_end_BT: True for the last token of a sentence; read by "permutation" alone.
        mask: id that stands where something was taken out.
        pad: id of what is no text.
        noises: which ones; they are applied in the order of `Noise`, whatever theirs is here.
        rate: part of the tokens that is masked, deleted or infilled.
        mean_span: of infilling.

    Raises:
        ValueError: there is no such noise, or the rate or the mean is out of range.
    """
    if unknown := set(noises) - set(get_args(Noise)):
        raise ValueError(f"noises: {sorted(unknown)} are not among {', '.join(get_args(Noise))}")
    ids, valid = ids_BT.astype(np.int32), valid_BT
    for stream, noise in enumerate(get_args(Noise)):
        if noise not in noises:
            continue
        key = fold(key_B, stream)
        if noise == "permutation":
            ids, valid = permute_sentences(key, ids, valid, sentence_end_BT, pad)
        elif noise == "masking":
            ids, valid = mask_tokens(key, ids, valid, rate, mask, pad)
        elif noise == "deletion":
            ids, valid = delete_tokens(key, ids, valid, rate, pad)
        elif noise == "infilling":
            ids, valid = infill(key, ids, valid, rate, mean_span, mask, pad)
        else:
            ids, valid = rotate(key, ids, valid, pad)
    return ids, valid


def mask_tokens(
    key_B: UInt64, ids_BT: Integers, valid_BT: Bool, rate: float, mask: int, pad: int
) -> tuple[Ids, Bool]:
    """Token masking: every token gives way to `mask` with probability `rate`."""
    hidden = uniform(key_B, ids_BT.shape[1]) < np.float32(_checked(rate))
    return np.where(valid_BT, np.where(hidden, mask, ids_BT), pad).astype(np.int32), valid_BT


def delete_tokens(
    key_B: UInt64, ids_BT: Integers, valid_BT: Bool, rate: float, pad: int
) -> tuple[Ids, Bool]:
    """Token deletion: every token goes with probability `rate`, and nothing says where."""
    stays = valid_BT & (uniform(key_B, ids_BT.shape[1]) >= np.float32(_checked(rate)))
    count, width = stays.sum(axis=1), ids_BT.shape[1]
    return pack(ids_BT[stays], count, pad, width), first(count, width)


def infill(
    key_B: UInt64,
    ids_BT: Integers,
    valid_BT: Bool,
    rate: float,
    mean_span: float,
    mask: int,
    pad: int,
) -> tuple[Ids, Bool]:
    """Text infilling: spans of Poisson-distributed lengths give way to one `mask` each; a span of
    length 0 inserts one.

    The spans of a row hold round(rate * length) of its tokens: lengths are drawn until they
    suffice, and the last one drawn is cut to what is left. Each span lies at a uniformly drawn
    place among the tokens that stay; two spans may touch, and leave a mask each.

    Args:
        key_B: a key for each row.
        ids_BT: the text.
        valid_BT: which of it is text.
        rate: part of the tokens that goes, from 0 to 1.
        mean_span: of the Poisson distribution, positive.
        mask: id that stands for a span.
        pad: id of what is no text.

    Raises:
        ValueError: the rate or the mean is out of range.
    """
    if not 0 < mean_span < math.inf:
        raise ValueError(f"mean_span = {mean_span} is not a positive number")
    width = ids_BT.shape[1]
    length = valid_BT.sum(axis=1)
    noise = np.rint(length * _checked(rate)).astype(np.int64)
    stays = length - noise
    drawn, used = _span_draws(fold(key_B, 0), noise, mean_span, width - stays)
    rows, draws = drawn.shape
    spans = used.sum(axis=1)
    # Every span lies in a gap: so many of the tokens that stay come before it. The spans in the
    # order of their gaps; the draw's number breaks ties, and says whose length it is.
    gap = below(fold(key_B, 1), draws, (stays + 1)[:, None])
    place = np.where(used, gap * draws + np.arange(draws), np.iinfo(np.int64).max)
    real = first(spans, draws)
    row = np.nonzero(real)[0]
    gap, draw = np.divmod(np.sort(place, axis=1)[real], draws)
    size = drawn[row, draw]
    before = np.cumsum(size) - size - (np.cumsum(noise) - noise)[row]
    hidden = np.zeros((rows, width), np.bool_)
    hidden[np.repeat(row, size), np.repeat(gap + before, size) + ranks(size)] = True
    # A mask comes after the tokens that stay before it and the masks before it.
    masks = np.zeros((rows, width), np.bool_)
    masks[row, gap + ranks(spans)] = True
    valid = first(stays + spans, width)
    ids = np.full((rows, width), pad, np.int32)
    ids[valid & ~masks] = ids_BT[valid_BT & ~hidden]
    ids[masks] = mask
    return ids, valid


def permute_sentences(
    key_B: UInt64, ids_BT: Integers, valid_BT: Bool, sentence_end_BT: Bool, pad: int
) -> tuple[Ids, Bool]:
    """Sentence permutation: the sentences of a row in a random order, all orders equally likely.

    Args:
        key_B: a key for each row.
        ids_BT: the text.
        valid_BT: which of it is text.
        sentence_end_BT: True for the last token of a sentence; what follows the last one is a
            sentence too.
        pad: id of what is no text.
    """
    width = ids_BT.shape[1]
    length = valid_BT.sum(axis=1)
    last = first(length, width) & ~first(length - 1, width)
    closing = np.flatnonzero((sentence_end_BT & valid_BT) | last)
    row = closing // width
    # All the text in one line: a sentence begins where the one before it ends, also the first one
    # of a row.
    stop = closing + 1 - (row * width - (np.cumsum(length) - length)[row])
    size = np.diff(stop, prepend=0)
    sentences = np.bincount(row, minlength=len(length))
    chance = bits(key_B, int(sentences.max(initial=0)))[row, ranks(sentences)]
    order = np.lexsort((chance, row))
    size, begin = size[order], (stop - size)[order]
    text = ids_BT[valid_BT][np.repeat(begin, size) + ranks(size)]
    return pack(text, length, pad, width), valid_BT


def rotate(key_B: UInt64, ids_BT: Integers, valid_BT: Bool, pad: int) -> tuple[Ids, Bool]:
    """Document rotation: the row begins with a token drawn uniformly, and what was before it comes
    last."""
    length = np.maximum(valid_BT.sum(axis=1), 1)[:, None]
    source = (np.arange(ids_BT.shape[1]) + below(key_B, 1, length)) % length
    rotated = np.take_along_axis(ids_BT, source, axis=1)
    return np.where(valid_BT, rotated, pad).astype(np.int32), valid_BT


def _span_draws(
    key_B: UInt64, noise_B: NDArray[np.int64], mean: float, most_B: NDArray[np.int64]
) -> tuple[NDArray[np.int64], Bool]:
    """Poisson lengths whose sum is `noise_B`, at most `most_B` of them.

    Returns:
        Lengths, zero where there is no span, and which draws are spans: each shape [B, draws].
    """
    # The sum of so many draws is Poisson itself; its mean is eight standard deviations and more
    # above what is needed, so that the last draw allowed is never reached. Were it, or were there
    # no room for so many masks, then the last span would take all that is left.
    enough = np.ceil((noise_B + 8 * np.sqrt(noise_B) + 40) / mean).astype(np.int64)
    allowed = np.where(noise_B > 0, np.minimum(enough, most_B), 0)
    draws = int(allowed.max(initial=0))
    drawn = np.searchsorted(_poisson(mean), uniform(key_B, draws), side="right")
    left = noise_B[:, None] - (np.cumsum(drawn, axis=1) - drawn)
    number = np.arange(draws)
    used = (left > 0) & (number < allowed[:, None])
    last = number == allowed[:, None] - 1
    return np.where(used, np.where(last, left, np.minimum(drawn, left)), 0), used


def _poisson(mean: float) -> NDArray[np.float64]:
    """Probabilities of at most 0, 1, 2 ..., up to where float32 has no more to tell."""
    count = math.ceil(mean + 10 * math.sqrt(mean)) + 20
    log_mass = [k * math.log(mean) - mean - math.lgamma(k + 1) for k in range(count)]
    return np.cumsum(np.exp(log_mass))


def _checked(rate: float) -> float:
    if not 0 <= rate <= 1:
        raise ValueError(f"rate = {rate} is not from 0 to 1")
    return rate
